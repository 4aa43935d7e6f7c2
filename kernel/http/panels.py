"""Panels: the parts of a page that are loaded on their own, so that one that fails leaves the others standing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kernel.deadline import current_deadline
from kernel.errors import ApiError, ClientGoneError, InternalError, NotFoundError
from kernel.http.request import Request
from kernel.http.templating import Templates

if TYPE_CHECKING:
    from markupsafe import Markup

# Names the one panel that a script of the page asks for.
PANEL_HEADER = "X-Panel"
# Panels that would begin to load later than this after the first are left to the script of pages: what is there already
# is shown meanwhile. Only for browsers whose script says with a cookie that it runs: others get the whole page at once.
LOADING_BUDGET_S = 0.3
SCRIPTS_COOKIE = "scripts"


class Panel(msgspec.Struct, frozen=True):
    """A part of a page. Its page shows it with ``{{ panel("requests") }}``, by its name in ``panels``.

    Args:
        load: Returns the variables of the template. What it raises is shown in place of the panel.
        template: Its name, such as ``shop/requests_panel.html``. It is the content alone and extends no other.
        title: The heading; None for no heading.
        refresh_s: After how many seconds the script of pages loads it again; None for never.
        framed: Whether it has a frame; one whose parts have frames, such as tiles, needs none around them.
    """

    load: Callable[[], Mapping[str, Any]]
    template: str
    title: str | None
    refresh_s: int | None = None
    framed: bool = True


def render_page(
    request: Request, templates: Templates, template: str, context: Mapping[str, Any], panels: Mapping[str, Panel]
) -> tuple[bytes, bool]:
    """Return a page with its panels, or the one panel that the header ``X-Panel`` names; and whether it is complete.

    The deadline of the request is that of all panels together.

    Raises:
        NotFoundError: There is no panel of this name.
        ClientGoneError: Nobody waits for the page any more.
        jinja2.TemplateError: See ``Templates.render``.
    """
    may_defer = f"{SCRIPTS_COOKIE}=on" in request.env.get("HTTP_COOKIE", "")
    until = time.monotonic() + LOADING_BUDGET_S
    deferred: list[str] = []

    def show(name: str) -> Markup:
        if may_defer and time.monotonic() > until:
            deferred.append(name)
            return _fill(request, templates, name, panels[name], is_deferred=True)
        return _load(request, templates, name, panels[name])

    wanted = request.get_header(PANEL_HEADER) if panels else None
    if wanted is None:
        content = templates.render(request, template, {**context, "panel": show} if panels else context)
        return content, not deferred
    if wanted not in panels:
        raise NotFoundError(detail=f"no panel {wanted:.50} on this page")
    return _load(request, templates, wanted, panels[wanted]).encode(errors="replace"), True


def _load(request: Request, templates: Templates, name: str, panel: Panel) -> Markup:
    content, error = None, None
    try:
        current_deadline().check()
        content = templates.fill(request, panel.template, panel.load())
    except (ClientGoneError, MemoryError):
        # These concern the request, or the process, as a whole.
        raise
    except ApiError as failure:
        error = failure
        templates.log.warning("panel_failed", request_id=request.request_id, panel=name, code=failure.code)
    except Exception as failure:
        error = InternalError()
        # Whatever a panel raises, the others stand.
        templates.log.exception("panel_failed", request_id=request.request_id, panel=name, exc_info=failure)
    return _fill(request, templates, name, panel, content, error)


def _fill(
    request: Request,
    templates: Templates,
    name: str,
    panel: Panel,
    content: Markup | None = None,
    error: ApiError | None = None,
    *,
    is_deferred: bool = False,
) -> Markup:
    context = {"name": name, "panel": panel, "content": content, "error": error, "is_deferred": is_deferred}
    return templates.fill(request, "kernel/panel.html", context)
