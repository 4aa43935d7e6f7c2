"""Fetch the sources over HTTP.

``sources`` fetches all of them at once and turns the failure of one into its result; ``pages`` follows the pages of a
source; ``client`` sends requests, with redirects and retries. ``addresses`` decides which URLs may be requested,
``limits`` bounds bytes, time and requests per host; ``results`` has what comes out.
"""
