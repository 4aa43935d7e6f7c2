"""HTTP: a request passes access_log, routing, auth, request, then its handler, response and compression; or errors.

Listed here is what plugins may import: pages, envelopes, decompression, and what else only some handlers need.
"""

from kernel.contracts import ErrorBody, Example
from kernel.conversion import escape_controls, escape_formula
from kernel.deadline import current_deadline
from kernel.http.access_log import RequestRecord
from kernel.http.auth import ACCOUNT_COOKIE, Authenticator, SignInPages, named_account
from kernel.http.charts import Chart, HeatMap, Mark, Series, Sparkline, format_value
from kernel.http.compression import DecompressionError, Decompressor, decompress
from kernel.http.concurrency import ConcurrencyLimit
from kernel.http.cookies import make_cookie, read_cookies
from kernel.http.csv_files import CsvFiles
from kernel.http.event_streams import LastEventId, ServerEvent
from kernel.http.forms import Choice, Form, FormResponse, NoFields, Submitted, make_form, redirect
from kernel.http.forwarding import network_of
from kernel.http.health import CheckResult, worst_status
from kernel.http.lists import ListQuery, list_page
from kernel.http.notices import Notice
from kernel.http.pages import JOB_EVENTS, JOB_PAGE, Tile, compare, is_own_path, local_link, page_link
from kernel.http.pagination import Page, cursor_page, numbered_page, page_size_of, read_cursor
from kernel.http.panels import Panel
from kernel.http.request import is_json_lines, media_type, require_json
from kernel.http.resource_pages import ResourcePages
from kernel.http.resources import Action, Change, Edit, Reference, Resource
from kernel.http.response import (
    Envelope,
    Listing,
    PreparedResponse,
    Single,
    TemplateResponse,
    envelope,
    listing,
    single,
)
from kernel.http.response_headers import page_policy
from kernel.http.search import Search, SearchResult
from kernel.masking import mask
from kernel.tracking import outgoing_request

__all__ = [
    "ACCOUNT_COOKIE",
    "JOB_EVENTS",
    "JOB_PAGE",
    "Action",
    "Authenticator",
    "Change",
    "Chart",
    "CheckResult",
    "Choice",
    "ConcurrencyLimit",
    "CsvFiles",
    "DecompressionError",
    "Decompressor",
    "Edit",
    "Envelope",
    "ErrorBody",
    "Example",
    "Form",
    "FormResponse",
    "HeatMap",
    "LastEventId",
    "ListQuery",
    "Listing",
    "Mark",
    "NoFields",
    "Notice",
    "Page",
    "Panel",
    "PreparedResponse",
    "Reference",
    "RequestRecord",
    "Resource",
    "ResourcePages",
    "Search",
    "SearchResult",
    "Series",
    "ServerEvent",
    "SignInPages",
    "Single",
    "Sparkline",
    "Submitted",
    "TemplateResponse",
    "Tile",
    "compare",
    "current_deadline",
    "cursor_page",
    "decompress",
    "envelope",
    "escape_controls",
    "escape_formula",
    "format_value",
    "is_json_lines",
    "is_own_path",
    "list_page",
    "listing",
    "local_link",
    "make_cookie",
    "make_form",
    "mask",
    "media_type",
    "named_account",
    "network_of",
    "numbered_page",
    "outgoing_request",
    "page_link",
    "page_policy",
    "page_size_of",
    "read_cookies",
    "read_cursor",
    "redirect",
    "require_json",
    "single",
    "worst_status",
]
