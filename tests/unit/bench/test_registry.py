"""The digest of an image, against a small registry of our own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from stub import Answer, Asked, Stub
from trialbench.errors import ServerError, UsageError
from trialbench.hub.registry import image_digest, parse_reference

MANIFEST = b'{"schemaVersion": 2}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()


class Registry(Stub):
    """One image, `llama/server:cuda`; knobs for what real registries do."""

    def __init__(self) -> None:
        super().__init__()
        self.token: str | None = None
        self.token_field = "token"
        self.challenge = f'Bearer realm="http://{self.place}/token",service="reg",scope="repository:llama/server:pull"'
        self.digest_header: str | None = DIGEST
        self.status = 200
        self.head_status: int | None = None

    def answer(self, asked: Asked) -> Answer:
        if asked.path.startswith("/token?"):
            return Answer(200, json.dumps({self.token_field: self.token}).encode())
        if self.token and asked.headers.get("Authorization") != f"Bearer {self.token}":
            return Answer(401, headers={"WWW-Authenticate": self.challenge})
        if asked.method == "HEAD" and self.head_status is not None:
            return Answer(self.head_status)
        if asked.path != "/v2/llama/server/manifests/cuda":
            return Answer(404)
        return Answer(
            self.status, MANIFEST, {"Docker-Content-Digest": self.digest_header} if self.digest_header else {}
        )


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        yield server


def test_open_registry(registry: Registry) -> None:
    assert image_digest(f"{registry.place}/llama/server:cuda") == DIGEST
    [asked] = registry.asked
    assert (asked.method, asked.path) == ("HEAD", "/v2/llama/server/manifests/cuda")
    # Without the index types a registry would answer with the digest for one platform.
    assert "application/vnd.oci.image.index.v1+json" in asked.headers["Accept"]


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_token_dance(registry: Registry, field: str) -> None:
    registry.token, registry.token_field = "abc", field
    assert image_digest(f"{registry.place}/llama/server:cuda") == DIGEST
    assert [asked.path.partition("?")[0] for asked in registry.asked] == [
        "/v2/llama/server/manifests/cuda",
        "/token",
        "/v2/llama/server/manifests/cuda",
    ]
    assert "service=reg" in registry.asked[1].path
    assert "scope=repository" in registry.asked[1].path


def test_digest_is_computed_where_the_header_is_missing(registry: Registry) -> None:
    registry.digest_header = None
    assert image_digest(f"{registry.place}/llama/server:cuda") == DIGEST


@pytest.mark.parametrize("form", ["{}", '"{}"', 'W/"{}"', " {} "])
def test_a_digest_in_another_spelling_is_the_same_digest(registry: Registry, form: str) -> None:
    registry.digest_header = form.format(DIGEST.upper())
    assert image_digest(f"{registry.place}/llama/server:cuda") == DIGEST


@pytest.mark.parametrize("status", [400, 405, 501])
@pytest.mark.parametrize("header", [DIGEST, None])
@pytest.mark.parametrize("token", ["abc", None])
def test_a_registry_without_heads_is_asked_for_the_whole(
    registry: Registry, status: int, header: str | None, token: str | None
) -> None:
    registry.head_status, registry.digest_header, registry.token = status, header, token
    assert image_digest(f"{registry.place}/llama/server:cuda") == DIGEST
    assert [asked.method for asked in registry.asked if "manifests" in asked.path][-2:] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="{url}",service="reg",scope="repository:llama/server:pull,push"',
        "Bearer realm={url},service=reg",
        'bearer Realm = "{url}", Service = "reg"',
        'Basic realm="x", Bearer realm="{url}",service="reg"',
        'Bearer realm="{url}",service="reg", Basic realm="x"',
        'Bearer realm="/token",service="reg"',
        'Bearer realm="{url}?account=me",service="reg",error="invalid_token"',
    ],
)
def test_challenges_of_all_kinds(registry: Registry, challenge: str) -> None:
    registry.token = "abc"
    registry.challenge = challenge.replace("{url}", f"http://{registry.place}/token")
    assert image_digest(f"{registry.place}/llama/server:cuda") == DIGEST
    asked = registry.asked[1].path
    assert "service=reg" in asked
    assert "error" not in asked
    assert ("account=me" in asked) is ("account=me" in challenge)


@pytest.mark.parametrize(
    "challenge", ["", "Bearer", "Bearer realm=", 'Bearer realm="http://[::1"', 'Bearer realm="x://y"', "Bearer \xff=1"]
)
def test_a_challenge_that_leads_nowhere(registry: Registry, challenge: str) -> None:
    registry.token, registry.challenge = "abc", challenge
    with pytest.raises(ServerError):
        image_digest(f"{registry.place}/llama/server:cuda")


@pytest.mark.parametrize(
    "token", ["s3cret-of-the-registry\n", "s3cret-of-the-registry\u00fc", ["s3cret-of-the-registry"]]
)
def test_a_token_that_no_header_can_hold(registry: Registry, token: Any) -> None:
    registry.token = token
    with pytest.raises(ServerError, match="a token that does not fit into a header") as caught:
        image_digest(f"{registry.place}/llama/server:cuda")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "image", "words"),
    [
        ({}, "llama/none:cuda", "no such image"),
        ({"status": 500}, "llama/server:cuda", "expected status 200 of the registry, found 500"),
        ({"digest_header": "md5:abc"}, "llama/server:cuda", "expected a digest"),
        ({"token": "abc", "challenge": "Basic realm=x"}, "llama/server:cuda", "requires an unsupported login"),
        ({"token": "abc", "token_field": "other"}, "llama/server:cuda", "gives no anonymous access"),
    ],
)
def test_refusals(registry: Registry, changes: dict[str, Any], image: str, words: str) -> None:
    for name, value in changes.items():
        setattr(registry, name, value)
    with pytest.raises(ServerError, match=words):
        image_digest(f"{registry.place}/{image}")


def test_nobody_there(dead_url: str) -> None:
    with pytest.raises(ServerError, match="does not answer"):
        image_digest(f"{dead_url.removeprefix('http://')}/llama/server")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ghcr.io/ggml-org/llama.cpp:server-cuda", "https://ghcr.io/v2/ggml-org/llama.cpp/manifests/server-cuda"),
        ("localhost:5000/a/b", "http://localhost:5000/v2/a/b/manifests/latest"),
        ("debian", "https://registry-1.docker.io/v2/library/debian/manifests/latest"),
        ("org/name:1.0", "https://registry-1.docker.io/v2/org/name/manifests/1.0"),
        ("[::1]:5000/a/b:1", "http://[::1]:5000/v2/a/b/manifests/1"),
        ("box.lan:5000/a/b", "https://box.lan:5000/v2/a/b/manifests/latest"),
        ("ghcr.io/a/b:tag@sha256:" + "0" * 64, "https://ghcr.io/v2/a/b/manifests/sha256:" + "0" * 64),
    ],
)
def test_references(text: str, url: str) -> None:
    assert parse_reference(text).url == url


def test_a_digest_in_capitals_is_the_same_digest() -> None:
    assert parse_reference(f"a/b@sha256:{'AB' * 32}") == parse_reference(f"a/b@sha256:{'ab' * 32}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Name With Spaces",
        "a@sha256:12",
        "https://ghcr.io/a/b",
        "http://127.0.0.1:5000/a/b",
        "me:s3cret@ghcr.io/a/b",
        "ghcr.io:99999/a/b",
        "ghcr.io:/a/b",
        "a..b/c/d",
        "[::1/a/b",
        "ghcr.io/A/b",
        "ghcr.io//b",
        "a/",
    ],
)
def test_no_reference(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected \[REGISTRY/\]NAME") as caught:
        parse_reference(text)
    assert "s3cret" not in str(caught.value)
