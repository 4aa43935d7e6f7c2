"""Panels: the parts of a page that are loaded on their own, so that one that fails leaves the others standing."""

from __future__ import annotations

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


class Panel(msgspec.Struct, frozen=True):
    """A part of a page. Its page shows it with ``{{ panel("requests") }}``, by its name in ``panels``.

    Args:
        load: Returns the variables of the template. What it raises is shown in place of the panel.
        template: Its name, such as ``shop/requests_panel.html``. It is the content alone and extends no other.
        title: The heading.
        refresh_s: After how many seconds the script of pages loads it again; None for never.
    """

    load: Callable[[], Mapping[str, Any]]
    template: str
    title: str
    refresh_s: int | None = None


def render_page(
    request: Request, templates: Templates, template: str, context: Mapping[str, Any], panels: Mapping[str, Panel]
) -> bytes:
    """Return a page with its panels, or the one panel that the header ``X-Panel`` names.

    The deadline of the request is that of all panels together.

    Raises:
        NotFoundError: There is no panel of this name.
        ClientGoneError: Nobody waits for the page any more.
        jinja2.TemplateError: See ``Templates.render``.
    """

    def show(name: str) -> Markup:
        return _render_panel(request, templates, name, panels[name])

    wanted = request.get_header(PANEL_HEADER) if panels else None
    if wanted is None:
        return templates.render(request, template, {**context, "panel": show} if panels else context)
    if wanted not in panels:
        raise NotFoundError(detail=f"no panel {wanted:.50} on this page")
    return show(wanted).encode(errors="replace")


def _render_panel(request: Request, templates: Templates, name: str, panel: Panel) -> Markup:
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
    context = {"name": name, "title": panel.title, "refresh_s": panel.refresh_s, "content": content, "error": error}
    return templates.fill(request, "kernel/panel.html", context)
