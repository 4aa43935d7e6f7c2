"""Templates of HTML pages, which the kernel and plugins ship, rendered by Jinja.

A package has them in its folder ``templates``: ``templates/orders.html`` of the plugin ``shop`` is called
``shop/orders.html``. Pages extend ``kernel/base.html``. What they show is escaped. Scripts and styles are static files,
``{{ asset("shop/orders.js") }}``: ``Content-Security-Policy`` allows none within a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel.conversion import escape_controls
from kernel.http.charts import format_value
from kernel.http.pages import first_upper, format_bytes, format_duration, input_time
from kernel.http.request import Request
from kernel.http.shell import Shell
from kernel.logging import Logger

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

KERNEL = "kernel"
_TEMPLATE_FOLDER = Path(__file__).parent / "templates"


class Templates:
    """The templates of a service. Each is compiled when it is first used, and kept.

    Every template can use ``asset``, ``format_value``, ``format_bytes``, ``format_duration`` and ``input_time`` of
    ``kernel.http``, the filter ``escape_controls`` for text of any origin, ``first_upper`` for the beginning of a
    sentence, and the variable ``request_id``; a page also ``shell``.

    Args:
        folders: By the owner, the kernel or a plugin, the folder with its templates.
        asset: Returns the path of a static file; see ``Assets.url``.
        make_shell: Returns what a page shows around its content.
        log: Gets what fails within a page.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        asset: Callable[[str], str],
        make_shell: Callable[[Request], Shell],
        log: Logger,
    ) -> None:
        self.log = log
        self._folders = {**folders, KERNEL: _TEMPLATE_FOLDER}
        self._asset = asset
        self._make_shell = make_shell

    def render(self, request: Request, template: str, context: Mapping[str, Any]) -> bytes:
        """Return a page.

        Args:
            request: The request that it answers.
            template: Its name, such as ``shop/orders.html``.
            context: Its variables by name.

        Raises:
            jinja2.TemplateError: There is no such template, it is wrong, or uses a variable that it does not get.
        """
        shell = self._make_shell(request)
        return self.fill(request, template, {"shell": shell, **context}).encode(errors="replace")

    def fill(self, request: Request, template: str, context: Mapping[str, Any]) -> Markup:
        """Return a part of a page, which templates show as it is. Arguments and errors are those of ``render``."""
        from markupsafe import Markup

        found = self._environment.get_template(template)
        text = found.render(request_id=request.request_id, **context)
        # The template has escaped what it shows.
        return Markup(text)  # noqa: S704

    @cached_property
    def _environment(self) -> Environment:
        # Commands boot without ever making a page: they do not wait for this import.
        from jinja2 import Environment, FileSystemLoader, PrefixLoader, StrictUndefined

        environment = Environment(
            loader=PrefixLoader({owner: FileSystemLoader(folder) for owner, folder in self._folders.items()}),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            asset=self._asset,
            format_value=format_value,
            format_bytes=format_bytes,
            format_duration=format_duration,
            input_time=input_time,
        )
        environment.filters["escape_controls"] = escape_controls
        environment.filters["first_upper"] = first_upper
        return environment
