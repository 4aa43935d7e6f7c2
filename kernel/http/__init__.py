"""HTTP: a request passes access_log, routing, auth, request, then its handler, response and compression; or errors.

Listed here is what plugins may import: pages, envelopes, decompression, and what else only some handlers need.
"""

from kernel.conversion import escape_formula
from kernel.deadline import current_deadline
from kernel.http.access_log import RequestRecord
from kernel.http.auth import Authenticator
from kernel.http.compression import DecompressionError, Decompressor, decompress
from kernel.http.concurrency import ConcurrencyLimit
from kernel.http.csv_files import CsvFiles
from kernel.http.forwarding import network_of
from kernel.http.health import CheckResult, worst_status
from kernel.http.lists import ListQuery, list_page
from kernel.http.pagination import Page, cursor_page, numbered_page, page_size_of, read_cursor
from kernel.http.request import is_json_lines, require_json
from kernel.http.resources import Action, Change, Edit, Reference, Resource
from kernel.http.response import Envelope, Listing, Single, envelope, listing, single

__all__ = [
    "Action",
    "Authenticator",
    "Change",
    "CheckResult",
    "ConcurrencyLimit",
    "CsvFiles",
    "DecompressionError",
    "Decompressor",
    "Edit",
    "Envelope",
    "ListQuery",
    "Listing",
    "Page",
    "Reference",
    "RequestRecord",
    "Resource",
    "Single",
    "current_deadline",
    "cursor_page",
    "decompress",
    "envelope",
    "escape_formula",
    "is_json_lines",
    "list_page",
    "listing",
    "network_of",
    "numbered_page",
    "page_size_of",
    "read_cursor",
    "require_json",
    "single",
    "worst_status",
]
