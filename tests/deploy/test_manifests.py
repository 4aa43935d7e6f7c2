"""What contrib/deploy has for Compose, Kubernetes and systemd: valid, and about the service that there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kernel.app import Tiercel
from kernel.registry import KERNEL_COMMANDS
from kernel.testing import make_configuration
from tests.contract.tree import DOCS, ROOT
from tests.deploy.schemas import load
from tests.processes import find_program

DEPLOY = ROOT / "contrib" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: Mapping[str, Any] = COMPOSE["services"]
BASE = DEPLOY / "kubernetes" / "base"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PAGES = sorted((DOCS / "operations" / "deploy").glob("*.md"))
# Such as ${NAME:-default} and ${NAME:?what is wrong}.
_INTERPOLATED = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
_VARIABLE = re.compile(r"\bTIERCEL_\w+")
_PINNED = re.compile(r"^[a-z0-9./-]+:[a-z]*\d+(\.\d+)+(-[a-z0-9]+)*$")
# What only Compose reads: it goes into nothing but its own file.
# What the reader makes.
_MADE = ("contrib/deploy/.env", "contrib/deploy/tls")
_OF_COMPOSE = {"TIERCEL_IMAGE", "TIERCEL_THROTTLE_BACKEND"}


def settings() -> set[str]:
    """Return the variables of the reference: by key, and the further ones."""
    page = (DOCS / "reference" / "settings.md").read_text()
    keys = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    return {"TIERCEL_" + key.replace(".", "__").upper() for key in keys} | set(re.findall(r"`(TIERCEL_\w+)`", page))


def commands_work(arguments: list[str]) -> bool:
    """Tell whether a command of the image is one of ``tiercel``."""
    return arguments[0].endswith("tiercel") and arguments[1] in KERNEL_COMMANDS


# --- Compose --------------------------------------------------------------------------------------------------------


def test_the_compose_file_is_valid() -> None:
    jsonschema.validate(COMPOSE, load("compose"))

    assert set(SERVICES) == {"db", "migrate", "web", "worker", "nginx", "prometheus", "grafana", "redis"}
    assert SERVICES["redis"]["profiles"] == ["redis"]
    assert [name for name, service in SERVICES.items() if name != "redis" and "profiles" in service] == []


def test_every_image_of_the_compose_file_is_one_version() -> None:
    images = {_INTERPOLATED.sub(r"\3", service["image"]) for service in SERVICES.values()}

    assert [image for image in images if not _PINNED.match(image)] == []


def test_the_compose_file_sets_what_the_service_has() -> None:
    for name in ("migrate", "web", "worker"):
        assert set(SERVICES[name]["environment"]) <= settings()
        assert name == "web" or commands_work(SERVICES[name]["command"])


def test_the_compose_file_waits_for_the_database_and_migrates_once() -> None:
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}

    assert waits["migrate"] == {"db": {"condition": "service_healthy"}}
    assert waits["web"] == waits["worker"] == {"migrate": {"condition": "service_completed_successfully"}}
    # And starts again with what it keeps the address of.
    assert waits["nginx"] == {"web": {"condition": "service_healthy", "restart": True}}


def test_nothing_of_the_compose_file_can_do_more_than_it_must() -> None:
    own = {name: service for name, service in SERVICES.items() if name != "db"}
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in own.values())
    assert all("no-new-privileges:true" in service["security_opt"] for service in SERVICES.values())
    # Only what terminates TLS is published to others, and it does not reach the database.
    assert set(published) == {"nginx", "grafana"}
    assert all(port.startswith("127.0.0.1:") for port in published["grafana"])
    assert "data" not in networks["nginx"] | networks["prometheus"] | networks["grafana"]
    assert [name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")] == ["outside"]
    assert "outside" not in networks["db"]


def test_the_compose_file_mounts_what_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]

    assert mounted
    assert [path for path in mounted if not (DEPLOY / path).exists()] == []


def test_the_proxy_of_the_compose_file_is_trusted_and_asks_the_service() -> None:
    (subnet,) = [each["subnet"] for each in COMPOSE["networks"]["proxy"]["ipam"]["config"]]
    nginx = (DEPLOY / "nginx" / "tiercel.conf").read_text()
    targets = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    container_ports = {port.rsplit(":", 1)[1] for port in SERVICES["nginx"]["ports"]}

    assert SERVICES["web"]["environment"]["TIERCEL_HTTP__TRUSTED_PROXIES"] == subnet
    assert SERVICES["web"]["environment"]["TIERCEL_HTTP__ALLOWED_HOSTS"].endswith(",web")
    assert "server web:8000" in nginx
    assert targets["static_configs"] == [{"targets": ["web:8000"]}]
    assert set(re.findall(r"^    listen (\d+)", nginx, re.MULTILINE)) == container_ports
    assert SERVICES["web"]["expose"] == ["8000"]


def test_the_proxy_has_a_network_that_engines_give_to_no_other() -> None:
    (subnet,) = [each["subnet"] for each in COMPOSE["networks"]["proxy"]["ipam"]["config"]]
    # The default address pools of Docker and of Podman. The other networks of the file get theirs from these.
    pools = ["172.17.0.0/16", "172.18.0.0/15", "172.20.0.0/14", "172.24.0.0/13", "192.168.0.0/16", "10.88.0.0/13"]
    pools += ["10.96.0.0/11", "10.128.0.0/9"]

    assert [pool for pool in pools if ip_network(subnet).overlaps(ip_network(pool))] == []


def test_the_example_has_what_the_compose_file_asks_for_and_no_secret() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    asked = {match[1]: match[2] for match in _INTERPOLATED.finditer(text)}
    example = (DEPLOY / ".env.example").read_text()
    needed = {name for mark, name in re.findall(r"^(# )?([A-Z_]+)=", example, re.MULTILINE) if not mark}

    assert needed == {name for name, kind in asked.items() if kind == "?"}
    assert set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.MULTILINE)) == set(asked)
    assert re.findall(r"^[A-Z_]+=.+$", example, re.MULTILINE) == []


# --- Kubernetes -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """What the example overlay makes."""
    command = [find_program("kubectl"), "kustomize", str(DEPLOY / "kubernetes" / "overlays" / "example")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(ran.stdout))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """List name, labels and specification of the pods that are made."""
    for each in (*of_kind(objects, "Deployment"), *of_kind(objects, "Job")):
        template = each["spec"]["template"]
        yield each["metadata"]["name"], template["metadata"]["labels"], template["spec"]


def test_every_manifest_is_valid(objects: list[dict[str, Any]]) -> None:
    schema = load("kubernetes")
    names: dict[tuple[str, str], str] = {}
    for definition in schema["$defs"]:
        *_, version, kind = definition.split(".")
        names[kind, version] = definition
    for each in objects:
        version = each["apiVersion"].rpartition("/")[2]
        # The schema itself is published: it need not be checked for each object.
        jsonschema.Draft202012Validator({**schema, "$ref": f"#/$defs/{names[each['kind'], version]}"}).validate(each)

    kinds = {each["kind"] for each in objects}
    assert kinds >= {"Deployment", "Job", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "Ingress"}
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in objects} == {"tiercel"}


def test_probes_are_routes_of_the_service_on_its_port(objects: list[dict[str, Any]]) -> None:
    routes = {mounted.template for mounted in Tiercel(make_configuration(log={"level": "error"})).shared.routes}
    (web,) = [spec["containers"][0] for name, _, spec in pods(objects) if name == "tiercel-web"]
    probes = {kind: web[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}

    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/startupz",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["path"] for probe in probes.values()} <= routes
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert {port["name"]: port["containerPort"] for port in web["ports"]} == {"http": 8000}


def test_pods_set_what_the_service_has_and_take_secrets_by_reference(objects: list[dict[str, Any]]) -> None:
    known = settings()
    (configured,) = [each["data"] for each in of_kind(objects, "ConfigMap")]

    assert set(configured) <= known
    assert of_kind(objects, "Secret") == []
    for _, _, spec in pods(objects):
        (container,) = spec["containers"]
        variables = {each["name"]: each for each in container["env"]}
        assert set(variables) - known <= {"POD_IP", "PUBLIC_HOSTS"}
        secret = {name for name, each in variables.items() if "secretKeyRef" in each.get("valueFrom", {})}
        assert {"TIERCEL_DATABASE_URL"} <= secret
        assert {"TIERCEL_DATABASE_URL", "TIERCEL_SECRET_KEY", "TIERCEL_METRICS__TOKEN"} & set(variables) == secret
        assert "args" not in container or commands_work(container["args"])
        assert container["image"] == "registry.example.com/tiercel:0.1.0"


def test_pods_are_restricted(objects: list[dict[str, Any]]) -> None:
    (namespace,) = of_kind(objects, "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for _, _, spec in pods(objects):
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/tiercel", "/tmp"}


def test_selectors_find_their_pods(objects: list[dict[str, Any]]) -> None:
    labels = {name: set(each.items()) for name, each, _ in pods(objects)}
    selectors = {
        f"{each['kind']} {each['metadata']['name']}": each["spec"].get("podSelector", each["spec"].get("selector"))
        for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy")
        for each in of_kind(objects, kind)
    }
    found = {
        name: {pod for pod, own in labels.items() if set(selector.get("matchLabels", selector).items()) <= own}
        for name, selector in selectors.items()
    }
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")

    assert found == {
        "Service tiercel": {"tiercel-web"},
        "PodDisruptionBudget tiercel-web": {"tiercel-web"},
        "PodDisruptionBudget tiercel-worker": {"tiercel-worker"},
        "NetworkPolicy tiercel": {"tiercel-web", "tiercel-worker", "tiercel-migrate"},
        "NetworkPolicy tiercel-web": {"tiercel-web"},
        "NetworkPolicy tiercel-worker": {"tiercel-worker"},
    }
    assert scaler["spec"]["scaleTargetRef"]["name"] == "tiercel-web"


# --- systemd --------------------------------------------------------------------------------------------------------

# On a scale to 10, of `systemd-analyze security`.
EXPOSURE_MAX = 1.5


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the units are installed, with what they start."""
    root = tmp_path_factory.mktemp("machine")
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    for name in ("basic", "multi-user", "network-online", "shutdown", "sysinit"):
        (units / f"{name}.target").write_text("[Unit]\n")
    for unit in UNITS:
        shutil.copy(unit, units)
    program = root / "opt/tiercel/bin/tiercel"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    return root


def analyze(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [find_program("systemd-analyze"), f"--root={machine}", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def test_units_are_valid_and_hardened(machine: Path) -> None:
    verified = analyze(machine, "verify", *(str(machine / "etc/systemd/system" / unit.name) for unit in UNITS))
    exposures = {
        unit.name: analyze(machine, "security", "--no-pager", "--offline=true", unit.name).stdout.splitlines()[-1]
        for unit in UNITS
    }

    assert (verified.returncode, verified.stdout) == (0, "")
    assert [unit.name for unit in UNITS] == ["tiercel-worker.service", "tiercel.service"]
    assert [line for line in exposures.values() if float(line.split(": ")[1].split()[0]) > EXPOSURE_MAX] == []


def test_units_start_commands_that_there_are() -> None:
    started = [re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE) for unit in UNITS]

    assert all(len(each) == 1 and commands_work(each[0].split()) for each in started)


# --- all of them ----------------------------------------------------------------------------------------------------


def test_every_variable_of_files_and_pages_is_a_setting() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    known = settings() | _OF_COMPOSE
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (*files, *PAGES)
        for name in _VARIABLE.findall(path.read_text())
        if name not in known and not name.endswith("_")
    }

    assert sorted(wrong) == []


def test_pages_name_files_that_are_there() -> None:
    named = {(page.name, path) for page in PAGES for path in re.findall(r"\bcontrib/[\w./-]*\w", page.read_text())}

    assert {page.stem for page in PAGES} == {"container", "fly", "kubernetes", "railway", "render", "systemd"}
    assert len(named) > len(PAGES)
    assert (
        sorted((page, path) for page, path in named if not (ROOT / path).exists() and not path.startswith(_MADE)) == []
    )


def test_pages_say_whom_create_admin_creates() -> None:
    pages = {page.name: re.findall(r"create-admin(?: ([\w@.-]+))?", page.read_text()) for page in PAGES}

    assert sum(map(len, pages.values())) > 1
    assert {name: who for name, found in pages.items() for who in found if "@" not in who and who != "--help"} == {}


def test_the_workflow_is_valid_and_runs_what_everybody_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    # YAML 1.1 reads the key `on` as a truth value.
    workflow = {"on" if key is True else key: value for key, value in workflow.items()}
    jsonschema.validate(workflow, load("github-workflows"))

    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
    assert set(workflow["on"]) == {"push", "pull_request"}
