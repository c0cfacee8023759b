"""Hashes of a request: A and B are comparable only if these agree."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any


def fingerprint(bodies: Sequence[bytes]) -> dict[str, str | None]:
    """SHA-256 of chat requests: body, prompt and images; of several requests, over the hashes of all in order."""
    each = [_fingerprint(body) for body in bodies]
    if len(each) == 1:
        return each[0]
    found: dict[str, str | None] = {}
    for name in each[0]:
        hashes = [one[name] for one in each]
        found[name] = _sha256("\n".join(map(str, hashes)).encode()) if any(hashes) else None
    return found


def _fingerprint(body: bytes) -> dict[str, str | None]:
    """SHA-256 of a chat request's body, its prompt and its images, computed from the bytes that are sent.

    `prompt_sha256` is over the texts of all messages, in order, joined by line ends; `image_sha256` over the bytes of
    the one image, or over the hashes of several; None without an image.
    """
    texts: list[str] = []
    images: list[str] = []
    for message in json.loads(body)["messages"]:
        content = message.get("content") or ""
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part.get("type") == "text":
                texts.append(str(part.get("text")))
            elif part.get("type") == "image_url":
                images.append(_image_sha256(part))
    many = _sha256("\n".join(images).encode()) if len(images) > 1 else None
    return {
        "body_sha256": _sha256(body),
        "prompt_sha256": _sha256("\n".join(texts).encode("utf-8", "surrogatepass")),
        "image_sha256": many or next(iter(images), None),
    }


def _image_sha256(part: dict[str, Any]) -> str:
    url = str(part.get("image_url", {}).get("url"))
    kind, comma, data = url.partition(",")
    if comma and kind.startswith("data:") and kind.endswith(";base64"):
        return _sha256(base64.b64decode(data))
    return _sha256(url.encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
