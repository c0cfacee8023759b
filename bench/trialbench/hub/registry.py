"""Gets the digest of a container image from its registry (OCI distribution API) without pulling it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx

from trialbench.credentials import is_key, remember
from trialbench.errors import ServerError, UsageError
from trialbench.hub import plain_hash
from trialbench.hub.bounds import bound
from trialbench.hub.route import Route
from trialbench.urls import is_loopback, split_place

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
_BEARER = re.compile(r"(?:\A|,)\s*bearer\s+(.*)", re.IGNORECASE | re.DOTALL)
_NEXT_SCHEME = re.compile(r",\s*\w+\s+\w+\s*=")
_FIELD = re.compile(r"(\w+)\s*=\s*(?:\"([^\"]*)\"|([^\s,\"]+))")
_DIGEST = re.compile(r"\Asha256:[0-9a-f]{64}\Z")
_REFERENCE = re.compile(
    r"\A(?P<name>(?:\[[0-9A-Fa-f:.]+\])?[A-Za-z0-9.:_/-]+?)(?::(?P<tag>[A-Za-z0-9_][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?\Z"
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
        scheme = "http" if is_loopback(split_place(self.registry)[0]) else "https"
        return f"{scheme}://{self.registry}/v2/{self.repository}/manifests/{self.tag}"


def parse_reference(text: str) -> Reference:
    """Parse `[registry/]repository[:tag][@digest]` by Docker's rules.

    Raises:
        UsageError: the text is not a reference.
    """
    expected = "--image: expected [REGISTRY/]NAME[:TAG]"
    if "://" in text or "@" in text.partition("/")[0].partition("@sha256:")[0]:
        raise UsageError(f"{expected}, found a URL, or one with a user or password in it")
    # A digest in capitals is the same digest.
    match = _REFERENCE.match(re.sub(r"(?<=@sha256:)[0-9A-Fa-f]{64}\Z", lambda found: found[0].lower(), text))
    if match is None:
        raise UsageError(f"{expected}, found {text!r}")
    first, _, rest = match["name"].partition("/")
    tag = match["digest"] or match["tag"] or "latest"
    if rest and ("." in first or ":" in first or first == "localhost"):
        try:
            split_place(first)
        except ValueError as found:
            raise UsageError(f"{expected}, found a registry with {found}") from None
        _check_repository(rest, expected)
        return Reference(first, rest, tag)
    _check_repository(match["name"], expected)
    repository = match["name"] if rest else f"library/{match['name']}"
    # Names without a registry are Docker Hub's, whose API has this host.
    return Reference("registry-1.docker.io", repository, tag)


def _check_repository(name: str, expected: str) -> None:
    if not re.fullmatch(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*", name):
        raise UsageError(f"{expected} in lower case, found the name {name!r}")


def image_digest(text: str) -> str:
    """`sha256:...` of the image that `text` names.

    Raises:
        UsageError: no image reference, or the environment's proxy can't be used.
        ServerError: the registry cannot be reached, refuses, or has no such image.
    """
    reference = parse_reference(text)
    client = httpx.Client(
        transport=Route(),
        timeout=_TIMEOUT_S,
        follow_redirects=True,
        headers={"Accept": _ACCEPT},
        event_hooks={"response": [bound]},
        trust_env=False,
    )
    with client:
        try:
            return _ask(client, reference, text)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            why = str(error) or type(error).__name__
            raise ServerError(f"{text}: the registry {reference.registry} does not answer: {why}") from error


def _ask(client: httpx.Client, reference: Reference, text: str) -> str:
    reply = _manifest(client, reference)
    if reply.status_code == 401:
        challenge = reply.headers.get("www-authenticate", "")
        client.headers["Authorization"] = f"Bearer {_token(client, reference, challenge, text)}"
        reply = _manifest(client, reference)
    if reply.status_code == 404:
        raise ServerError(f"{text}: the registry has no such image")
    if reply.status_code != 200:
        raise ServerError(f"{text}: expected status 200 of the registry, found {reply.status_code}")
    digest = str(plain_hash(reply.headers.get("docker-content-digest", "")))
    if not digest:
        # The header is optional; the digest is the hash of the manifest as sent.
        whole = reply if reply.request.method == "GET" else client.get(reference.url).raise_for_status()
        digest = "sha256:" + hashlib.sha256(whole.content).hexdigest()
    if not _DIGEST.match(digest):
        raise ServerError(f"{text}: expected a digest sha256:..., found {digest!a:.80}")
    return digest


def _manifest(client: httpx.Client, reference: Reference) -> httpx.Response:
    """The head of the manifest, or all of it from a registry that gives no heads."""
    reply = client.head(reference.url)
    return client.get(reference.url) if reply.status_code in (400, 405, 501) else reply


def _token(client: httpx.Client, reference: Reference, challenge: str, text: str) -> str:
    """An anonymous token for the registry's challenge `Bearer realm="...",service="...",scope="..."`.

    Other schemes may stand beside it, and quotes are missing from some.
    """
    bearer = _BEARER.search(challenge)
    own = _NEXT_SCHEME.split(bearer[1])[0] if bearer else ""
    fields = {name.lower(): quoted or plain for name, quoted, plain in _FIELD.findall(own)}
    realm = fields.get("realm", "")
    if not realm:
        raise ServerError(f"{text}: the registry requires an unsupported login: {challenge!a:.200}")
    asked = {name: fields[name] for name in ("service", "scope") if fields.get(name)}
    reply = client.get(httpx.URL(urljoin(reference.url, realm)).copy_merge_params(asked))
    try:
        answer = reply.json() if reply.status_code == 200 else {}
    except (ValueError, RecursionError):
        answer = {}
    found = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not found:
        raise ServerError(f"{text}: the registry gives no anonymous access (status {reply.status_code})")
    if not isinstance(found, str) or not is_key(found):
        raise ServerError(f"{text}: the registry gives a token that does not fit into a header")
    remember(found)
    return found
