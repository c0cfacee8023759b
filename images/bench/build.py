#!/usr/bin/env python3
"""Build the bench image, unless the one there is made of the same parts.

The parts are the Containerfile, the requirements, the sources of trialbench and the base image's ID; their hash is a
label of the image and its tag. Wheels are downloaded here, on the controller, for the Pythons of the supported bases:
the build itself needs a network for the distribution's python3 alone.

Writes build/bench-image.json: {id, tag, base, base_id, added_mb, trialbench_version, workloads}; `added_mb` is the size
on top of the base in megabytes (1e6 bytes), `workloads` are the names of those packaged in it. Prints progress on
standard error and the image's ID, alone, on standard output.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = ROOT / "bench" / "trialbench"
LABEL = "edgelab.model_trial.bench"
REPOSITORY = "edgelab/bench"
MAX_ADDED_MB = 100
# The worker serves an engine on a host, and travels as a program of its own; ground truth runs outside of a window.
NOT_SHIPPED = ("worker", "ground_truth")
# Debian trixie has Python 3.13, Ubuntu 24.04 (upstream's server image) 3.12: the context has the wheels for both.
PYTHON_VERSIONS = ("3.12", "3.13")
PIP = "pip==26.3"
PLATFORMS = {"amd64": "manylinux2014_x86_64", "arm64": "manylinux2014_aarch64"}


class BuildError(Exception):
    """The image cannot be built; the text says why and what to do."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)


def source_files(folder: Path) -> list[Path]:
    """The files of the package that go into the image, sorted."""
    left_out = {"__pycache__", *NOT_SHIPPED}
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and left_out.isdisjoint(path.relative_to(folder).parts)
    )


def content_hash(base_id: str) -> str:
    """SHA-256 over everything that decides the image's content."""
    digest = hashlib.sha256(f"{base_id}\0{PIP}\0{PYTHON_VERSIONS}\0".encode())
    for path in (HERE / "Containerfile", HERE / "requirements.txt", *source_files(SOURCES)):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def trialbench_version() -> str:
    """The version in the sources."""
    match = re.search(r'^__version__ = "([^"]+)"', (SOURCES / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise BuildError(f"expected __version__ in {SOURCES / '__init__.py'}, found none")
    return match[1]


def default_base() -> str:
    """The CPU base image, built if it is not there."""
    command = [sys.executable, str(ROOT / "images" / "base" / "build.py")]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = built.stdout.split()
    if built.returncode != 0 or not lines:
        raise BuildError("the CPU base image could not be built; the reason is above")
    return lines[-1]


def download_wheels(folder: Path, architecture: str) -> None:
    """Everything in requirements.txt, and pip, as wheels for the image's Pythons."""
    if architecture not in PLATFORMS:
        raise BuildError(f"expected a base image for {' or '.join(PLATFORMS)}, found {architecture!r}")
    say("downloading wheels")
    for version in PYTHON_VERSIONS:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", version]
        command += ["--platform", PLATFORMS[architecture], "--dest", str(folder)]
        if subprocess.run([*command, "-r", str(HERE / "requirements.txt"), PIP], check=False).returncode != 0:
            raise BuildError(f"the wheels for Python {version} could not be downloaded; pip's reason is above")


def make_context(folder: Path) -> io.BytesIO:
    """The build context as a tar archive: wheels from `folder`, trialbench, Containerfile, requirements."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:

        def add(path: Path, name: str) -> None:
            # The checkout's owner, umask and times must not decide what the image holds.
            entry = archive.gettarinfo(path, name)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mode, entry.mtime = 0o644, 0
            with path.open("rb") as data:
                archive.addfile(entry, data)

        add(HERE / "Containerfile", "Containerfile")
        add(HERE / "requirements.txt", "requirements.txt")
        for path in sorted(folder.glob("*.whl")):
            add(path, f"wheels/{path.name}")
        for path in source_files(SOURCES):
            add(path, f"trialbench/{path.relative_to(SOURCES)}")
    stream.seek(0)
    return stream


def steps(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The lines worth showing of a build's events.

    Raises:
        BuildError: the build failed; with its last lines.
    """
    tail: list[str] = []
    for event in events:
        if "error" in event:
            raise BuildError("\n".join(["the build failed; its last lines:", *tail[-20:], event["error"].strip()]))
        text = str(event.get("stream", "")).strip()
        if text:
            tail.append(text)
        if text.startswith("Step "):
            yield text[:100]


def build(client: docker.DockerClient, base_image: Any, parts: str, tag: str) -> None:
    """Build and tag the image."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-image-") as name:
        download_wheels(Path(name), base_image.attrs["Architecture"])
        context = make_context(Path(name))
    # By ID: a tag could be moved between looking at the base and building on it.
    events = client.api.build(
        fileobj=context,
        custom_context=True,
        dockerfile="Containerfile",
        tag=tag,
        buildargs={"BASE_IMAGE": base_image.id},
        labels={LABEL: parts},
        network_mode="host",
        rm=True,
        forcerm=True,
        decode=True,
    )
    for line in steps(events):
        say(line)
    say(f"built in {time.monotonic() - started:.0f} s")


def find_base(client: docker.DockerClient, base: str) -> Any:
    """The base image, pulled if it is named by digest and not there."""
    try:
        return client.images.get(base)
    except ImageNotFound:
        if "@sha256:" not in base:
            raise BuildError(
                f"expected the base image {base} on this machine, or named by digest (NAME@sha256:...) to be pulled; "
                "found neither. `make pin` resolves a tag to its digest."
            ) from None
    say(f"pulling {base}")
    for event in client.api.pull(base, stream=True, decode=True):
        if "error" in event:
            raise BuildError(f"{base} could not be pulled: {event['error']}")
        if event.get("status") in ("Pull complete", "Download complete"):
            say(f"{event.get('id', '')}: {event['status']}")
    return client.images.get(base)


def ensure(client: docker.DockerClient, base: str, *, force: bool = False) -> dict[str, Any]:
    """The image for `base`, built if need be, and what build/bench-image.json says about it."""
    base_image = find_base(client, base)
    parts = content_hash(base_image.id)
    tag = f"{REPOSITORY}:{parts[:12]}"
    try:
        image = client.images.get(tag)
        if force or image.labels.get(LABEL) != parts:
            raise ImageNotFound(tag)
        say(f"{tag} is up to date")
    except ImageNotFound:
        say(f"building {tag} on {base}")
        build(client, base_image, parts, tag)
        image = client.images.get(tag)
    added_mb = round((image.attrs["Size"] - base_image.attrs["Size"]) / 1e6, 1)
    say(f"{tag}: {added_mb} MB on top of its base")
    if added_mb > MAX_ADDED_MB:
        raise BuildError(f"expected at most {MAX_ADDED_MB} MB on top of the base, found {added_mb} MB")
    return {
        "id": image.id,
        "tag": tag,
        "base": base,
        "base_id": base_image.id,
        "added_mb": added_mb,
        "trialbench_version": trialbench_version(),
        "workloads": sorted(path.stem for path in (SOURCES / "workloads").glob("*.yml")),
    }


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the bench image: llama-server and trialbench.")
    parser.add_argument(
        "--base", help="image with llama-server: a local one, or NAME@sha256:... (default: the CPU base)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-image.json")
    parser.add_argument("--force", action="store_true", help="build even if nothing has changed")
    options = parser.parse_args()
    try:
        base = options.base or default_base()
        client = docker.from_env(timeout=600)
        found = ensure(client, base, force=options.force)
    except (BuildError, APIError) as error:
        say(f"error: {error}")
        return 1
    except DockerException as error:
        say(f"error: no answer from the Docker engine: {error}. `make setup` installs and starts one.")
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    part = options.out.with_suffix(".part")
    part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    shutil.move(part, options.out)
    print(found["id"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
