"""The published schemas that manifests are validated against, without descriptions and what no manifest here uses.

They are kept here because the packages they come from are large. To take newer ones:

    python -m tests.deploy.schemas
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "published_schemas"
# Made from the OpenAPI document of Kubernetes; no field is allowed that it does not have.
KUBERNETES = "kubernetes-validate==1.37.0"
DEFINITIONS = "kubernetes_validate/kubernetes-json-schema/v1.33.0-local-strict/_definitions.json"
VENDORED = "check_jsonschema/builtin_schemas/vendor/"
CHECK_JSONSCHEMA = "check-jsonschema==0.39.0"
KINDS = (
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.batch.v1.Job",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.networking.v1.Ingress",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
)
_REFERENCE = re.compile(r"#/\$defs/([\w.-]+)$")


def load(name: str) -> Any:
    """Return a schema: ``compose``, ``github-workflows``, or ``kubernetes`` with definitions for KINDS."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def _without_descriptions(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_descriptions(each)
            for key, each in value.items()
            # A property of that name is a schema, not a text.
            if not (key in ("description", "$comment") and isinstance(each, str))
        }
    return [_without_descriptions(each) for each in value] if isinstance(value, list) else value


def _references(value: Any) -> set[str]:
    """Return the names of the definitions that a schema refers to; make its references local."""
    if isinstance(value, list):
        return set[str]().union(*map(_references, value))
    if not isinstance(value, dict):
        return set()
    found = set[str]().union(*map(_references, value.values()))
    if isinstance(value.get("$ref"), str) and (match := _REFERENCE.search(value["$ref"])):
        value["$ref"] = f"#/$defs/{match[1]}"
        found.add(match[1])
    return found


def _reachable(definitions: Mapping[str, Any]) -> dict[str, Any]:
    found, new = dict[str, Any](), set(KINDS)
    while new:
        found |= {name: definitions[name] for name in new}
        new = set[str]().union(*(_references(definitions[name]) for name in new)) - found.keys()
    return dict(sorted(found.items()))


def _read(folder: Path, requirement: str, *members: str) -> list[Any]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob(f"{requirement.partition('=')[0].replace('-', '_')}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return [json.loads(archive.read(member)) for member in members]


def main() -> None:
    """Write the schemas anew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (kubernetes,) = _read(folder, KUBERNETES, DEFINITIONS)
        names = ("compose-spec", "github-workflows")
        others = _read(folder, CHECK_JSONSCHEMA, *(f"{VENDORED}{each}.json" for each in names))
    written = {
        "kubernetes": {"$defs": _reachable(_without_descriptions(kubernetes["$defs"]))},
        **dict(zip(("compose", "github-workflows"), map(_without_descriptions, others), strict=True)),
    }
    for target, schema in written.items():
        (FOLDER / f"{target}.json").write_text(json.dumps(schema, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
