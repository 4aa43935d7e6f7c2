"""Build the image of the Containerfile without a container engine, and run it: its own steps, in a mount namespace.

    python -m tests.deploy.image DIRECTORY [--base ROOT] [--build-arg NAME=VALUE]
    python -m tests.deploy.image DIRECTORY --run [COMMAND ...]

The base image is the programs of this machine, ``/usr`` and the Python that runs this, which steps cannot change; or
any root that has ``python`` and ``pip``, such as the one that this makes:

    debootstrap --variant=minbase --include=ca-certificates,python-is-python3,python3-pip,python3-venv bookworm ROOT

Needs root, ``unshare`` and ``setpriv`` of util-linux. What an image of an engine has and this has not: layers, and
namespaces of processes and of the network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from string import Template

import msgspec
import pip

ROOT = Path(__file__).parent.parent.parent
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
# Of /etc, what a base image has as well, and how this machine reaches others. No account's secrets.
_ETC = ("alternatives", "default", "ld.so.cache", "login.defs", "nsswitch.conf", "ssl")
_ETC_OF_NETWORK = ("hosts", "pip.conf", "resolv.conf", "xdg/pip")
# The accounts that a new Debian has.
_ACCOUNTS = Path("/usr/share/base-passwd")
# How pip reaches its registry; an engine passes on such variables as well.
INHERITED_IN_BUILDS = re.compile(r"PIP_\w+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|(HTTPS?|NO)_PROXY", re.IGNORECASE)
_CACHE = re.compile(r"^--mount=type=cache,target=(\S+)$")
_STAGE = re.compile(r"^(\S+)(?: AS (\S+))?$", re.IGNORECASE)
_WITHOUT_STEP = ("CMD", "EXPOSE", "HEALTHCHECK", "LABEL", "VOLUME")


class Image(msgspec.Struct):
    """A stage of the Containerfile, built in a directory.

    Args:
        root: The directory that is ``/``.
        mounts: Read-only directories of this machine that belong to it, at the same path.
        environment: ``ENV``, and while it is built ``ARG``.
        workdir: ``WORKDIR``.
        user: ``USER``, as ``uid:gid``; empty for root.
        health: The arguments of ``HEALTHCHECK CMD``.
        command: ``CMD``.
        volumes: ``VOLUME``.
    """

    root: str
    mounts: list[str]
    environment: dict[str, str]
    workdir: str = "/"
    user: str = ""
    health: list[str] = []
    command: list[str] = []
    volumes: list[str] = []

    def run_command(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str] | None = None,
        volumes: Mapping[Path, str] | None = None,
    ) -> list[str]:
        """Return a command that runs the image as ``podman run --read-only --cap-drop=all`` would, with a ``/tmp``.

        Its process is that of the image: signals reach it.

        Args:
            arguments: The command; ``CMD`` if empty.
            variables: Further environment variables.
            volumes: Paths in the image by directories of this machine that are mounted there, writable.
        """
        uid, _, gid = self.user.partition(":")
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
        as_user += ["--inh-caps=-all", "--bounding-set=-all", "--"]
        environment = {**self.environment, **(variables or {})}
        return self._enter([*as_user, *(arguments or self.command)], environment, volumes or {}, read_only=True)

    def step_command(self, arguments: Sequence[str], caches: Mapping[Path, str]) -> list[str]:
        """Return a command that runs a step of the build, as root."""
        inherited = {name: value for name, value in os.environ.items() if INHERITED_IN_BUILDS.fullmatch(name)}
        return self._enter(arguments, {**inherited, **self.environment}, caches, read_only=False)

    def _enter(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        volumes: Mapping[Path, str],
        *,
        read_only: bool,
    ) -> list[str]:
        root = shlex.quote(self.root)
        lines = ["mount --make-rprivate /", f"mount --bind {root} {root}"]
        for path in self.mounts:
            target = shlex.quote(self.root + path)
            lines += [f"mount --bind {shlex.quote(path)} {target}", f"mount -o remount,bind,ro {target}"]
        lines += [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        lines += [f"mount -t tmpfs -o mode=1777 tmpfs {root}{place}" for place in ("/dev/shm", "/tmp")]
        for directory, place in volumes.items():
            lines.append(f"mount --bind {shlex.quote(str(directory))} {root}{shlex.quote(place)}")
        if read_only:
            lines.append(f"mount -o remount,bind,ro {root}")
        inside = ["env", "-i", "-C", self.workdir, *(f"{name}={value}" for name, value in environment.items())]
        lines.append(f"exec chroot {root} {shlex.join([*inside, *arguments])}")
        return ["unshare", "--mount", "sh", "-euc", "\n".join(lines)]


def build(directory: Path, base: Path | None = None, arguments: Mapping[str, str] | None = None) -> Image:
    """Build the image of the Containerfile in a directory, and return its last stage.

    Args:
        directory: Is made; each stage gets a directory in it.
        base: A root to copy as the base image; the programs of this machine by default.
        arguments: ``--build-arg``.

    Raises:
        ValueError: The Containerfile has an instruction that is not known here, or copies what ``.dockerignore`` leaves
            out.
        subprocess.CalledProcessError: A step failed.
    """
    given = dict(arguments or {})
    defaults: dict[str, str] = {}
    stages: dict[str, Image] = {}
    image: Image | None = None
    for instruction, rest in read_instructions((ROOT / "Containerfile").read_text()):
        if instruction == "FROM":
            match = _STAGE.match(_expand(rest, {**defaults, **given}))
            assert match is not None, rest
            image = _make_base(directory / f"stage-{len(stages)}", base)
            stages[match[2] or ""] = image
        elif image is None:
            # Before the first stage there are only the arguments of FROM.
            name, _, value = rest.partition("=")
            defaults[name] = value
        else:
            _apply(image, instruction, rest, given, stages)
    assert image is not None, "the Containerfile has no FROM"
    return image


def read_instructions(text: str) -> Iterator[tuple[str, str]]:
    """List the instructions of a Containerfile with their arguments; format: https://docs.docker.com/reference/dockerfile/."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            yield instruction.upper(), rest.strip()


def _apply(image: Image, instruction: str, rest: str, given: Mapping[str, str], stages: Mapping[str, Image]) -> None:
    if instruction == "ARG":
        name, _, value = rest.partition("=")
        image.environment[name] = given.get(name, value)
    elif instruction == "ENV":
        for assignment in shlex.split(rest):
            name, _, value = assignment.partition("=")
            image.environment[name] = _expand(value, image.environment)
    elif instruction == "WORKDIR":
        image.workdir = rest
        Path(image.root + rest).mkdir(parents=True, exist_ok=True)
    elif instruction == "USER":
        image.user = rest
    elif instruction == "COPY":
        _copy(image, rest.split(), stages)
    elif instruction == "RUN":
        _run(image, rest)
    elif instruction in _WITHOUT_STEP:
        _configure(image, instruction, rest)
    else:
        raise ValueError(f"the Containerfile has an instruction that is not known here: {instruction}")


def _configure(image: Image, instruction: str, rest: str) -> None:
    if instruction == "CMD":
        image.command = json.loads(rest)
    elif instruction == "HEALTHCHECK":
        image.health = json.loads(rest.partition("CMD ")[2])
    elif instruction == "VOLUME":
        image.volumes.append(rest)


def _copy(image: Image, arguments: list[str], stages: Mapping[str, Image]) -> None:
    *sources, target = arguments
    place = Path(f"{image.root}{PurePosixPath(image.workdir, target)}")
    if sources[0].startswith("--from="):
        built = stages[sources[0].partition("=")[2]].root + sources[1]
        shutil.copytree(built, place, symlinks=True, copy_function=os.link)
        return
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    for source in sources:
        if f"!{source}" not in lines:
            raise ValueError(f".dockerignore does not send {source}, which the Containerfile copies")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=_ignore(set(lines)))
        else:
            shutil.copy2(ROOT / source, place / source if place.is_dir() else place)


def _ignore(lines: Collection[str]) -> Callable[[str, list[str]], set[str]]:
    def ignored(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(ROOT)
        return {name for name in names if str(inside / name) in lines or f"**/{name}" in lines}

    return ignored


def _run(image: Image, rest: str) -> None:
    caches: dict[Path, str] = {}
    while match := _CACHE.match(rest.partition(" ")[0]):
        rest = rest.partition(" ")[2].lstrip()
        # The cache of an engine outlives its builds, and so does that of pip.
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pip"
        cache.mkdir(parents=True, exist_ok=True)
        caches[cache] = match[1]
        Path(image.root + match[1]).mkdir(parents=True, exist_ok=True)
    subprocess.run(image.step_command(["sh", "-c", rest], caches), check=True)


def _expand(text: str, variables: Mapping[str, str]) -> str:
    return Template(text).substitute(variables)


def _make_base(root: Path, base: Path | None) -> Image:
    """Make a stage of a root, or of the programs of this machine."""
    if base is not None:
        shutil.copytree(base, root, symlinks=True)
        return Image(str(root), [], {"PATH": _PATH})
    mounts = ["/usr"]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        mounts.append(sys.base_prefix)
    for path in [*mounts, "/dev", "/etc", "/opt", "/proc", "/tmp", "/var/cache", "/var/lib"]:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    for name in (*_ETC, *_ETC_OF_NETWORK):
        _copy_if_there(Path("/etc", name), root / "etc" / name)
    for name in ("passwd", "group"):
        shutil.copy(_ACCOUNTS / f"{name}.master", root / "etc" / name)
    (root / "etc" / "shadow").touch(mode=0o600)
    # An image of Python has both in its PATH, under these names.
    tools = root / "base"
    shutil.copytree(Path(pip.__file__).parent, tools / "pip")
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    for name, arguments in (("python", ""), ("pip", " /base/pip")):
        (tools / "bin").mkdir(exist_ok=True)
        (tools / "bin" / name).write_text(f'#!/bin/sh\nexec {python}{arguments} "$@"\n')
        (tools / "bin" / name).chmod(0o755)
    return Image(str(root), mounts, {"PATH": f"/base/bin:{_PATH}"})


def _copy_if_there(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    elif source.exists():
        shutil.copy(source, target)


def main() -> None:
    """Build, or run what was built before."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.image", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="run a command of the image, or else its own")
    options = parser.parse_args()
    directory: Path = options.directory.absolute()
    built = directory / "image.json"
    if options.run is None:
        arguments = dict(each.split("=", 1) for each in options.build_arg)
        image = build(directory, options.base, arguments)
        built.write_bytes(msgspec.json.encode(image))
        return
    image = msgspec.json.decode(built.read_bytes(), type=Image)
    volumes = {}
    for number, place in enumerate(image.volumes):
        volume = directory / f"volume-{number}"
        volume.mkdir(mode=0o700, exist_ok=True)
        os.chown(volume, *map(int, image.user.split(":")))
        volumes[volume] = place
    variables = {name: value for name, value in os.environ.items() if name.startswith("TIERCEL_")}
    command = image.run_command(options.run, variables, volumes)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
