"""HTTP: a request passes access_log, routing, auth, request, then its handler, response and compression; or errors."""
