"""What the handlers of pages have in common: links that keep parameters, and figures beside what they were before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode

from kernel.http.charts import Sparkline, Unit, format_value
from kernel.http.request import Request

# Of a run of a job: its page, and its events. Plugins that start jobs link to them.
JOB_PAGE = "/system/jobs/{id}/"
JOB_EVENTS = "/api/v1/jobs/{id}/events/"

# Of a duration, by its size in seconds: its unit, and the unit of the rest with its size.
_DURATIONS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def page_link(path: str, request: Request | None = None, **parameters: Any) -> str:
    """Return a link to a page.

    Args:
        path: Of the page.
        request: The request whose parameters it keeps; None for none.
        parameters: Others, and new values; None removes one. Times become ISO 8601 in UTC.
    """
    kept = dict(parse_qsl(request.query_string)) if request is not None else {}
    pairs = [(name, _as_text(value)) for name, value in {**kept, **parameters}.items() if value is not None]
    return f"{path}?{urlencode(pairs)}" if pairs else path


def _as_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def is_own_path(path: str) -> bool:
    """Tell whether a browser takes a text for a path of this service, and not for another host.

    Browsers read a backslash as a slash, and leave out control characters (https://url.spec.whatwg.org/#url-parsing).
    """
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()


def local_link(link: str | None, request: Request) -> str | None:
    """Return a link of the API, such as ``next`` of a list, without scheme and host: pages have their own paths."""
    return None if link is None else link.removeprefix(request.origin)


def input_time(time: datetime | None) -> str:
    """Return the value of an input of type ``datetime-local``, in UTC."""
    return "" if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def format_duration(seconds: float | None) -> str:
    """Return a duration as people read it: ``850 ms``, ``12.3 s``, ``3 min 20 s``, ``4 d 3 h``; a dash for None."""
    if seconds is None or seconds < 60:
        return format_value(None if seconds is None else max(0.0, seconds) * 1000, "ms")
    size_s, unit, rest_size_s, rest_unit = next(each for each in _DURATIONS if seconds >= each[0])
    rest = int(seconds % size_s) // rest_size_s
    return f"{int(seconds) // size_s} {unit}" + (f" {rest} {rest_unit}" if rest else "")


def first_upper(text: str) -> str:
    """Return a text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def format_bytes(count: float | None) -> str:
    """Return an amount of memory as people read it: ``512 B``, ``1.5 KiB``, ``23.4 GiB``; a dash for None."""
    if count is None:
        return format_value(None, "count")
    power = 0
    while count >= 1024 and power < len(_BYTE_UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:,.{1 if power and count < 100 else 0}f} {_BYTE_UNITS[power]}"


class Tile(NamedTuple):
    """A figure, and what it was before; templates show them with ``ui.tiles``.

    Args:
        label: Its name.
        value: As text.
        change: Such as ``+12 %``; None if there is nothing to compare with.
        direction: ``up``, ``down`` or ``same``.
        meaning: ``good``, ``bad`` or neither.
        unit: Of the value, if that does not have it.
        href: Leads to more about it.
        trend: Its course.
    """

    label: str
    value: str
    change: str | None = None
    direction: Literal["up", "down", "same"] = "same"
    meaning: Literal["good", "bad", ""] = ""
    unit: str = ""
    href: str | None = None
    trend: Sparkline | None = None


def compare(label: str, now: float | None, then: float | None, unit: Unit, *, less_is_better: bool | None) -> Tile:
    """Return a figure with its change.

    Args:
        label: Its name.
        now: Its value; None if there is none.
        then: What it was before.
        unit: Of both.
        less_is_better: Whether a fall is good; None if neither is.
    """
    value = format_value(now, unit)
    if now is None or then is None or (not then and unit in {"count", "rate"}):
        return Tile(label, value)
    if not then:
        was = f"was {format_value(then, unit)}"
        return Tile(label, value, was, "up", "bad" if less_is_better else "") if now else Tile(label, value, was)
    change = (now - then) / then
    if abs(change) < 0.005:
        return Tile(label, value, "0 %")
    meaning: Literal["good", "bad", ""] = ""
    if less_is_better is not None:
        meaning = "good" if (change < 0) == less_is_better else "bad"
    text = f"{change * 100:+,.0f} %" if abs(change) < 10 else f"\N{MULTIPLICATION SIGN}{now / then:,.0f}"
    return Tile(label, value, text.replace("-", "\N{MINUS SIGN}"), "up" if change > 0 else "down", meaning)
