"""The names of packages: what our messages and documents tell users to install is ours or declared, nothing else."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLACES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "bench", "docs", "images", "molecule")
MORE_PLACES = ("playbooks", "plugins", "roles", "scripts", "tests")
# The commands that take requirements, in prose, shell and YAML; what follows up to the end of the command.
COMMAND = re.compile(r"\b(?:pip3?|pipx|uv pip) install((?:[ \t]+(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s`)(]+))*)")
WITH_VALUE = {"-r", "--requirement", "-c", "--constraint", "-e", "--editable", "--find-links", "--index-url"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def split(requirement: str) -> tuple[str, set[str]]:
    """Name and extras of a requirement."""
    name, _, rest = requirement.partition("[")
    found = NAME.match(name)
    extras = set(rest.partition("]")[0].split(",")) if rest else set()
    return normalized(found[0]) if found else "", extras


def declared() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    return {split(one)[0] for one in [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]}


def named(text: str) -> list[tuple[str, set[str]]]:
    """The packages that `text` says to install; paths, files, options and variables are none."""
    found = []
    for match in COMMAND.finditer(text):
        words = [word.strip("'\"").rstrip(".,;:'\"") for word in match[1].split()]
        for before, word in zip(["", *words], words, strict=False):
            if before in WITH_VALUE or not NAME.match(word) or "/" in word:
                continue
            if word in ("&&", "||", "and", "or"):
                break
            found.append(split(word))
    return found


def files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PLACES, *MORE_PLACES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split("\0") if name and not name.startswith("tests/fixtures/runs/")]
    return [ROOT / name for name in names if Path(name).suffix in (".py", ".md", ".sh", ".yml", ".j2", "")]


def test_what_a_message_says_is_found() -> None:
    text = "do: pip install 'edgelab-trialbench[oracle]', best in\n`pip install docker x`; pip install -r more.txt -q ."
    assert named(text) == [("edgelab-trialbench", {"oracle"}), ("docker", set()), ("x", set())]


def test_no_message_names_a_package_that_is_neither_ours_nor_declared() -> None:
    ours = normalized(PROJECT["name"])
    known = declared() | {"pip"}
    wrong = []
    for path in files():
        if path == Path(__file__) or path.is_symlink() or not path.is_file():
            continue
        for name, extras in named(path.read_text(encoding="utf-8", errors="replace")):
            if name == ours and extras <= set(PROJECT["optional-dependencies"]):
                continue
            if name not in known:
                wrong.append(f"{path.relative_to(ROOT)}: {name}[{','.join(sorted(extras))}]")
    assert wrong == []


def test_the_name_that_is_published() -> None:
    assert PROJECT["name"] == "edgelab-trialbench"
    # Our extras name the distribution by its own name.
    for extra in PROJECT["optional-dependencies"].values():
        assert "trialbench" not in {split(one)[0] for one in extra}
