"""The way of a request: log, routes, parameters, responses, problems, health."""
