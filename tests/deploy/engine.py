"""Run the files of contrib/deploy with a container engine: the image alone, compose.yaml, the units under systemd.

    python -m tests.deploy.engine [image] [compose] [systemd] [pods] [--engine PROGRAM] [--postgres DIRECTORY] [--keep]

All of them, unless some are named:

image
    Build the image of the Containerfile, run it as docs/operations/deploy/container.md does, stop it, start it again.
compose
    Start compose.yaml, use it through nginx, replace the web server, count requests in Redis, stop it. With Docker
    Compose, or docker-compose 1.29, which is given the file without its ``name`` and without ``restart`` of a
    dependency: it does not know these.
systemd
    Install as docs/operations/deploy/systemd.md says in a container whose first process is systemd; use it, kill it,
    stop it.
pods
    Run the Deployments of the Kubernetes example as pods of Podman.

Needs root, ``docker`` or ``podman`` (``--engine``, a name or a path; one that BuildKit or buildah builds with), and
Debian's packages, but no registry of images: what the files name and the engine has not, is made of a Debian and its
packages, and removed afterwards, unless ``--keep``. That of Grafana cannot be made: it is left out if it is not there.
``debootstrap`` makes the Debian, as ``tests.deploy.image`` says; ``--root DIRECTORY`` is one that was made before.
The database is Debian's PostgreSQL, or the installation in ``--postgres``, with the TimescaleDB that it may have.

Health checks of Podman are timers of systemd; where that does not run, they are run from here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.deploy.image import INHERITED_IN_BUILDS, ROOT
from tests.processes import eventually, free_port

DEPLOY = ROOT / "contrib" / "deploy"
PAGES = ROOT / "docs" / "operations" / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
# Of everything that is made here, so that nothing of this machine's own has the same name.
NAME = "tiercel-engine"
EMAIL, PASSWORD = "ann@example.com", "a password for an hour"
_PROBES = ("startup", "liveness", "readiness")
_BASE_PACKAGES = "ca-certificates,python-is-python3,python3-pip,python3-venv"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_EVENT = {"time": "2026-11-20T12:00:00Z", "endpoint": "/orders", "method": "GET", "status_code": 200, "latency_ms": 9}
_INSTALL = "RUN apt-get update && apt-get install --yes --no-install-recommends"
# For the system in a container: it mounts, looks at processes whose /proc it hides, and sets filters of its own.
_SYSTEMD_OPTIONS = ["--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined"]


class FailedError(Exception):
    """A step did not do what it should."""


def expect(holds: object, message: str) -> None:
    """Go on only if something holds, and say that it does."""
    if not holds:
        raise FailedError(message)
    print(f"  {message}", flush=True)


# --- engine ---------------------------------------------------------------------------------------------------------


class Engine:
    """Docker or Podman.

    Args:
        program: Its name or path.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        self.is_podman = version.startswith("podman")
        print(version)

    def run(self, *arguments: str, check: bool = True, variables: Mapping[str, str] | None = None) -> str:
        """Run a command of the engine, and return what it printed."""
        return run([self.program, *arguments], check=check, variables=variables)

    def succeeds(self, *arguments: str) -> bool:
        """Tell whether a command of the engine ends with 0."""
        return subprocess.run([self.program, *arguments], capture_output=True, check=False).returncode == 0

    def build(self, tag: str, directory: Path, *options: str) -> None:
        """Build an image."""
        # Or else Podman makes images of its own format, which have no health check.
        as_docker = ["--format=docker"] if self.is_podman else []
        self.run("build", *as_docker, "--tag", tag, *options, str(directory), variables={"DOCKER_BUILDKIT": "1"})

    def remove(self, name: str) -> None:
        """Remove a container and the volume of its name, if they are there."""
        self.succeeds("rm", "--force", name)
        self.succeeds("volume", "rm", name)

    def state(self, container: str) -> dict[str, Any]:
        """Return the state of a container."""
        (inspected,) = json.loads(self.run("inspect", container))
        return dict(inspected["State"])

    def has_ended(self, container: str) -> bool:
        """Tell whether a container runs no more."""
        return not self.state(container)["Running"]

    def health(self, container: str) -> str:
        """Return what the engine's health check found, such as ``healthy``."""
        if self.is_podman and not Path("/run/systemd/system").exists():
            self.succeeds("healthcheck", "run", container)
        state = self.state(container)
        return str((state.get("Health") or state.get("Healthcheck") or {}).get("Status", ""))

    def logs(self, container: str) -> str:
        """Return what a container wrote to both outputs."""
        command = [self.program, "logs", container]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout

    def wait_until_healthy(self, container: str, name: str, timeout_s: float = 180.0) -> None:
        """Wait for the health check of a container."""
        started = time.monotonic()
        healthy = eventually(lambda: self.health(container) == "healthy", timeout_s)
        if not healthy:
            print(self.logs(container)[-3000:], file=sys.stderr)
        expect(healthy, f"{name} is healthy after {time.monotonic() - started:.0f} s")

    def stop(self, container: str, name: str, limit_s: float, *options: str) -> None:
        """Stop a container, which has to end by itself, with 0."""
        started = time.monotonic()
        self.run("stop", *options, container)
        took_s = time.monotonic() - started
        code = self.state(container)["ExitCode"]
        expect(code == 0 and took_s < limit_s, f"{name} stopped within {limit_s:g} s: {took_s:.1f} s, code {code}")


def run(command: Sequence[str], *, check: bool = True, variables: Mapping[str, str] | None = None) -> str:
    """Run a command, and return what it printed; if it fails, say what it wrote to standard error."""
    environment = {**os.environ, **(variables or {})}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if check and ran.returncode != 0:
        raise FailedError(
            f"{shlex.join(command)}\nended with {ran.returncode}: {ran.stdout[-2000:]}{ran.stderr[-4000:]}"
        )
    return ran.stdout


# --- images ---------------------------------------------------------------------------------------------------------


class Images:
    """The images that the files of contrib/deploy need, made where the engine has none of their names.

    Args:
        engine: Makes them.
        cleanup: Removes them.
        root: A Debian that was made before.
        postgres: An installation of PostgreSQL.
    """

    def __init__(self, engine: Engine, cleanup: ExitStack, root: Path | None, postgres: Path | None) -> None:
        self._engine = engine
        self._cleanup = cleanup
        self._root = root
        self._postgres = postgres

    def tiercel(self) -> str:
        """Build the image of the Containerfile."""
        tag = f"localhost/{NAME}/tiercel:1"
        arguments = {"EXTRAS": "redis", "BASE": self._base(), "BUILD_BASE": self._build_base()}
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        self._cleanup.callback(self._engine.succeeds, "rmi", tag)
        self._engine.build(tag, ROOT, "--file", str(ROOT / "Containerfile"), *options)
        expect(self._engine.succeeds("image", "inspect", tag), "the Containerfile makes an image")
        return tag

    def systemd(self) -> str:
        """Make an image of a Debian with systemd, PostgreSQL, and what an installation is built with."""
        packages = "curl dbus gcc libc6-dev postgresql python3-dev systemd systemd-sysv"
        lines = [*self._registry_lines(), f"{_INSTALL} {packages}", "STOPSIGNAL SIGRTMIN+3", 'CMD ["/sbin/init"]']
        return self._make(f"localhost/{NAME}/systemd:1", lines)

    def stand_in(self, service: str, name: str) -> bool:
        """Have an image of the name that a service of the Compose file asks for; tell whether there is one."""
        if self._engine.succeeds("image", "inspect", name):
            return True
        # As those images, with the wget of BusyBox: the one of GNU knows other options.
        busybox = "ln -sf /bin/busybox /usr/local/bin/wget"
        if service == "db":
            self._make_database(name)
        elif service == "nginx":
            log = "ln -sf /dev/stderr /var/log/nginx/error.log"
            self._make(
                name,
                [
                    f"{_INSTALL} busybox nginx && {busybox} && {log}",
                    "USER 101:101",
                    'CMD ["nginx", "-g", "daemon off;"]',
                ],
            )
        elif service == "prometheus":
            lines = [f"{_INSTALL} busybox prometheus && {busybox}"]
            lines += ["RUN install -d -o nobody -g nogroup /prometheus", "USER nobody", "VOLUME /prometheus"]
            self._make(name, [*lines, "WORKDIR /prometheus", 'ENTRYPOINT ["prometheus"]'])
        elif service == "redis":
            # That image is compiled to take connections of others without a password.
            entry_point = json.dumps(["sh", "-c", 'exec "$@" --protected-mode no', "sh"])
            self._make(name, [f"{_INSTALL} redis-server", "WORKDIR /tmp", f"ENTRYPOINT {entry_point}"])
        else:
            return False
        return True

    def _make_database(self, name: str) -> None:
        """Make an image whose entry point does what that of the official image does."""
        with tempfile.TemporaryDirectory() as directory:
            installation = Path(directory, "installation")
            lines = ["RUN mkdir -p /etc/postgresql-common", "COPY createcluster.conf /etc/postgresql-common/"]
            lines += [
                f"{_INSTALL} postgresql && rm -rf /var/lib/postgresql/* && ln -s /usr/lib/postgresql/* /usr/lib/pg"
            ]
            if self._postgres is None:
                installation.mkdir()
            else:
                shutil.copytree(self._postgres, installation)
                _copy_libraries(self._postgres, installation / "lib")
            Path(directory, "createcluster.conf").write_text("create_main_cluster = false\n")
            shutil.copy(Path(__file__).with_name("postgres-entrypoint.sh"), directory)
            lines += ["COPY installation /opt/postgresql", "COPY postgres-entrypoint.sh /usr/local/bin/"]
            lines += ["ENV PATH=/opt/postgresql/bin:/usr/lib/pg/bin:/usr/bin:/bin LD_LIBRARY_PATH=/opt/postgresql/lib"]
            lines += ["ENV PGDATA=/var/lib/postgresql/data/docker", "VOLUME /var/lib/postgresql", "STOPSIGNAL SIGINT"]
            lines += ['ENTRYPOINT ["sh", "/usr/local/bin/postgres-entrypoint.sh"]', 'CMD ["postgres"]']
            self._make(name, lines, Path(directory))

    def _base(self) -> str:
        """Import a Debian."""
        tag = f"localhost/{NAME}/base:1"
        if self._engine.succeeds("image", "inspect", tag):
            return tag
        with tempfile.TemporaryDirectory() as directory:
            root = self._root or Path(directory)
            if self._root is None:
                run(["debootstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", "bookworm", str(root)])
            path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            archive = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
            command = [self._engine.program, "import", "--change", path, "-", tag]
            subprocess.run(command, stdin=archive.stdout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
            expect(archive.wait() == 0, "the Debian of debootstrap is an image")
        self._cleanup.callback(self._engine.succeeds, "rmi", tag)
        return tag

    def _build_base(self) -> str:
        """Make the base with a compiler."""
        lines = [*self._registry_lines(), f"{_INSTALL} gcc libc6-dev python3-dev"]
        return self._make(f"localhost/{NAME}/build-base:1", lines)

    def _registry_lines(self) -> list[str]:
        """Say how pip reaches its registry, as it does on this machine."""
        inherited = {name: value for name, value in os.environ.items() if INHERITED_IN_BUILDS.fullmatch(name)}
        return [f"COPY ca-certificates.crt /{_CERTIFICATES}"] + [
            f"ENV {name}={json.dumps(value)}" for name, value in inherited.items()
        ]

    def _make(self, tag: str, lines: Sequence[str], directory: Path | None = None) -> str:
        """Make an image of the base and further instructions."""
        if self._engine.succeeds("image", "inspect", tag):
            return tag
        with tempfile.TemporaryDirectory() as empty:
            context = directory or Path(empty)
            shutil.copy(f"/{_CERTIFICATES}", context)
            (context / "Dockerfile").write_text("\n".join([f"FROM {self._base()}", *lines, ""]))
            self._cleanup.callback(self._engine.succeeds, "rmi", tag)
            self._engine.build(tag, context)
        return tag


def _copy_libraries(installation: Path, target: Path) -> None:
    """Copy libraries of an installation that are elsewhere on this machine, and not of its system."""
    programs = [str(path) for path in (installation / "bin").iterdir()]
    for path in set(re.findall(r"=> (/\S+)", run(["ldd", *programs], check=False))):
        if not path.startswith(("/lib/", "/lib64/", "/usr/lib/", str(installation))) or ".." in path:
            shutil.copy(path, target)


# --- the image alone ------------------------------------------------------------------------------------------------


def run_image(engine: Engine, images: Images, cleanup: ExitStack) -> None:
    """Run the image alone, as the page says."""
    image = images.tiercel()
    port = free_port()
    url = f"http://localhost:{port}"
    (command,) = re.findall(
        r"^podman run -d (.*?[^\\])$", (PAGES / "container.md").read_text(), re.MULTILINE | re.DOTALL
    )
    words = shlex.split(command.replace("\\\n", " "))
    here = {
        "tiercel": NAME,
        "127.0.0.1:8000:8000": f"127.0.0.1:{port}:8000",
        "tiercel:/var/lib/tiercel": f"{NAME}:/var/lib/tiercel",
    }
    expect(set(here) <= set(words) and words[-1].startswith("tiercel:"), "the page has a command that runs the image")
    engine.remove(NAME)
    cleanup.callback(engine.remove, NAME)
    engine.run("run", "-d", *(here.get(word, word) for word in words[:-1]), image)
    engine.wait_until_healthy(NAME, "the image alone")
    sent = httpx.post(f"{url}/api/requests/ingest/", json=[{**_EVENT, "service": "alone"}]).json()
    expect(sent.get("inserted") == 1, "it stores an event")
    expect(not engine.succeeds("exec", NAME, "touch", "/opt/tiercel/x"), "it cannot write to its root file system")
    engine.stop(NAME, "it", 30)
    engine.run("start", NAME)
    engine.wait_until_healthy(NAME, "it, started again,")
    found = httpx.get(f"{url}/api/requests/", params={"service": "alone"}).json()
    expect([each["endpoint"] for each in found["results"]] == ["/orders"], "the event is still there")
    engine.stop(NAME, "it", 30)


# --- Compose --------------------------------------------------------------------------------------------------------


class Compose:
    """The project of compose.yaml.

    Args:
        engine: Runs it.
        directory: Gets the certificate.
        image: The image of Tiercel.

    Attributes:
        is_complete: Whether it is given the file as it is.
    """

    def __init__(self, engine: Engine, directory: Path, image: str) -> None:
        self.engine = engine
        self.port = free_port()
        self.variables = {
            "DOCKER_BUILDKIT": "1",
            "PUBLIC_HOSTS": "localhost",
            "POSTGRES_PASSWORD": secrets.token_hex(12),
            "TIERCEL_SECRET_KEY": secrets.token_hex(32),
            "GRAFANA_PASSWORD": secrets.token_hex(12),
            "TLS_DIRECTORY": str(directory),
            "HTTP_PORT": str(free_port()),
            "HTTPS_PORT": str(self.port),
            "GRAFANA_PORT": str(free_port()),
            "TIERCEL_IMAGE": image,
        }
        file = COMPOSE
        self.is_complete = engine.succeeds("compose", "version")
        if self.is_complete:
            self._program = [engine.program, "compose"]
        else:
            self._program = ["docker-compose"]
            file = directory / "compose.yaml"
            file.write_text(COMPOSE.read_text().replace("\nname: tiercel\n", "\n").replace(", restart: true", ""))
        print(run([*self._program, "version"]).splitlines()[0])
        self._program += ["--file", str(file), "--project-directory", str(DEPLOY), "--project-name", NAME]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run a command of Compose."""
        return run([*self._program, *arguments], check=check, variables=self.variables)

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.run("--profile", "redis", "down", "--volumes")

    def container(self, service: str) -> str:
        """Return the container of a service."""
        labels = {"com.docker.compose.project": NAME, "com.docker.compose.service": service}
        filters = [f"--filter=label={name}={value}" for name, value in labels.items()]
        (identifier,) = self.engine.run("ps", "--all", "--quiet", *filters).split()
        return identifier

    def ask(self, service: str, url: str) -> Any:
        """Return the JSON that a server which is not published answers."""
        return json.loads(self.run("exec", "-T", service, "wget", "-q", "-O", "-", url))


def run_compose(engine: Engine, images: Images, cleanup: ExitStack) -> None:
    """Start compose.yaml, and use it."""
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
    # The user of nginx in its container has to find the certificate.
    directory.chmod(0o755)
    _make_certificate(directory)
    project = Compose(engine, directory, images.tiercel())
    own = {name for name, service in services.items() if "build" in service}
    missing = {name for name in set(services) - own if not images.stand_in(name, services[name]["image"])}
    if missing:
        print(f"  left out, since there is no image: {', '.join(sorted(missing))}")
    started = [name for name, service in services.items() if name not in missing and "profiles" not in service]
    # Of a run before this one that was kept.
    project.down()
    cleanup.callback(project.down)
    project.run("up", "--detach", "--no-build", *started)
    for name in started:
        if services[name].get("healthcheck") != {"disable": True}:
            engine.wait_until_healthy(project.container(name), name)
    _check_order(project)

    project.run("exec", "-T", "-e", f"TIERCEL_PASSWORD={PASSWORD}", "web", "tiercel", "accounts", "create-admin", EMAIL)
    tls = ssl.create_default_context(cafile=str(directory / "tls.crt"))
    with httpx.Client(
        base_url=f"https://localhost:{project.port}", verify=tls, auth=(EMAIL, PASSWORD), timeout=20
    ) as client:
        _check_proxy(project, client)
        _check_worker(project, client)
        _check_metrics(project)
        _check_replacement(project, client, started)
        if "redis" not in missing:
            _check_redis(project, client)
    # Whoever needs another before that one, as Compose does.
    for name in (*({"redis"} - missing), *reversed([name for name in started if name != "migrate"])):
        limit_s = float(str(services[name].get("stop_grace_period", "10s")).removesuffix("s"))
        engine.stop(project.container(name), name, limit_s)
    project.down()
    expect(
        not engine.run("ps", "--all", "--quiet", f"--filter=label=com.docker.compose.project={NAME}"),
        "down leaves nothing",
    )


def _make_certificate(directory: Path) -> None:
    """Make one as the page says."""
    (command,) = re.findall(r"^(openssl req .*?[^\\])$", (PAGES / "container.md").read_text(), re.MULTILINE | re.DOTALL)
    run(shlex.split(command.replace("\\\n", " ").replace("contrib/deploy/tls", str(directory))))
    (directory / "tls.key").chmod(0o644)


def _check_order(project: Compose) -> None:
    states = {name: project.engine.state(project.container(name)) for name in ("db", "migrate", "web", "worker")}
    (migrate,) = json.loads(project.engine.run("inspect", project.container("migrate")))
    log = project.engine.logs(project.container("migrate"))
    expect(migrate["State"]["ExitCode"] == 0 and migrate["RestartCount"] == 0, "migrate ended with 0, at its first run")
    expect("observability/0001" in log, "migrate applied migrations")
    expect(
        all(states[name]["StartedAt"] >= states["migrate"]["FinishedAt"] for name in ("web", "worker")),
        "web and worker started after migrate",
    )


def _check_proxy(project: Compose, client: httpx.Client) -> None:
    plain = httpx.get(f"http://localhost:{project.variables['HTTP_PORT']}/club/")
    expect(plain.headers.get("Location") == "https://localhost/club/", "nginx sends http to https")
    refused = {client.get(path).status_code for path in ("/metrics", "/readyz")}
    expect(refused == {404}, "nginx answers /metrics and /readyz 404")
    expect(client.get("/api/requests/", auth=None).status_code == 401, "who does not sign in gets 401 through TLS")
    sent = client.post("/api/requests/ingest/", json=[{**_EVENT, "service": "composed"}])
    expect(sent.json().get("inserted") == 1, "an event is stored through TLS")
    log = project.engine.logs(project.container("web"))
    # Those of the network between nginx and web are the proxy's.
    expect(not re.search(r'"(client|remote)\w*":"172\.16\.238\.', log), "web logs who sent a request, not nginx")


def _check_worker(project: Compose, client: httpx.Client) -> None:
    queued = client.post("/api/v1/jobs/", json={"name": "observability.rollups"}).json()
    job = f"/api/v1/jobs/{queued['data']['id']}/"
    ended = eventually(lambda: client.get(job).json()["data"]["state"] not in ("queued", "running"), 60)
    state = client.get(job).json()["data"]["state"]
    expect(ended and state == "succeeded", f"worker ran a job: {state}")


def _check_metrics(project: Compose) -> None:
    def targets() -> list[str]:
        asked = project.ask("prometheus", "http://127.0.0.1:9090/api/v1/targets")
        return [each["health"] for each in asked["data"]["activeTargets"]]

    expect(eventually(lambda: targets() == ["up"], 60), "Prometheus scrapes web")
    groups = project.ask("prometheus", "http://127.0.0.1:9090/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    expect(rules and {rule["health"] for rule in rules} <= {"ok", "unknown"}, f"Prometheus has {len(rules)} rules")
    query = "http://127.0.0.1:9090/api/v1/query?query=tiercel_process_start_time_seconds"
    found = {each["metric"]["process"] for each in project.ask("prometheus", query)["data"]["result"]}
    expect(
        {name.partition("-")[0] for name in found} == {"jobs", "web"},
        f"one scrape has the processes of web and worker: {sorted(found)}",
    )


def _check_replacement(project: Compose, client: httpx.Client, services: Sequence[str]) -> None:
    former, nginx = project.container("web"), project.container("nginx")
    started_at = project.engine.state(nginx)["StartedAt"]
    # As a new version does, of which another setting stands for the image.
    project.variables["TIERCEL_THREADS"] = "4"
    project.run("up", "--detach", "--no-build", *services)
    expect(project.container("web") != former, "web is another container")
    project.engine.wait_until_healthy(project.container("web"), "the new web")
    if project.is_complete:
        expect(
            eventually(lambda: project.engine.state(nginx)["StartedAt"] > started_at, 60), "nginx started again with it"
        )
        project.engine.wait_until_healthy(nginx, "nginx, started again,")
    _check_events(client, "through nginx, the new web has the event")


def _check_redis(project: Compose, client: httpx.Client) -> None:
    project.variables["TIERCEL_THROTTLE_BACKEND"] = "redis://redis:6379/0"
    project.run("--profile", "redis", "up", "--detach", "--no-build", "redis", "web", "worker")
    project.engine.wait_until_healthy(project.container("redis"), "redis")
    project.engine.wait_until_healthy(project.container("web"), "web with redis")
    _check_events(client, "through nginx, web with redis has the event")
    keys = project.run("exec", "-T", "redis", "redis-cli", "--scan").split()
    expect(keys, f"requests are counted in redis: {len(keys)} keys")


def _check_events(client: httpx.Client, message: str) -> None:
    answer = client.get("/api/requests/", params={"service": "composed"})
    found = answer.json()["results"] if answer.status_code == 200 else answer.status_code
    expect(found != [] and answer.status_code == 200, f"{message} ({answer.status_code})")


# --- systemd --------------------------------------------------------------------------------------------------------


class Machine:
    """A container whose first process is systemd.

    Args:
        engine: Runs it.
        image: Has systemd.
    """

    def __init__(self, engine: Engine, image: str) -> None:
        self._engine = engine
        if engine.is_podman:
            options = ["--systemd=always", "--security-opt=unmask=ALL"]
        else:
            options = [
                "--cgroupns=private",
                "--security-opt=systempaths=unconfined",
                "--security-opt=apparmor=unconfined",
            ]
            options += [f"--tmpfs={place}" for place in ("/run", "/run/lock", "/tmp")]
        engine.run("run", "-d", "--name", NAME, *_SYSTEMD_OPTIONS, *options, f"--volume={ROOT}:/src:ro", image)

    def run(self, command: str, *, check: bool = True) -> str:
        """Run lines of a shell, as root, where the sources are."""
        lines = ["exec", "--workdir=/src", NAME, "sh", "-euc", command]
        return self._engine.run(*lines, check=check).strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run(f"systemctl show --value --property={name} {unit}")


def run_systemd(engine: Engine, images: Images, cleanup: ExitStack) -> None:
    """Install as the page says, and use it."""
    engine.remove(NAME)
    cleanup.callback(engine.remove, NAME)
    machine = Machine(engine, images.systemd())
    expect(eventually(lambda: machine.run("systemctl is-system-running", check=False) == "running", 60), "systemd runs")
    password = secrets.token_hex(12)
    machine.run(f"""su postgres -c "psql -qc \\"CREATE ROLE tiercel LOGIN PASSWORD '{password}'\\"" """)
    machine.run('su postgres -c "createdb --owner tiercel tiercel"')
    steps, starts = _read_steps()
    machine.run(steps)
    settings = {"PASSWORD@": f"{password}@", "SECRET_KEY=": f"SECRET_KEY={secrets.token_hex(32)}"}
    replaced = " ".join(f"-e s/{old}/{new}/" for old, new in settings.items())
    machine.run(f"sed -i {replaced} /etc/tiercel/tiercel.env")
    started = time.monotonic()
    answer = machine.run(starts)
    expect(
        '"status":"ok"' in answer or "degraded" in answer,
        f"started within {time.monotonic() - started:.0f} s: {answer}",
    )
    for unit in ("tiercel", "tiercel-worker"):
        expect(machine.show(unit, "ActiveState") == "active", f"{unit} is active")
        print("  " + machine.run(f"systemd-analyze security --no-pager {unit} | tail -n 1"))
        _check_limits(machine, unit)
    _check_use(machine)
    for unit in ("tiercel", "tiercel-worker"):
        _check_restart(machine, unit)
        _check_stop(machine, unit)


def _read_steps() -> tuple[str, str]:
    """Return the commands of the page, before and after what its reader sets."""
    page = (PAGES / "systemd.md").read_text()
    block = page.split("## Install")[1].split("```text\n")[1].split("```")[0]
    steps, mark, starts = block.partition("systemctl daemon-reload\n")
    return steps, mark + starts


def _check_limits(machine: Machine, unit: str) -> None:
    """See that processes of a unit may do no more than it says."""
    process = machine.show(unit, "MainPID")
    confined = _is_confined(_read_status(machine.run(f"cat /proc/{process}/status")))
    expect(confined, f"{unit} has no capability, cannot get one, and is filtered")
    # The namespaces of the unit, and its user.
    inside = f"nsenter --target {process} --mount setpriv --reuid tiercel --regid tiercel --clear-groups"
    writable = machine.run(
        f"for place in / /usr /etc/tiercel /var/log /home /dev /tmp /var/lib/tiercel; do"
        f' {inside} sh -c "touch $place/x && rm $place/x" 2>/dev/null && echo $place; done; true'
    )
    expect(writable.split() == ["/tmp", "/var/lib/tiercel"], f"{unit} can write to {writable.split()}")
    expect(machine.run(f"nsenter --target {process} --mount ls /tmp") == "", f"{unit} has a /tmp of its own")


def _read_status(text: str) -> dict[str, str]:
    """Return what the system says of a process: proc_pid_status(5)."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _is_confined(status: Mapping[str, str]) -> bool:
    capabilities = {int(status[name], 16) for name in ("CapBnd", "CapEff", "CapPrm")}
    return capabilities == {0} and (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def _check_use(machine: Machine) -> None:
    machine.run(
        "set -a; . /etc/tiercel/tiercel.env; set +a; cd /etc/tiercel; export TIERCEL_HOME=/var/lib/tiercel"
        f" TIERCEL_PASSWORD='{PASSWORD}';"
        " setpriv --reuid tiercel --regid tiercel --clear-groups"
        f" /opt/tiercel/bin/tiercel accounts create-admin {EMAIL}"
    )
    curl = f"curl -s -u '{EMAIL}:{PASSWORD}' -H 'Content-Type: application/json' -H 'Host: api.example.com'"
    event = {**_EVENT, "service": "installed"}
    sent = machine.run(f"{curl} http://127.0.0.1:8000/api/requests/ingest/ -d '{json.dumps([event])}'")
    expect(json.loads(sent).get("inserted") == 1, "it stores an event")
    url = "http://127.0.0.1:8000/api/v1/jobs/"
    job = json.loads(machine.run(f"""{curl} {url} -d '{{"name": "observability.rollups"}}'"""))["data"]["id"]
    states = iter(lambda: json.loads(machine.run(f"{curl} {url}{job}/"))["data"]["state"], None)
    expect(eventually(lambda: next(states) == "succeeded", 60), "the worker ran a job")


def _check_restart(machine: Machine, unit: str) -> None:
    former = machine.show(unit, "MainPID")
    machine.run(f"systemctl kill --kill-whom=main --signal=KILL {unit}")

    def is_back() -> bool:
        return machine.show(unit, "ActiveState") == "active" and machine.show(unit, "MainPID") not in ("0", former)

    expect(eventually(is_back, 60), f"{unit} is started again after SIGKILL of its main process")
    if unit == "tiercel":
        expect(
            machine.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/readyz") == "200", "it is ready"
        )


def _check_stop(machine: Machine, unit: str) -> None:
    started = time.monotonic()
    machine.run(f"systemctl stop {unit}")
    took_s = time.monotonic() - started
    result = machine.show(unit, "Result")
    expect(result == "success" and took_s < 30, f"{unit} stopped within 30 s: {took_s:.1f} s, {result}")


# --- pods -----------------------------------------------------------------------------------------------------------


def run_pods(engine: Engine, images: Images, cleanup: ExitStack) -> None:
    """Run the pods of the Kubernetes example, one after the other, beside a database."""
    if not engine.is_podman:
        print("  left out: only Podman runs pods")
        return
    image = images.tiercel()
    database_image = yaml.safe_load(COMPOSE.read_text())["services"]["db"]["image"]
    images.stand_in("db", database_image)
    password = secrets.token_hex(12)
    variables = {"POSTGRES_USER": "tiercel", "POSTGRES_DB": "tiercel", "POSTGRES_PASSWORD": password}
    engine.remove(NAME)
    cleanup.callback(engine.remove, NAME)
    engine.run(
        "run", "-d", "--name", NAME, *(f"--env={name}={value}" for name, value in variables.items()), database_image
    )
    address = engine.run("inspect", "--format={{.NetworkSettings.IPAddress}}", NAME).strip()
    secret = {
        "database-url": f"postgresql://tiercel:{password}@{address}/tiercel",
        "secret-key": secrets.token_hex(32),
        "metrics-token": secrets.token_hex(32),
    }
    directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
    made = run(["kubectl", "kustomize", str(DEPLOY / "kubernetes" / "overlays" / "example")])
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(made)}
    (configured,) = [each for (kind, _), each in objects.items() if kind == "ConfigMap"]
    (directory / "configmap.yaml").write_text(yaml.safe_dump(configured))
    for kind, name in (("Job", "tiercel-migrate"), ("Deployment", "tiercel-web"), ("Deployment", "tiercel-worker")):
        spec = objects[kind, name]["spec"]["template"]["spec"]
        container = _start_pod(engine, cleanup, directory, name, spec, image, secret)
        if kind == "Job":
            expect(eventually(partial(engine.has_ended, container), 120), f"{name} ended")
            expect(engine.state(container)["ExitCode"] == 0, f"{name} ended with 0")
        else:
            _check_pod(engine, container, name, spec, secret)


def _start_pod(
    engine: Engine,
    cleanup: ExitStack,
    directory: Path,
    name: str,
    spec: dict[str, Any],
    image: str,
    secret: Mapping[str, str],
) -> str:
    """Start a pod, and return its container.

    What a kubelet does and Podman 4 does not is done here: variables of secrets and of fields, and those in others; and
    its probes, which Podman would ask with a program that the image does not have.
    """
    pod = f"{NAME}-{name}"
    (container,) = spec["containers"]
    values: dict[str, str] = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        value = (
            secret[source["secretKeyRef"]["key"]] if "secretKeyRef" in source else variable.get("value", "127.0.0.1")
        )
        values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], value)
    kept = {
        key: value
        for key, value in container.items()
        if not key.endswith("Probe") and key not in ("ports", "lifecycle")
    }
    kept |= {"image": image, "env": [{"name": key, "value": value} for key, value in values.items()]}
    # Podman makes volumes of these names.
    volumes = [{**volume, "name": f"{pod}-{volume['name']}"} for volume in spec["volumes"]]
    kept["volumeMounts"] = [{**mount, "name": f"{pod}-{mount['name']}"} for mount in container["volumeMounts"]]
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod},
        "spec": {**spec, "containers": [kept], "volumes": volumes},
    }
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest))
    for volume in volumes:
        cleanup.callback(engine.succeeds, "volume", "rm", volume["name"])
    engine.succeeds("pod", "rm", "--force", pod)
    cleanup.callback(engine.succeeds, "pod", "rm", "--force", pod)
    engine.run("kube", "play", f"--configmap={directory / 'configmap.yaml'}", str(file))
    return f"{pod}-{container['name']}"


def _check_pod(engine: Engine, container: str, name: str, spec: Mapping[str, Any], secret: Mapping[str, str]) -> None:
    (contained,) = spec["containers"]

    def ask(path: str, token: str = "") -> str:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = f"r.Request('http://127.0.0.1:8000{path}', headers={headers})"
        script = f"import urllib.request as r; print(r.urlopen({request}).status)"
        return engine.run("exec", container, "python", "-c", script, check=False).strip()

    def succeeds(path: str) -> bool:
        return ask(path) == "200"

    probes = {kind: contained[f"{kind}Probe"]["httpGet"]["path"] for kind in _PROBES if f"{kind}Probe" in contained}
    for kind, path in probes.items():
        expect(eventually(partial(succeeds, path), 120), f"{name}: the {kind} probe, {path}, succeeds")
    if probes:
        token = secret["metrics-token"]
        expect(
            (ask("/metrics"), ask("/metrics", token)) == ("", "200"), f"{name}: /metrics is for those with the token"
        )
    else:
        expect(eventually(lambda: "job_done" in engine.logs(container), 120), f"{name} runs jobs")
    status = _read_status(engine.run("exec", container, "cat", "/proc/1/status"))
    expect(status["Uid"].split() == ["10001"] * 4 and _is_confined(status), f"{name} is 10001, without capabilities")
    expect(not engine.succeeds("exec", container, "touch", "/opt/tiercel/x"), f"{name} cannot write to its root")
    hook = contained.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    if hook:
        expect(engine.succeeds("exec", container, *hook), f"{name} has what runs before it is stopped")
    limit_s = float(spec["terminationGracePeriodSeconds"])
    engine.stop(container, name, limit_s, f"--time={limit_s:g}")


STEPS: Mapping[str, Callable[[Engine, Images, ExitStack], None]] = {
    "image": run_image,
    "compose": run_compose,
    "systemd": run_systemd,
    "pods": run_pods,
}


@contextmanager
def _cleaned(keep: bool) -> Iterator[ExitStack]:
    """Undo at the end what was made, unless it is kept."""
    cleanup = ExitStack()
    try:
        yield cleanup
    finally:
        if not keep:
            cleanup.close()


def main() -> None:
    """Run the steps."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.engine", description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--engine", default=shutil.which("docker") or "podman", metavar="PROGRAM")
    parser.add_argument("--postgres", type=Path, metavar="DIRECTORY")
    parser.add_argument("--root", type=Path, metavar="DIRECTORY")
    parser.add_argument("--keep", action="store_true", help="keep what was made, for the next run")
    options = parser.parse_args()
    engine = Engine(options.engine)
    try:
        with _cleaned(options.keep) as made:
            images = Images(engine, made, options.root, options.postgres)
            for name in options.steps or STEPS:
                print(f"{name}:")
                with _cleaned(options.keep) as started:
                    STEPS[name](engine, images, started)
    except FailedError as error:
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()
