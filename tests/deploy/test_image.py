"""The Containerfile: its steps are executed, and what they make serves, alone and behind nginx."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.contract.tree import ROOT
from tests.deploy.image import Image, build, read_instructions
from tests.processes import START_TIMEOUT_S, TLS, eventually, find_program, free_port

pytestmark = [pytest.mark.process, pytest.mark.slow]

CONTAINERFILE = (ROOT / "Containerfile").read_text()
NGINX = ROOT / "contrib" / "deploy" / "nginx"
HOST = "api.example.com"
INVENTED = "203.0.113.9"
EVENT = {"time": "2026-11-20T12:00:00Z", "endpoint": "/orders", "method": "GET", "status_code": 200, "latency_ms": 9}


class Container:
    """A process of the image.

    Args:
        image: What runs.
        directory: Gets its volume and its log.
    """

    def __init__(self, image: Image, directory: Path) -> None:
        self.image = image
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.variables = {
            "TIERCEL_BIND": f"0.0.0.0:{self.port}",
            "TIERCEL_INSECURE": "true",
            "TIERCEL_WORKERS": "1",
            "TIERCEL_HTTP__ALLOWED_HOSTS": HOST,
            "TIERCEL_HTTP__TRUSTED_PROXIES": "127.0.0.1",
        }
        volume = directory / "volume"
        volume.mkdir(mode=0o700)
        os.chown(volume, *map(int, image.user.split(":")))
        self._log = directory / "log"
        command = image.run_command((), self.variables, {volume: image.volumes[0]})
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text(encoding="utf-8")

    def is_healthy(self) -> bool:
        """Run the health check of the image."""
        command = self.image.run_command(self.image.health, self.variables)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def status(self) -> dict[str, str]:
        """Return what the system says of its process: proc_pid_status(5)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A container of the image, ready."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount what the steps of the image see")
    directory = tmp_path_factory.mktemp("image")
    started = Container(build(directory), directory)
    try:
        assert eventually(lambda: _answers(started) or started.process.poll() is not None, START_TIMEOUT_S)
        assert started.process.poll() is None, started.log
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        shutil.rmtree(directory)


def _answers(container: Container) -> bool:
    try:
        return httpx.get(f"{container.url}/readyz", verify=TLS).status_code == 200
    except httpx.TransportError:
        return False


# --- the file -------------------------------------------------------------------------------------------------------


def test_both_bases_are_one_version_of_one_registry() -> None:
    instructions = list(read_instructions(CONTAINERFILE))
    bases = dict(rest.split("=", 1) for name, rest in instructions[:2] if name == "ARG")

    version = re.fullmatch(r"docker\.io/library/python:(3\.\d+\.\d+)-slim-([a-z]+)", bases["BASE"])
    assert version is not None
    assert bases["BUILD_BASE"] == f"docker.io/library/python:{version[1]}-{version[2]}"
    assert [rest for name, rest in instructions if name == "FROM"] == ["${BUILD_BASE} AS build", "${BASE}"]


def test_a_step_makes_the_working_directory() -> None:
    *_, stage = re.split(r"^FROM ", CONTAINERFILE, flags=re.MULTILINE)
    instructions = dict(read_instructions(f"FROM {stage}"))

    # Podman makes that of WORKDIR when a container starts, as its user, and not at all in a pod.
    assert f"install --directory {instructions['WORKDIR']}" in instructions["RUN"]


# --- the image ------------------------------------------------------------------------------------------------------


def test_it_serves_as_another_user_who_can_do_nothing_else(container: Container) -> None:
    status = container.status()
    mounts = Path(f"/proc/{container.process.pid}/mounts").read_text().splitlines()
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts}

    assert status["Uid"].split() == ["10001"] * 4
    assert (int(status["CapBnd"], 16), int(status["CapEff"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    assert "ro" in options["/"]
    # Whose directory may hold passwords and the key of the certificate.
    assert not list(Path(container.image.root, "opt/tiercel").rglob("compose.yaml"))
    assert not Path(container.image.root, "opt/tiercel/bin/pip").exists()
    assert container.is_healthy()


def test_it_stores_and_shows(container: Container) -> None:
    sent = httpx.post(f"{container.url}/api/requests/ingest/", json=[{**EVENT, "service": "boxed"}])
    listed = httpx.get(f"{container.url}/api/requests/", params={"service": "boxed"})
    page = httpx.get(f"{container.url}/", headers={"Accept": "text/html"})
    (style, *_) = re.findall(r'href="(/static/[^"]+\.css)"', page.text)

    assert sent.json()["inserted"] == 1
    assert [each["endpoint"] for each in listed.json()["results"]] == ["/orders"]
    assert httpx.get(container.url + style).headers["Content-Type"].startswith("text/css")


# --- behind nginx ---------------------------------------------------------------------------------------------------


class Proxy:
    """nginx with the files of contrib/deploy, other ports, and a certificate of its own."""

    def __init__(self, directory: Path, upstream_port: int) -> None:
        self.port, self.plain_port = free_port(), free_port()
        certificate, key = directory / "tls.crt", directory / "tls.key"
        name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", "req", *kind, *name, *files], check=True, capture_output=True)
        # First what the other replacements may bring in again.
        replaced = {
            "/tmp/": f"{directory}/",
            "web:8000": f"127.0.0.1:{upstream_port}",
            "listen 8443": f"listen 127.0.0.1:{self.port}",
            "listen 8080": f"listen 127.0.0.1:{self.plain_port}",
            "/etc/nginx/tls": str(directory),
            "/etc/nginx/conf.d": str(directory),
        }
        for source in NGINX.glob("*.conf"):
            text = source.read_text()
            for old, new in replaced.items():
                text = text.replace(old, new)
            target = directory / ("main" if source.name == "nginx.conf" else source.name)
            target.write_text(text)
        self.tls = ssl.create_default_context(cafile=str(certificate))
        self.client = httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}", verify=self.tls, http2=False, headers={"Host": HOST}, timeout=20
        )
        command = [
            find_program("nginx"),
            "-c",
            str(directory / "main"),
            "-e",
            str(directory / "errors"),
            "-g",
            "daemon off;",
        ]
        # nginx of root has workers of another user, who may not enter this directory.
        command[-1] += " user root;"
        self.process = subprocess.Popen(command, cwd=directory)

    def request(self, method: str, path: str, **given: object) -> httpx.Response:
        return self.client.request(method, path, extensions={"sni_hostname": HOST}, **given)  # type: ignore[arg-type] # what requests take

    def is_up(self) -> bool:
        try:
            return self.request("GET", "/api/").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def proxied(directory: Path, upstream_port: int) -> Iterator[Proxy]:
    proxy = Proxy(directory, upstream_port)
    try:
        assert eventually(proxy.is_up)
        yield proxy
    finally:
        proxy.client.close()
        proxy.process.terminate()
        proxy.process.wait()


def test_nginx_ends_tls_and_says_who_comes(container: Container, tmp_path: Path) -> None:
    invented = {"X-Forwarded-For": INVENTED, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    with proxied(tmp_path, container.port) as proxy:
        root = proxy.request("GET", "/api/", headers=invented)
        plain = httpx.get(f"http://127.0.0.1:{proxy.plain_port}/club/?a=1", headers={"Host": HOST})
        inside = {proxy.request("GET", path).status_code for path in ("/metrics", "/readyz", "/livez/", "/startupz")}
        big = proxy.request("POST", "/api/requests/ingest/", json=[{**EVENT, "service": "big"}] * 20_000)
        too_big = _announce_body(proxy, 64 * 1024**2 + 1)
        with proxy.client.stream(
            "GET", "/api/requests/live/", params={"service": "seen"}, extensions={"sni_hostname": HOST}
        ) as stream:
            lines = stream.iter_lines()
            assert "event: position" in iter(lines.__next__, "event: request")
            proxy.request("POST", "/api/requests/", json={**EVENT, "service": "seen"})
            # A proxy that buffers would keep this until there is more than it holds.
            assert "event: request" in iter(lines.__next__, None)

    assert root.headers["Strict-Transport-Security"]
    assert {url.split("/api/")[0] for url in re.findall(r'"url":"(https?://[^"]*/api/)', root.text)} == {
        f"https://{HOST}"
    }
    assert (plain.status_code, plain.headers["Location"]) == (308, f"https://{HOST}/club/?a=1")
    assert inside == {404}
    assert big.json()["inserted"] == 20_000
    assert too_big["code"] == "too_large"
    assert INVENTED not in container.log


def _announce_body(proxy: Proxy, length: int) -> dict[str, str]:
    """Send the head of a request with a body of some length; return the answer, which comes before any of it."""
    connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, context=_unnamed(proxy.tls), timeout=20)
    connection.putrequest("POST", "/api/requests/ingest/", skip_host=True)
    for name, value in (("Host", HOST), ("Content-Type", "application/json"), ("Content-Length", str(length))):
        connection.putheader(name, value)
    connection.endheaders()
    answer = httpx.Response(200, content=connection.getresponse().read()).json()
    connection.close()
    return dict(answer)


def _unnamed(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    return context


# --- the end, which is last because the others need the container ---------------------------------------------------


def test_it_ends_on_sigterm(container: Container) -> None:
    container.process.send_signal(signal.SIGTERM)

    assert container.process.wait(30) == 0
    assert not container.is_healthy()
