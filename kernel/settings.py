"""The kernel's settings: frozen Structs with their defaults.

``config/tiercel.toml`` documents every key. ``env(...)`` names further environment variables that set a key, besides
the ``TIERCEL_`` variable that every key has; Structs of plugins may use it as well.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

Auth = Literal["open", "required"]
LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

# An origin as browsers write it (RFC 6454, 6.2): no path, and no port where it is that of the scheme. Subdomains with
# TLS only, since anybody on the network can answer for them without; and none of a top-level domain.
_ORIGIN = re.compile(
    r"(?!https://.*:443\Z|http://.*:80\Z)"
    r"(?:https://\*(?:\.[a-z0-9_-]+){2,}|[a-z][a-z0-9+.-]*://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]))"
    r"(?::[1-9][0-9]{0,4})?"
)

# Of throttles, by scope.
DEFAULT_RATES = {
    "ingest": "6000/minute",
    "read": "1200/minute",
    "write": "600/minute",
    "auth": "120/minute",
    "export": "30/minute",
}
SCOPE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_RATE = re.compile(r"[1-9][0-9]{0,11}/(?:second|minute|hour|day)|unlimited")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")
_BACKEND = re.compile(r"(?:database|memory)\Z|(?:redis|valkey)s?://.")


class Secret:
    """A text that its representation does not show.

    Args:
        text: Text to keep out of logs, representations and error messages.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. A search for this name finds every place that could leak a secret."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def env(*names: str) -> msgspec.Meta:
    """Name further environment variables that set a key, in order of precedence."""
    return msgspec.Meta(extra={"env": names})


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table of settings: frozen, and unknown keys are errors."""


class ServerSettings(Table, frozen=True):
    """gunicorn: addresses, processes, threads and timeouts."""

    bind: Annotated[str, env("TIERCEL_BIND")] = "127.0.0.1:8000"
    workers: Annotated[int, env("TIERCEL_WORKERS"), msgspec.Meta(ge=1, le=256)] = 2
    threads: Annotated[int, env("TIERCEL_THREADS"), msgspec.Meta(ge=1, le=512)] = 8
    timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 30
    graceful_timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 8
    keepalive_s: Annotated[int, msgspec.Meta(ge=1)] = 5
    connections_max: Annotated[int, msgspec.Meta(ge=16, le=100_000)] = 4096
    header_timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 10
    receive_timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 10
    send_timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 30
    client_rate_min_bytes: Annotated[int, msgspec.Meta(ge=1)] = 500

    def __post_init__(self) -> None:
        """Validate the port: gunicorn would fail with a traceback, or take the whole address for a host name."""
        for address in map(str.strip, self.bind.split(",")):
            _, colon, port = address.rpartition(":")
            is_port = port.isdecimal() and int(port) < 2**16
            if colon and not is_port and not address.startswith("unix:") and not address.endswith("]"):
                raise ValueError(f"bind: Expected HOST:PORT or unix:PATH, got {self.bind!r:.120}.")


class HttpSettings(Table, frozen=True):
    """Limits of requests, the body of errors, the host names that are served, and trusted proxies."""

    request_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    max_decoded_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 256 * 1024 * 1024
    bodies_max_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 256 * 1024 * 1024
    page_size: Annotated[int, env("DRF_PAGE_SIZE"), msgspec.Meta(ge=1)] = 50
    page_size_max: Annotated[int, msgspec.Meta(ge=1)] = 1000
    unified_errors: bool = True
    allowed_hosts: Annotated[tuple[str, ...], env("DJANGO_ALLOWED_HOSTS", "ALLOWED_HOSTS")] = ()
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: Annotated[tuple[str, ...], env("CORS_ALLOWED_ORIGINS")] = ()
    cors_local_ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65_535)], ...] | None = None
    hsts_max_age_s: Annotated[int, msgspec.Meta(ge=0)] = 31_536_000

    def __post_init__(self) -> None:
        """Validate origins, and the addresses of proxies."""
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin.lower()):
                raise ValueError(
                    "cors_origins: Expected origins as browsers write them, such as https://app.example.com, or "
                    f"https://*.example.com for all its subdomains, got {origin!r:.120}."
                )
        for each in self.trusted_proxies:
            try:
                each == "unix" or ipaddress.ip_network(each)
            except ValueError:
                raise ValueError(
                    f"trusted_proxies: Expected addresses, networks such as 10.0.0.0/8, or unix, got {each!r:.120}."
                ) from None


class DatabaseSettings(Table, frozen=True):
    """The database, its connection pool and timeouts."""

    url: Annotated[Secret | None, env("TIERCEL_DATABASE_URL", "DATABASE_URL")] = None
    direct_url: Annotated[Secret | None, env("TIERCEL_DATABASE_DIRECT_URL", "DATABASE_DIRECT_URL")] = None
    pool_min: Annotated[int, msgspec.Meta(ge=0)] = 1
    pool_max: Annotated[int, msgspec.Meta(ge=1)] = 10
    pool_waiting_max: Annotated[int, msgspec.Meta(ge=1)] = 100
    pool_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    connect_timeout_s: Annotated[int, msgspec.Meta(ge=1)] = 5
    statement_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    startup_timeout_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    embedded_user: str = "tiercel"
    embedded_options: dict[str, str] = {}


class LogSettings(Table, frozen=True):
    """Logging."""

    format: Annotated[LogFormat, env("TIERCEL_LOG")] = "console"
    level: LogLevel = "info"
    requests: bool = True
    file: Path | None = None
    file_max_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 10 * 1024 * 1024
    file_backups: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5


class DatasetSettings(Table, frozen=True):
    """Datasets: storage, caching and polling."""

    cache_max_bytes: Annotated[int, msgspec.Meta(ge=1024 * 1024)] = 256 * 1024 * 1024
    max_age_s: Annotated[int, msgspec.Meta(ge=0)] = 300
    poll_interval_s: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    keep_versions: Annotated[int, msgspec.Meta(ge=2)] = 100
    files_dir: Path | None = None


class JobSettings(Table, frozen=True):
    """Workers that run jobs, and their schedules."""

    processes: Annotated[int, env("TIERCEL_JOB_PROCESSES"), msgspec.Meta(ge=1, le=64)] = 2
    dead_after_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    graceful_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 8.0
    keep_days: Annotated[int, msgspec.Meta(ge=1)] = 30
    log_dir: Path | None = None
    schedules: dict[str, str] = {}


class ThrottleSettings(Table, frozen=True):
    """How many requests of a kind a caller may send."""

    open: bool = False
    backend: Secret | None = None
    rates: dict[str, str] = {}

    @property
    def all_rates(self) -> dict[str, str]:
        """The rates of all scopes that have one, by scope."""
        return {**DEFAULT_RATES, **self.rates}

    def __post_init__(self) -> None:
        """Validate rates, and the kind of backend."""
        for scope, rate in self.rates.items():
            if not SCOPE_NAME.fullmatch(scope):
                raise ValueError(f"rates: Expected names of scopes in lower case, got {scope!r:.80}.")
            if not _RATE.fullmatch(rate):
                raise ValueError(
                    f"rates: Expected a rate such as 1000/minute (second, minute, hour, day), or unlimited, for "
                    f"{scope}, got {rate!r:.80}."
                )
        if self.backend is not None and not _BACKEND.match(self.backend.reveal()):
            raise ValueError("backend: Expected database, memory, or a URL of redis, rediss, valkey or valkeys.")


class HealthSettings(Table, frozen=True):
    """Health checks."""

    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 2.0


class BackupSettings(Table, frozen=True):
    """What `tiercel check` expects of backups."""

    max_age_s: Annotated[int, msgspec.Meta(ge=1)] | None = None


class MetricSettings(Table, frozen=True):
    """Metrics for Prometheus, at ``/metrics``."""

    enabled: bool = True
    public: bool = False
    token: Secret | None = None
    source_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    source_max_age_s: Annotated[float, msgspec.Meta(ge=0)] = 5.0

    def __post_init__(self) -> None:
        """Validate the token: nothing slows down guessing it."""
        if self.token is not None and not _TOKEN.fullmatch(self.token.reveal()):
            raise ValueError(
                "token: Expected 16 to 256 letters, digits and any of ._~+/=-, as `openssl rand -hex 32` prints."
            )


class Settings(Table, frozen=True):
    """The kernel's settings. Tables of plugins are decoded separately, into the plugins' own Structs.

    Which plugins are enabled and required by default is set by the ``tiercel.toml`` that ships with the package.
    """

    home: Path = Path(".tiercel")
    debug: Annotated[bool, env("DEBUG", "DJANGO_DEBUG")] = False
    auth: Auth = "open"
    insecure: bool = False
    secret_key: Annotated[Secret | None, env("SECRET_KEY", "DJANGO_SECRET_KEY")] = None
    plugins: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    server: ServerSettings = ServerSettings()
    http: HttpSettings = HttpSettings()
    db: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()
    health: HealthSettings = HealthSettings()
    metrics: MetricSettings = MetricSettings()
    backup: BackupSettings = BackupSettings()
    datasets: DatasetSettings = DatasetSettings()
    jobs: JobSettings = JobSettings()
    throttle: ThrottleSettings = ThrottleSettings()


def dec_hook(kind: type, value: Any) -> Any:
    """Convert types that msgspec does not know: paths and secrets."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError(f"cannot make {kind.__name__} from {type(value).__name__}")
