"""Gets the digest of a container image from its registry (OCI distribution API) without pulling it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import httpx

from trialbench.credentials import is_key, remember
from trialbench.errors import ServerError, UsageError
from trialbench.hub.bounds import bound

_TIMEOUT_S = 30.0
# Indexes first: an image for several platforms has one digest for all of them.
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_DIGEST = re.compile(r"\Asha256:[0-9a-f]{64}\Z")
_REFERENCE = re.compile(
    r"\A(?P<name>[a-z0-9.:_/-]+?)(?::(?P<tag>[A-Za-z0-9_][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?\Z"
)


@dataclass(frozen=True)
class Reference:
    """A parsed image reference. `tag` is a tag or a digest."""

    registry: str
    repository: str
    tag: str

    @property
    def url(self) -> str:
        """Address of the manifest. As with Docker, a registry on this machine is accessed without TLS."""
        scheme = "http" if re.match(r"(localhost|127\.0\.0\.1)(:|\Z)", self.registry) else "https"
        return f"{scheme}://{self.registry}/v2/{self.repository}/manifests/{self.tag}"


def parse_reference(text: str) -> Reference:
    """Parse `[registry/]repository[:tag][@digest]` by Docker's rules.

    Raises:
        UsageError: it is none.
    """
    match = _REFERENCE.match(text)
    if match is None:
        raise UsageError(f"--image: expected [REGISTRY/]NAME[:TAG], found {text!r}")
    first, _, rest = match["name"].partition("/")
    tag = match["digest"] or match["tag"] or "latest"
    if rest and ("." in first or ":" in first or first == "localhost"):
        return Reference(first, rest, tag)
    repository = match["name"] if rest else f"library/{match['name']}"
    # Names without a registry are Docker Hub's, whose API has this host.
    return Reference("registry-1.docker.io", repository, tag)


def image_digest(text: str) -> str:
    """`sha256:...` of the image that `text` names.

    Raises:
        UsageError: no image reference.
        ServerError: the registry cannot be reached, refuses, or has no such image.
    """
    reference = parse_reference(text)
    hooks = {"response": [bound]}
    headers = {"Accept": _ACCEPT}
    with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True, headers=headers, event_hooks=hooks) as client:
        try:
            return _ask(client, reference, text)
        except httpx.HTTPError as error:
            raise ServerError(f"{text}: the registry {reference.registry} does not answer: {error}") from error


def _ask(client: httpx.Client, reference: Reference, text: str) -> str:
    reply = client.head(reference.url)
    if reply.status_code == 401:
        client.headers["Authorization"] = f"Bearer {_token(client, reply.headers.get('www-authenticate', ''), text)}"
        reply = client.head(reference.url)
    if reply.status_code == 404:
        raise ServerError(f"{text}: the registry has no such image")
    if reply.status_code != 200:
        raise ServerError(f"{text}: expected status 200 of the registry, found {reply.status_code}")
    digest = str(reply.headers.get("docker-content-digest", ""))
    if not digest:
        # The header is optional; the digest is the hash of the manifest as sent.
        digest = "sha256:" + hashlib.sha256(client.get(reference.url).raise_for_status().content).hexdigest()
    if not _DIGEST.match(digest):
        raise ServerError(f"{text}: expected a digest sha256:..., found {digest!r}")
    return digest


def _token(client: httpx.Client, challenge: str, text: str) -> str:
    """An anonymous token for the registry's challenge `Bearer realm="...",service="...",scope="..."`."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    if not challenge.lower().startswith("bearer ") or not realm:
        raise ServerError(f"{text}: the registry requires an unsupported login: {challenge!r}")
    reply = client.get(realm, params=fields)
    try:
        answer = reply.json() if reply.status_code == 200 else {}
    except (ValueError, RecursionError):
        answer = {}
    found = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not found:
        raise ServerError(f"{text}: the registry gives no anonymous access (status {reply.status_code})")
    if not isinstance(found, str) or not is_key(found):
        raise ServerError(f"{text}: the registry gives a token that no header can hold")
    remember(found)
    return found
