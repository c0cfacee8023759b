"""fetch and pin against a stand-in of the hub: right files or none, resumed, and the token never shown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import pytest
import yaml
from by_path import load
from hypothesis import given
from hypothesis import strategies as st
from trialbench import files
from trialbench import hub as hub_room
from trialbench.cli import main
from trialbench.errors import ServerError, TrialbenchError, UsageError
from trialbench.hub import bounds
from trialbench.hub import download as downloads
from trialbench.hub.fetch import WrongHashError, fetch, staging_of
from trialbench.hub.pin import pin
from trialbench.hub.route import Route
from trialbench.show.terminal import screen

REPO = "unsloth/tiny-GGUF"
TOKEN = "hf_S3cretS3cretS3cret"
FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "hub" / "hub.py"


STAND_IN = load(FIXTURE)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    root = tmp_path / "hub" / REPO
    root.mkdir(parents=True)
    (root / "model-Q4_K_M.gguf").write_bytes(os.urandom(300_000))
    (root / "model-Q8_0.gguf").write_bytes(os.urandom(1000))
    (root / "mmproj-F16.gguf").write_bytes(os.urandom(50_000))
    (root / "README.md").write_text("hello\n", encoding="utf-8")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(downloads, "_PAUSE_S", 0.0)
    with STAND_IN.HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


INCLUDE = ["*Q4_K_M.gguf", "mmproj*"]


def pins(hub: Any) -> dict[str, str]:
    return {name: file.sha256 for name, file in hub.files(REPO).items() if "Q4" in name or "mmproj" in name}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_arrive_whole_and_only_those_asked_for(hub: Any, dest: Path) -> None:
    told: list[str] = []
    found = fetch(REPO, revision=hub.commit(REPO), include=INCLUDE, dest=dest, sha256=pins(hub), tell=told.append)
    assert sorted(path.name for path in found) == names(dest) == ["mmproj-F16.gguf", "model-Q4_K_M.gguf"]
    assert {path.name: digest(path) for path in found} == pins(hub)
    assert told[0] == f"{REPO}: fetching 2 files, 0.3 MB"
    assert any(line.startswith("model-Q4_K_M.gguf: right, SHA-256") for line in told)


def test_what_is_there_and_right_asks_nothing_of_the_network(hub: Any, dest: Path) -> None:
    arguments: dict[str, Any] = {"revision": hub.commit(REPO), "include": INCLUDE, "dest": dest, "sha256": pins(hub)}
    fetch(REPO, **arguments)
    asked = len(hub.requests)
    before = (dest / "mmproj-F16.gguf").stat().st_mtime_ns
    told: list[str] = []
    fetch(REPO, **arguments, tell=told.append)
    assert len(hub.requests) == asked
    assert (dest / "mmproj-F16.gguf").stat().st_mtime_ns == before
    assert told == [f"{REPO}: all 2 files are present with the right hashes"]


def test_a_wrong_file_is_replaced_and_a_right_one_left_alone(hub: Any, dest: Path) -> None:
    (dest / "model-Q4_K_M.gguf").write_bytes(b"something else")
    shutil.copy(hub.files(REPO)["mmproj-F16.gguf"].path, dest)
    told: list[str] = []
    fetch(REPO, revision=hub.commit(REPO), include=INCLUDE, dest=dest, sha256=pins(hub), tell=told.append)
    assert digest(dest / "model-Q4_K_M.gguf") == pins(hub)["model-Q4_K_M.gguf"]
    assert "model-Q4_K_M.gguf: has another hash: it is replaced once the right file is fetched" in told
    assert not [request for request in hub.requests if "mmproj" in request.path]


def test_a_file_with_another_hash_never_gets_its_name(hub: Any, dest: Path) -> None:
    wrong = pins(hub) | {"model-Q4_K_M.gguf": "0" * 64}
    with pytest.raises(WrongHashError, match="expected SHA-256 0000") as caught:
        fetch(REPO, revision=hub.commit(REPO), include=INCLUDE, dest=dest, sha256=wrong)
    assert caught.value.exit_code == 1
    assert "the downloaded file was removed" in str(caught.value)
    assert "older" not in str(caught.value)
    # What is right is kept, and nothing of the download is left.
    assert names(dest) == ["mmproj-F16.gguf"]


def test_a_wrong_download_leaves_the_older_file_and_says_so(hub: Any, dest: Path) -> None:
    (dest / "model-Q4_K_M.gguf").write_bytes(b"something else")
    wrong = pins(hub) | {"model-Q4_K_M.gguf": "0" * 64}
    with pytest.raises(WrongHashError, match="of another hash, was left as it is and not used"):
        fetch(REPO, revision=hub.commit(REPO), include=INCLUDE, dest=dest, sha256=wrong)
    assert (dest / "model-Q4_K_M.gguf").read_bytes() == b"something else"
    assert names(dest) == ["mmproj-F16.gguf", "model-Q4_K_M.gguf"]


def test_an_interrupted_download_is_resumed(hub: Any, dest: Path) -> None:
    hub.cut_after = 100_000
    told: list[str] = []
    arguments: dict[str, Any] = {"revision": hub.commit(REPO), "include": ["*Q4_K_M.gguf"], "dest": dest}
    fetch(REPO, **arguments, sha256=pick(hub, "Q4"), tell=told.append)
    assert digest(dest / "model-Q4_K_M.gguf") == pick(hub, "Q4")["model-Q4_K_M.gguf"]
    assert [request.range for request in hub.requests if "resolve" in request.path] == [None, "bytes=100000-"]
    assert [line.rpartition("; ")[2] for line in told if "continuing" in line] == ["continuing at 0.1 of 0.3 MB"]


def killed(hub: Any, dest: Path, at_bytes: int, revision: str | None = None) -> Path:
    """A fetch, killed when so many bytes are on the disk; its part of the file."""
    hub.hold_after = at_bytes
    hub.released.clear()
    commit = revision or hub.commit(REPO)
    arguments = ["fetch", "--repo", REPO, "--revision", commit, "--include", "*Q4*", "--dest", str(dest)]
    process = subprocess.Popen(
        [sys.executable, "-m", "trialbench", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    part = staging_of(dest, REPO, commit) / "model-Q4_K_M.gguf"
    until_s = time.monotonic() + 600
    while not part.exists() or part.stat().st_size < at_bytes - (1 << 16):
        assert process.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.01)
    process.kill()
    process.wait()
    hub.released.set()
    hub.hold_after = None
    return part


@pytest.mark.prove
def test_a_killed_download_is_resumed_by_the_next_process(hub: Any, dest: Path) -> None:
    part = killed(hub, dest, 200_000)
    have = part.stat().st_size
    asked = len(hub.requests)
    told: list[str] = []
    arguments: dict[str, Any] = {"revision": hub.commit(REPO), "include": ["*Q4*"], "dest": dest}
    fetch(REPO, **arguments, sha256=pick(hub, "Q4"), tell=told.append)
    assert names(dest) == ["model-Q4_K_M.gguf"]
    assert [request.range for request in hub.requests[asked:] if "resolve" in request.path] == [f"bytes={have}-"]
    assert f"{REPO}: {have / 1e6:.1f} MB of them are there from an interrupted download" in told


@pytest.mark.prove
def test_two_repositories_share_a_folder(hub: Any, dest: Path, tmp_path: Path) -> None:
    """Neither takes the other's interrupted download for what nobody resumes."""
    other = "unsloth/small-GGUF"
    (tmp_path / "hub" / other).mkdir()
    (tmp_path / "hub" / other / "small-Q4_K_M.gguf").write_bytes(os.urandom(5000))
    part = killed(hub, dest, 200_000)
    have = part.stat().st_size
    fetch(other, revision=hub.commit(other), include=["*Q4*"], dest=dest, sha256={})
    assert part.stat().st_size == have
    asked = len(hub.requests)
    fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256=pick(hub, "Q4"))
    assert [request.range for request in hub.requests[asked:] if "resolve" in request.path] == [f"bytes={have}-"]
    assert names(dest) == ["model-Q4_K_M.gguf", "small-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("left", "switch", "ranges"),
    [
        # What lies there, what the server does, what it is asked for.
        (b"", {}, [None]),
        (b"\0" * 1000, {}, ["bytes=1000-", None]),  # of another file: the hash tells
        (b"\0" * 300_000, {}, [None]),  # whole, and wrong
        (b"\0" * 400_000, {}, [None]),  # too long
        (None, {"ranges": False}, ["bytes=1000-"]),
        (None, {"shift": 1}, ["bytes=1000-", None]),
        (None, {"shift": -1000}, ["bytes=1000-"]),
    ],
)
def test_whatever_a_part_holds_the_file_is_right(
    hub: Any, dest: Path, left: bytes | None, switch: dict[str, Any], ranges: list[str | None]
) -> None:
    part = staging_of(dest, REPO, hub.commit(REPO)) / "model-Q4_K_M.gguf"
    part.parent.mkdir()
    part.write_bytes((hub.root / REPO / part.name).read_bytes()[:1000] if left is None else left)
    for name, value in switch.items():
        setattr(hub, name, value)
    fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256=pick(hub, "Q4"))
    assert names(dest) == ["model-Q4_K_M.gguf"]
    assert digest(dest / part.name) == pick(hub, "Q4")[part.name]
    assert [request.range for request in hub.requests if "resolve" in request.path] == ranges


def test_what_nobody_resumes_is_removed(hub: Any, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, running, own = (staging_of(dest, REPO, name) for name in ("a" * 40, "b" * 40, hub.commit(REPO)))
    older, neighbor = dest / ".part-dddddddddddd", staging_of(dest, "unsloth/another", "a" * 40)
    for folder in (other, running, own, older, neighbor):
        (folder / ".cache" / "huggingface").mkdir(parents=True)
        (folder / ".cache" / "huggingface" / "x.incomplete").write_bytes(bytes(1_000_000))
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (dest / ".part-cccccccccccc").symlink_to(kept)
    (dest / ".part-of-the-user").mkdir()
    asked: list[int] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: asked.append(1) or SimpleNamespace(free=300_000_000))
    told: list[str] = []
    with files.locked(running):
        fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256=pick(hub, "Q4"), tell=told.append)
    assert not other.exists()
    assert not older.exists()
    assert not own.exists()
    assert neighbor.exists()
    assert running.exists()
    assert kept.exists()
    assert ".part-of-the-user" in names(dest)
    assert f"{other.name}: removed, 1.0 MB of a download of another revision" in told
    # What is right is there: now all of it goes, and nothing is asked.
    fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256=pick(hub, "Q4"))
    assert not running.exists()


def test_only_what_goes_on_counts_for_the_disk(hub: Any, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = staging_of(dest, REPO, hub.commit(REPO))
    staging.mkdir()
    (staging / "old.incomplete").write_bytes(bytes(1_000_000))
    free = 256 * 1024 * 1024 + 299_999
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    arguments: dict[str, Any] = {"revision": hub.commit(REPO), "include": ["*Q4*"], "dest": dest}
    with pytest.raises(UsageError, match="make room"):
        fetch(REPO, **arguments, sha256=pick(hub, "Q4"))
    (staging / "model-Q4_K_M.gguf").write_bytes((hub.root / REPO / "model-Q4_K_M.gguf").read_bytes()[:1])
    fetch(REPO, **arguments, sha256=pick(hub, "Q4"))
    assert names(dest) == ["model-Q4_K_M.gguf"]


def test_two_do_not_write_one_file(hub: Any, dest: Path) -> None:
    staging = staging_of(dest, REPO, hub.commit(REPO))
    staging.mkdir()
    with files.locked(staging), pytest.raises(UsageError, match="another fetch downloads there"):
        fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256=pick(hub, "Q4"))


def test_a_hash_in_capitals_is_a_hash(hub: Any, dest: Path) -> None:
    capitals = {name: value.upper() for name, value in pick(hub, "Q4").items()}
    fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256=capitals)
    assert names(dest) == ["model-Q4_K_M.gguf"]


def pick(hub: Any, part: str) -> dict[str, str]:
    return {name: value for name, value in pins(hub).items() if part in name}


def test_a_download_that_breaks_off_often_goes_on(hub: Any, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt brings something: their number is no reason to give up."""
    monkeypatch.setattr(downloads, "_PROGRESS_BYTES", 10_000)
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        hub.cut_after = 50_000

    hub.cut_after = 50_000
    fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256=pick(hub, "Q4"), tell=tell)
    assert digest(dest / "model-Q4_K_M.gguf") == pick(hub, "Q4")["model-Q4_K_M.gguf"]
    assert sum("continuing" in line for line in told) == 5


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_stays_away(hub: Any, dest: Path, status: int) -> None:
    hub.status = status
    told: list[str] = []
    with pytest.raises(ServerError, match=f"mmproj-F16.gguf: the hub answers {status}"):
        fetch(REPO, revision=hub.commit(REPO), include=INCLUDE, dest=dest, sha256=pins(hub), tell=told.append)
    assert sum("continuing" in line for line in told) == 2
    assert list(dest.iterdir()) == [staging_of(dest, REPO, hub.commit(REPO))]


def test_a_refusal_is_not_asked_again(hub: Any, dest: Path) -> None:
    hub.status = 403
    with pytest.raises(ServerError, match="the hub cannot be read"):
        fetch(REPO, revision=hub.commit(REPO), include=["mmproj*"], dest=dest, sha256={})
    assert sum("resolve" in request.path for request in hub.requests) == 1


def test_progress_is_told_while_it_lasts(hub: Any, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trialbench.hub.fetch._TELL_EVERY_S", 0.02)
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if " of 0 MB" in text:
            hub.released.set()

    hub.hold_after = 100_000
    staging = staging_of(dest, REPO, hub.commit(REPO))
    (staging / ".cache").mkdir(parents=True)
    (staging / ".cache" / "old.incomplete").write_bytes(bytes(5_000_000))
    fetch(REPO, revision=hub.commit(REPO), include=INCLUDE, dest=dest, sha256=pins(hub), tell=tell)
    assert "0 of 0 MB" in told
    assert not [line for line in told if line.startswith("5 of")]


def test_without_pins_the_hub_s_own_hashes_serve(hub: Any, dest: Path) -> None:
    told: list[str] = []
    fetch(REPO, revision=hub.commit(REPO), include=["*Q8_0*"], dest=dest, sha256={}, tell=told.append)
    assert names(dest) == ["model-Q8_0.gguf"]
    assert told[0] == f"{REPO}: no pinned hashes; checking against the hub's own"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"revision": "main"}, "--revision: expected a full commit"),
        ({"sha256": {"a.gguf": "xyz"}}, "expected 64 hexadecimal digits"),
        ({"sha256": {"../a.gguf": "0" * 64}}, "expected a name inside"),
        ({"dest": Path("/nonexistent/models")}, "is not a folder"),
        ({"sha256": {"gone.gguf": "0" * 64}}, "gone.gguf: has a pinned hash, and matches no pattern"),
        ({"sha256": {"mmproj-F16.gguf": "0" * 64}}, "model-Q4_K_M.gguf: matches the patterns, and has no pinned hash"),
        ({"include": ["*.safetensors"], "sha256": {}}, "expected a file like '\\*.safetensors'"),
    ],
)
def test_what_cannot_be_right_is_refused(hub: Any, dest: Path, changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"revision": hub.commit(REPO), "include": INCLUDE, "dest": dest, "sha256": pins(hub)}
    with pytest.raises(UsageError, match=words):
        fetch(REPO, **{**arguments, **changes})


def test_a_full_disk_is_seen_before_anything_is_fetched(hub: Any, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=200_000_000))
    with pytest.raises(UsageError, match=r"expected 0\.3 GB free, found 0\.2 GB"):
        fetch(REPO, revision=hub.commit(REPO), include=INCLUDE, dest=dest, sha256=pins(hub))
    assert names(dest) == []


@pytest.mark.parametrize(
    ("repo", "revision", "words"),
    [("unsloth/none", "", "not found on the hub, or private"), (REPO, "0" * 40, "has no revision 0000")],
)
def test_what_the_hub_does_not_have(hub: Any, dest: Path, repo: str, revision: str, words: str) -> None:
    with pytest.raises(ServerError, match=words) as caught:
        fetch(repo, revision=revision or hub.commit(REPO), include=["*"], dest=dest, sha256={})
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"error": "Invalid username or password."}, "Invalid username or password"),
        ({"error": {"message": "mirror is syncing", "code": 503}}, "mirror is syncing"),
        ({"error": ["gone", 1]}, "gone"),
        ({"error": "sent hf_secret back"}, "sent [*]+ back"),
        ({"error": "two\nlines \x1b[2J"}, "two.*lines"),
        ({}, "cannot be read"),
        ({"error": None}, "cannot be read"),
        ([{"error": "in a list"}], "cannot be read"),
        ("<html>", "cannot be read"),
    ],
)
def test_an_error_with_http_200_keeps_its_words(
    hub: Any, monkeypatch: pytest.MonkeyPatch, instead: object, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.instead = instead
    with pytest.raises(ServerError, match=words) as caught:
        hub_room.list_files(REPO, hub.commit(REPO), ["*"])
    assert str(caught.value).isprintable()


def test_a_hub_that_is_not_there(dest: Path, monkeypatch: pytest.MonkeyPatch, dead_url: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", dead_url)
    with pytest.raises(ServerError, match="the hub cannot be read"):
        fetch(REPO, revision="0" * 40, include=["*"], dest=dest, sha256={})


def test_a_disk_that_fails_is_not_blamed_on_the_hub() -> None:
    with pytest.raises(OSError, match="No space left"), hub_room.plain_errors(REPO, "main"):
        raise OSError(28, "No space left on device")


def listing(monkeypatch: pytest.MonkeyPatch, *files: Any, sha: Any = "a" * 40) -> None:
    """Let the hub list these files, each a name or (name, size, SHA-256)."""
    rows = [one if isinstance(one, tuple) else (one, 5, None) for one in files]
    siblings = [
        SimpleNamespace(rfilename=name, size=size, lfs=SimpleNamespace(sha256=sha256) if sha256 is not None else None)
        for name, size, sha256 in rows
    ]
    api = SimpleNamespace(model_info=lambda *_args, **_more: SimpleNamespace(sha=sha, siblings=siblings))
    monkeypatch.setattr(hub_room, "api", lambda: api)


@pytest.mark.parametrize(
    "name",
    [
        "../model.gguf",
        "/etc/model.gguf",
        "a/../../model.gguf",
        "a//model.gguf",
        "./model.gguf",
        "model.gguf\nmodel.gguf: right, SHA-256",
        "\x1b[2Jmodel.gguf",
        "\u202emodel.gguf",
        "\x00model.gguf",
        ".part-aaaaaaaaaaaa/model.gguf",
        f"{'m' * 300}.gguf",
    ],
)
def test_a_name_that_is_no_plain_one_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It becomes a path, a pin, and words for people."""
    listing(monkeypatch, "model.gguf", name)
    with pytest.raises(ServerError, match="expected plain names of files, found") as caught:
        hub_room.list_files(REPO, "main", ["*"])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200
    # What nobody asked for may be called what it likes, and is told on one line.
    assert [file.name for file in hub_room.list_files(REPO, "main", ["model.gguf"])[1]] == ["model.gguf"]
    with pytest.raises(UsageError) as missed:
        hub_room.list_files(REPO, "main", ["none"])
    assert str(missed.value).isprintable()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (("m.gguf", -1, None), "expected a size"),
        (("m.gguf", 1 << 60, None), "expected a size"),
        (("m.gguf", "5", None), "expected a size"),
        (("m.gguf", None, None), "expected a size"),
        (("m.gguf", 5, "../x"), "expected 64 hexadecimal digits"),
        (("m.gguf", 5, "A" * 65), "expected 64 hexadecimal digits"),
        (("m.gguf", 5, 7), "expected 64 hexadecimal digits"),
    ],
)
def test_a_listing_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, file: Any, words: str) -> None:
    listing(monkeypatch, file)
    with pytest.raises(ServerError, match=words):
        hub_room.list_files(REPO, "main", ["*"])


@pytest.mark.parametrize("form", ["{}", '"{}"', 'W/"{}"', " {} ", '" {} "'])
def test_the_spelling_of_a_hash_changes_nothing(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    listing(monkeypatch, ("m.gguf", 5, form.format("AB" * 32)), sha=form.format("CD" * 20))
    commit, [file] = hub_room.list_files(REPO, "main", ["*"])
    assert (commit, file.sha256) == ("cd" * 20, "ab" * 32)


def test_a_file_that_is_listed_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listing(monkeypatch, "m.gguf", "m.gguf")
    with pytest.raises(ServerError, match=r"expected each file once, found m\.gguf 2 times"):
        hub_room.list_files(REPO, "main", ["*"])


@pytest.mark.parametrize("sha", [None, "", "main", "a" * 41, 7, "a\n"])
def test_a_commit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, sha: Any) -> None:
    listing(monkeypatch, "m.gguf", sha=sha)
    with pytest.raises(ServerError, match="expected the commit of main"):
        hub_room.list_files(REPO, "main", ["*"])


def test_a_hub_s_answer_has_an_end(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "ANSWER_BYTES", 100)
    with pytest.raises(bounds.TooMuchError, match="expected at most 100 bytes, found more"):
        hub_room.list_files(REPO, "main", ["*"])


def test_a_file_is_no_larger_than_the_hub_has_said(hub: Any, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the disk before any hash could tell; what has come is removed, and not fetched again and again."""
    real = hub_room.list_files

    def short(*args: Any) -> Any:
        commit, files = real(*args)
        return commit, [dataclasses.replace(file, size=1000) for file in files]

    monkeypatch.setattr(hub_room, "list_files", short)
    told: list[str] = []
    with pytest.raises(bounds.TooMuchError, match="expected at most 1000 bytes, found more"):
        fetch(REPO, revision=hub.commit(REPO), include=["*Q4*"], dest=dest, sha256={}, tell=told.append)
    assert names(dest) == []
    assert not [line for line in told if "continuing" in line]


class Endless(httpx.SyncByteStream):
    """A body that never ends."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield bytes(1 << 16)


@pytest.mark.parametrize(
    ("headers", "limit"), [({}, bounds.ANSWER_BYTES), ({"content-encoding": "gzip"}, bounds.PACKED_BYTES)]
)
@pytest.mark.parametrize("path", ["/api/models/a/b", "/v2/x/manifests/y"])
def test_a_body_without_end_is_cut(path: str, headers: dict[str, str], limit: int) -> None:
    """A packed one sooner: it may be a thousand times as large in memory."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, headers=headers, stream=Endless()))
    with (
        httpx.Client(transport=transport, event_hooks={"response": [bounds.bound]}) as client,
        client.stream("GET", f"http://hub{path}") as reply,
        pytest.raises(bounds.TooMuchError, match=rf"hub: expected at most {limit} bytes"),
    ):
        for _chunk in reply.iter_raw():
            pass


def test_a_body_that_drips_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 7))
    monkeypatch.setattr(bounds.time, "monotonic", lambda: float(next(clock)))
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, stream=Endless()))
    with (
        httpx.Client(transport=transport, event_hooks={"response": [bounds.bound]}) as client,
        pytest.raises(bounds.TooMuchError, match="expected an answer within 120 s"),
    ):
        client.get("http://hub/api/x")


LISTED: dict[str, Any] = {
    "id": REPO,
    "sha": "a" * 40,
    "siblings": [{"rfilename": "m.gguf", "size": 5, "blobId": "b" * 40, "lfs": {"sha256": "c" * 64, "size": 5}}],
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.just(TOKEN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """What a hub may answer: any bytes, any JSON, or a listing in which one value is another."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
    document = json.loads(json.dumps(LISTED))
    place, more = document, draw(st.integers(0, 3))
    for _ in range(more):
        inner = [key for key in _keys(place) if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[draw(st.sampled_from(inner))]
    place[draw(st.sampled_from(list(_keys(place))))] = draw(VALUES)
    return json.dumps(document).encode()


def _keys(place: Any) -> Any:
    return place if isinstance(place, dict) else range(len(place))


@given(body=answers(), status=st.sampled_from([200, 200, 200, 204, 302, 401, 403, 404, 429, 500]))
def test_no_answer_of_a_hub_ends_in_another_error(body: bytes, status: int) -> None:
    def answer(_self: object, request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(body), request=request)

    with (
        mock.patch.object(Route, "handle_request", answer),
        mock.patch.dict(os.environ, {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://hub"}),
    ):
        said, listed = "", []
        try:
            commit, listed = hub_room.list_files(REPO, "main", ["*"])
            assert hub_room.COMMIT.match(commit)
        except TrialbenchError as error:
            said = screen(str(error)) + repr(error.__cause__)
        assert TOKEN not in said
    assert all(file.name.isprintable() and file.size >= 0 for file in listed)


@given(
    have=st.integers(0, 12),
    status=st.sampled_from([200, 206, 206, 206, 204, 302, 404, 416, 503]),
    begin=st.integers(-2, 12) | st.just(99),
    body=st.binary(max_size=12),
    headers=st.sampled_from([{}, {"content-encoding": "gzip"}, {"content-range": "bytes x"}, {"location": "http://["}]),
)
def test_no_answer_makes_a_file_longer_than_it_is(
    have: int, status: int, begin: int, body: bytes, headers: dict[str, str]
) -> None:
    file = hub_room.RemoteFile("m.gguf", 10, None)
    ranges = {"content-range": f"bytes {begin}-9/10"} if status == 206 else {}

    def answer(_self: object, request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(body), headers={**ranges, **headers}, request=request)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Route, "handle_request", answer),
        mock.patch.object(downloads, "_PAUSE_S", 0.0),
        mock.patch.dict(os.environ, {"HF_ENDPOINT": "http://hub"}),
    ):
        path = Path(folder) / "m.gguf"
        path.write_bytes(b"x" * have)
        try:
            downloads.download(REPO, "a" * 40, file, path)
        except TrialbenchError:
            assert not path.exists() or path.stat().st_size <= max(10, have)
        else:
            assert path.stat().st_size == 10


def test_names_with_odd_characters(hub: Any, dest: Path) -> None:
    odd = hub.root / REPO / "model[1].gguf"
    odd.write_bytes(b"odd")
    (hub.root / REPO / "model1.gguf").write_bytes(b"plain")
    fetch(REPO, revision=hub.commit(REPO), include=["model[[]1].gguf"], dest=dest, sha256={})
    assert names(dest) == ["model[1].gguf"]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trialbench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("right", [True, False])
def test_the_token_comes_from_the_environment_and_is_never_shown(hub: Any, dest: Path, right: bool) -> None:
    hub.token = TOKEN if right else "another"
    commit = hub.commit(REPO)
    arguments = ["fetch", "--repo", REPO, "--revision", commit, "--include", "mmproj*", "--dest", str(dest)]
    done = command(*arguments, HF_TOKEN=TOKEN, HF_DEBUG="1")
    assert TOKEN not in done.stdout + done.stderr
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in dest.rglob("*") if path.is_file())
    assert all(request.authorized for request in hub.requests)
    if right:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 4
        assert "HF_TOKEN has no access to it" in done.stderr


@pytest.mark.prove
def test_without_a_token_nothing_stored_is_used(hub: Any, dest: Path, tmp_path: Path) -> None:
    hub.token = TOKEN
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN, encoding="utf-8")
    arguments = ["fetch", "--repo", REPO, "--revision", hub.commit(REPO), "--include", "*", "--dest", str(dest)]
    done = command(*arguments, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 4
    assert "accept its license on the hub and set HF_TOKEN" in done.stderr
    assert not any(request.authorized for request in hub.requests)


def test_errors_are_cleaned_of_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ServerError) as caught, hub_room.plain_errors(REPO, "main"):
        raise ConnectionError(f"Bearer {TOKEN} was refused")
    assert str(caught.value).endswith("Bearer *** was refused")
    assert caught.value.__cause__ is None


def test_pins_are_resolved_and_written_whole(hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pins.yml"
    assert main(["pin", "--repo", REPO, "--include", "*Q4_K_M.gguf", "--include", "mmproj*", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.startswith("---\n# Written by `trialbench pin`")
    assert yaml.safe_load(text) == {
        "trial_pins": {
            "revision": hub.commit(REPO),
            "image_digest": "",
            "files": [
                {"name": name, "sha256": value, "size": hub.files(REPO)[name].size}
                for name, value in sorted(pins(hub).items())
            ],
        }
    }
    assert hub.commit(REPO) in capsys.readouterr().out


def test_a_hash_of_digits_stays_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, value = "1" * 40, "9" * 64
    remote = hub_room.RemoteFile("m.gguf", 5, value)
    monkeypatch.setattr(hub_room, "list_files", lambda *_arguments: (commit, [remote]))
    monkeypatch.setattr("trialbench.hub.pin.image_digest", lambda image: f"sha256:{value} of {image}"[:71])
    found = pin(REPO, revision="main", include=["*"], image="x:1", out=tmp_path / "pins.yml")
    written = yaml.safe_load((tmp_path / "pins.yml").read_text(encoding="utf-8"))
    assert written == {"trial_pins": found}
    assert written["trial_pins"]["image_digest"] == f"sha256:{value}"


def test_a_small_file_is_fetched_to_be_hashed(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hub_room.list_files

    def without_hashes(*arguments: Any) -> Any:
        commit, files = real(*arguments)
        return commit, [hub_room.RemoteFile(file.name, file.size, None) for file in files]

    monkeypatch.setattr(hub_room, "list_files", without_hashes)
    found = pin(REPO, revision="main", include=["README.md"], image=None, out=tmp_path / "pins.yml")
    assert found["files"][0]["sha256"] == hashlib.sha256(b"hello\n").hexdigest()


def test_pins_need_a_folder_and_leave_no_half_file(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no writable folder"):
        pin(REPO, revision="main", include=["*"], image=None, out=tmp_path / "none" / "pins.yml")
    with pytest.raises(UsageError, match="expected a file like"):
        pin(REPO, revision="main", include=["none*"], image=None, out=tmp_path / "pins.yml")
    with pytest.raises(UsageError, match="expected OWNER/NAME"):
        pin("tiny", revision="main", include=["*"], image=None, out=tmp_path / "pins.yml")
    assert not (tmp_path / "pins.yml").exists()


@pytest.mark.parametrize(
    ("token", "words"), [("hf_wr0ngwr0ngwr0ng", "it does not accept HF_TOKEN"), ("", "set HF_TOKEN")]
)
def test_a_token_that_is_not_accepted_is_named(
    hub: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    token: str,
    words: str,
) -> None:
    """The hub calls it the credentials, and does not say whose."""

    def refuses(request: Any) -> None:
        request._error(401, "", "Invalid credentials in Authorization header")

    monkeypatch.setattr(STAND_IN._Handler, "_answer", refuses)
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["pin", "--repo", REPO, "--include", "*", "--out", str(tmp_path / "pins.yml")]) == 4
    shown = capsys.readouterr().err
    assert words in shown
    assert "Invalid credentials" in shown


def test_command_line_of_fetch(hub: Any, dest: Path) -> None:
    arguments = ["fetch", "--repo", REPO, "--revision", hub.commit(REPO), "--dest", str(dest), "--include", "mmproj*"]
    # In capitals, as some programs print it.
    arguments += ["--sha256", f"mmproj-F16.gguf={pins(hub)['mmproj-F16.gguf'].upper()}"]
    assert main(arguments) == 0
    assert names(dest) == ["mmproj-F16.gguf"]
