#!/usr/bin/env python3
"""Build the two images of the ground truth, unless those there are made of the same parts.

    build.py tools     edgelab/llama-tools: llama-server, llama-quantize and llama-perplexity on the CPU base
    build.py oracle    edgelab/oracle: trialbench with torch and transformers, in Debian's own Python

The oracle's wheels are downloaded here with pip as it is configured: for the CPU build of torch (a tenth of
the size) point pip at an index or a folder that has it. Where that is there for another Python than Debian trixie's,
``--base IMAGE --python 3.11`` builds on a Debian that has this one. Prints the image's name, alone, on standard output.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = ROOT / "bench" / "trialbench"
LABEL = "edgelab.model_trial.ground_truth"
# Debian trixie's.
PYTHON_VERSION = "3.13"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
PIP = "pip==26.3"


class BuildError(Exception):
    """The image cannot be built; the text says why and what to do."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"[ground-truth] {text}", file=sys.stderr, flush=True)


def base_image() -> str:
    """The CPU base image, built if it is not there."""
    command = [sys.executable, str(ROOT / "images" / "base" / "build.py")]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = built.stdout.split()
    if built.returncode != 0 or not lines:
        raise BuildError("the CPU base image could not be built; the reason is above")
    return lines[-1]


def requirements() -> list[str]:
    """What the oracle installs: trialbench's own packages and its extras ground-truth and oracle."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = [*project["dependencies"], *extras["ground-truth"], *extras["oracle"]]
    return sorted(one for one in found if not one.startswith("edgelab-trialbench["))


def source_files() -> list[Path]:
    """The files of the package that go into the image, sorted."""
    return sorted(path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def content_hash(kind: str, base: str, python: str = PYTHON_VERSION) -> str:
    """SHA-256 over everything that decides the image's content."""
    digest = hashlib.sha256(f"{kind}\0{base}\0".encode())
    parts = [HERE / "Containerfile.tools"]
    if kind == "oracle":
        digest.update("\0".join([python, PIP, *requirements()]).encode())
        parts = [HERE / "Containerfile", *source_files()]
    for path in parts:
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def image_name(kind: str, base: str, python: str = PYTHON_VERSION) -> str:
    """Name and tag; the tag is the content's hash, so that a changed recipe never hides behind an old name."""
    return f"edgelab/{'llama-tools' if kind == 'tools' else 'oracle'}:{content_hash(kind, base, python)[:12]}"


def image_exists(name: str) -> bool:
    """Whether the Docker engine has the image."""
    return subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0


def make_context(kind: str, folder: Path, python: str = PYTHON_VERSION) -> None:
    """Put into `folder` what the build needs."""
    if kind == "tools":
        shutil.copyfile(HERE / "Containerfile.tools", folder / "Containerfile")
        return
    shutil.copyfile(HERE / "Containerfile", folder / "Containerfile")
    (folder / "requirements.txt").write_text("".join(f"{one}\n" for one in requirements()), encoding="utf-8")
    for path in source_files():
        target = folder / "trialbench" / path.relative_to(SOURCES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    say("downloading wheels (torch is large)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command += ["--dest", str(folder / "wheels"), "-r", str(folder / "requirements.txt"), PIP]
    if subprocess.run(command, check=False).returncode != 0:
        raise BuildError("the wheels could not be downloaded; pip's reason is above")


def build(kind: str, name: str, base: str, python: str = PYTHON_VERSION) -> None:
    """Build and tag the image."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ground-truth-image-") as folder:
        make_context(kind, Path(folder), python)
        command = ["docker", "build", "--quiet", "--network", "host", "--build-arg", f"BASE_IMAGE={base}"]
        command += ["--label", f"{LABEL}={kind}", "--tag", name, "--file", f"{folder}/Containerfile", folder]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise BuildError(f"the build failed; its last words: {(built.stderr or built.stdout).strip()[-2000:]}")
    say(f"built {name} in {time.monotonic() - started:.0f} s")


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the images of the ground truth.")
    parser.add_argument("kind", choices=["tools", "oracle"])
    parser.add_argument("--print-name", action="store_true", help="print the image's name and build nothing")
    parser.add_argument("--force", action="store_true", help="build even if the image exists")
    parser.add_argument("--base", metavar="IMAGE", help="another base, a Debian (default: the CPU base image)")
    parser.add_argument("--python", default=PYTHON_VERSION, metavar="X.Y", help="the Python that the base's Debian has")
    options = parser.parse_args()
    try:
        if shutil.which("docker") is None:
            raise BuildError("expected the program docker, not found. `make setup` installs it.")
        base = options.base or base_image()
        name = image_name(options.kind, base, options.python)
        if not options.print_name and (options.force or not image_exists(name)):
            say(f"building {name} on {base}")
            build(options.kind, name, base, options.python)
    except BuildError as error:
        say(f"error: {error}")
        return 1
    print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
