"""Static files: the scripts, styles and images that the kernel and plugins ship for their pages.

A package has them in its folder ``static``, without folders in it. ``static/chart.js`` of the plugin ``shop`` is called
``shop/chart.js`` in templates, and served under two paths: ``/static/shop/chart.<digest>.js``, which pages link to and
browsers never ask for again, and ``/static/shop/chart.js``, for what other static files refer to.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import falcon
import msgspec

from kernel.contracts import Route, collect_routes, route
from kernel.errors import NotFoundError
from kernel.http.compression import MIN_BYTES, accepted_coding
from kernel.http.conditional import is_unmodified
from kernel.http.request import Request
from kernel.http.response import PreparedResponse

KERNEL = "kernel"
# Files of the kernel itself; those of its pages are beside them.
STATIC_FOLDER = Path(__file__).parent / "static"
# Whatever else the machine's own list of types may say. A file of another kind is not served.
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "ico": "image/vnd.microsoft.icon",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "webp": "image/webp",
    "woff2": "font/woff2",
}
# Nothing that leads out of a folder, or to a hidden file.
_FILE_NAME = re.compile(r"(?P<stem>[A-Za-z0-9][A-Za-z0-9._-]*?)(?:\.(?P<digest>[0-9a-f]{16}))?\.(?P<suffix>[a-z0-9]+)")
# Those that compression makes smaller.
_TEXT = frozenset({"css", "js", "json", "svg", "txt"})
_FOR_EVER = "public, max-age=31536000, immutable"
_REVALIDATE = "public, no-cache"
_CODING = "gzip"


class Asset(msgspec.Struct, frozen=True):
    """A static file in memory.

    Args:
        digest: Of its content: 16 hexadecimal digits of its SHA-256.
        media_type: The header ``Content-Type``.
        plain: The content; None if only the compressed one is kept, because it is shipped that way.
        packed: The content, compressed; None if that makes it no smaller.
    """

    digest: str
    media_type: str
    plain: bytes | None
    packed: bytes | None


class Assets:
    """The static files of a service. Each is read when it is first asked for, and kept.

    Args:
        folders: By the owner, the kernel or a plugin, the folder with its static files.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = {**folders, KERNEL: STATIC_FOLDER}
        self._loaded: dict[str, Asset] = {}

    def url(self, name: str) -> str:
        """Return the path of a file that changes with its content; templates call it as ``asset``.

        Args:
            name: Such as ``shop/chart.js``.

        Raises:
            LookupError: There is no such file.
        """
        owner, _, file = name.partition("/")
        found = _FILE_NAME.fullmatch(file)
        asset = None if found is None else self._find(owner, file)
        if asset is None or found is None:
            raise LookupError(f"there is no static file {name!r}")
        return f"/static/{owner}/{found['stem']}.{asset.digest}.{found['suffix']}"

    def read_all(self) -> int:
        """Read every file that is served, and return how many there are.

        Raises:
            OSError: One cannot be read.
        """
        paths = [path for folder in self._folders.values() for path in folder.iterdir()]
        return sum(_read(path if path.suffix != ".gz" else path.with_suffix("")) is not None for path in paths)

    def routes(self) -> Sequence[Route]:
        """Return the routes. Requests for static files are not logged."""
        return collect_routes(self.serve, self.icon, self.robots)

    @route("/static/{owner}/{file}", policy="public", logged=False, responses={200: {"*/*": bytes}})
    def serve(self, request: Request, owner: str, file: str) -> PreparedResponse:
        """Return a static file. Clients may keep one whose name has the digest of its content for ever."""
        found = _FILE_NAME.fullmatch(file)
        if found is not None and found["digest"] is not None:
            asset = self._find(owner, f"{found['stem']}.{found['suffix']}")
            if asset is not None and asset.digest == found["digest"]:
                return _respond(request, asset, _FOR_EVER)
        asset = self._find(owner, file)
        if asset is None:
            raise NotFoundError(detail=f"no static file {owner}/{file}")
        return _respond(request, asset, _REVALIDATE)

    @route("/favicon.ico", policy="public", logged=False, responses={200: {_MEDIA_TYPES["ico"]: bytes}})
    def icon(self, request: Request) -> PreparedResponse:
        """Return the icon that browsers ask every site for."""
        return self.serve(request, KERNEL, "favicon.ico")

    @route("/robots.txt", policy="public", logged=False, responses={200: {"text/plain": str}})
    def robots(self, request: Request) -> PreparedResponse:
        """Ask search engines to leave the service alone (RFC 9309)."""
        return self.serve(request, KERNEL, "robots.txt")

    def _find(self, owner: str, file: str) -> Asset | None:
        """Return a file by its own name; None if there is none, or it is of a kind that is not served."""
        name = f"{owner}/{file}"
        asset = self._loaded.get(name)
        if asset is None and owner in self._folders and _FILE_NAME.fullmatch(file):
            asset = _read(self._folders[owner] / file)
            if asset is not None:
                self._loaded[name] = asset
        return asset


def _read(path: Path) -> Asset | None:
    suffix = path.suffix[1:]
    if suffix not in _MEDIA_TYPES:
        return None
    shipped = path.with_name(f"{path.name}.gz")
    if shipped.is_file():
        return _make_asset(None, shipped.read_bytes(), suffix)
    return _make_asset(path.read_bytes(), None, suffix) if path.is_file() else None


def _make_asset(plain: bytes | None, packed: bytes | None, suffix: str) -> Asset:
    if plain is not None and suffix in _TEXT and len(plain) > MIN_BYTES:
        # Once in the life of a process: the highest level.
        packed = gzip.compress(plain, mtime=0)
    digest = hashlib.sha256(plain or packed or b"").hexdigest()[:16]
    return Asset(digest, _MEDIA_TYPES[suffix], plain, packed)


def _respond(request: Request, asset: Asset, cache_control: str) -> PreparedResponse:
    """Return the response to send: the file, compressed if the client accepts that, or a 304 if it has it."""
    coded = asset.packed is not None and accepted_coding(request, (_CODING,)).coding is not None
    # Other bytes need another strong ETag (RFC 9110, 8.8.3.3).
    etag = f'"{asset.digest}-{_CODING}"' if coded else f'"{asset.digest}"'
    headers = {"etag": etag, "cache-control": cache_control}
    if asset.packed is not None:
        headers["vary"] = "Accept-Encoding"
    if is_unmodified(request, etag):
        return PreparedResponse(falcon.HTTP_304, headers, None)
    headers["content-type"] = asset.media_type
    if coded:
        headers["content-encoding"] = _CODING
        return PreparedResponse(falcon.HTTP_200, headers, asset.packed)
    plain = asset.plain if asset.plain is not None else gzip.decompress(asset.packed or b"")
    return PreparedResponse(falcon.HTTP_200, headers, plain)
