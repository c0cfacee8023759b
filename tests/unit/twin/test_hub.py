"""The stand-in of the model hub."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from by_path import load

ROOT = Path(__file__).resolve().parents[3]
CONTENT = bytes(range(256)) * 1024


@pytest.fixture(scope="session")
def hub_module() -> ModuleType:
    return load(ROOT / "tests/fixtures/hub/hub.py")


@pytest.fixture
def hub(hub_module: ModuleType, tmp_path: Path) -> Iterator[Any]:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(CONTENT)
    (folder / "README.md").write_text("read me")
    with hub_module.HubServer(tmp_path, cut_file=tmp_path / "cut") as server:
        yield server


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_a_model_tells_its_files_and_its_commit(hub: Any) -> None:
    about = json.loads(get(f"{hub.url}/api/models/org/name/revision/main")[2])
    assert about["sha"] == hub.commit("org/name")
    assert [one["rfilename"] for one in about["siblings"]] == ["README.md", "model.gguf"]
    tree = json.loads(get(f"{hub.url}/api/models/org/name/tree/{about['sha']}")[2])
    assert tree[1]["lfs"]["oid"] == hub.files("org/name")["model.gguf"].sha256


def test_the_commit_follows_the_content(hub: Any, tmp_path: Path) -> None:
    before = hub.commit("org/name")
    (tmp_path / "org/name/README.md").write_text("read me again")
    assert hub.commit("org/name") != before


def test_files_come_whole_and_in_parts(hub: Any) -> None:
    url = f"{hub.url}/org/name/resolve/main/model.gguf"
    status, headers, body = get(url)
    assert (status, body) == (200, CONTENT)
    assert headers["X-Repo-Commit"] == hub.commit("org/name")
    assert headers["ETag"].strip('"') == hub.files("org/name")["model.gguf"].sha256
    status, headers, body = get(url, Range="bytes=1000-")
    assert (status, body) == (206, CONTENT[1000:])
    assert headers["Content-Range"] == f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert get(url, Range="bytes=9999999-")[0] == 416


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/org/other/revision/main", "RepoNotFound"),
        ("/api/models/org/name/revision/0123", "RevisionNotFound"),
        ("/org/name/resolve/main/nothing.gguf", "EntryNotFound"),
        ("/org/..%2F..%2Fetc/resolve/main/passwd", "EntryNotFound"),
        ("/nothing", "EntryNotFound"),
    ],
)
def test_what_is_not_there_is_named(hub: Any, path: str, code: str) -> None:
    status, headers, _ = get(hub.url + path)
    assert (status, headers["X-Error-Code"]) == (404, code)


def test_a_download_can_be_cut_once(hub: Any, tmp_path: Path) -> None:
    url = f"{hub.url}/org/name/resolve/main/model.gguf"
    hub.cut_after = 5000
    with pytest.raises(Exception, match="5000"):
        get(url)
    assert get(url)[2] == CONTENT
    (tmp_path / "cut").write_text("7000")
    with pytest.raises(Exception, match="7000"):
        get(url)
    assert get(url)[2] == CONTENT


def test_a_token_can_be_required(hub: Any) -> None:
    hub.token = "s3cret"
    url = f"{hub.url}/api/models/org/name"
    status, headers, _ = get(url)
    assert (status, headers["X-Error-Code"]) == (401, "GatedRepo")
    assert get(url, Authorization="Bearer s3cret")[0] == 200
    assert [request.authorized for request in hub.requests] == [False, True]


def test_huggingface_hub_takes_it_for_the_real_one(hub: Any, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    target = tmp_path / "download"
    snapshot_download(
        "org/name", revision=hub.commit("org/name"), allow_patterns=["*.gguf"], local_dir=target, endpoint=hub.url
    )
    assert [name for name in sorted(os.listdir(target)) if not name.startswith(".")] == ["model.gguf"]
    assert (target / "model.gguf").read_bytes() == CONTENT
