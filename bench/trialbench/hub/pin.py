"""`trialbench pin`: records what the trial may use: revision, hash of every file, digest of the image."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trialbench import hub
from trialbench.errors import UsageError
from trialbench.files import writable_kind, write_atomic
from trialbench.hub import RemoteFile, Tell
from trialbench.hub.download import download
from trialbench.hub.registry import image_digest


def pin(
    repo: str,
    *,
    revision: str,
    include: Sequence[str],
    image: str | None,
    out: Path,
    tell: Tell = lambda _text: None,
) -> dict[str, Any]:
    """Resolve `revision` and the image, and write the variables `trial_pins` as YAML to `out`; returns them.

    The file is written atomically, after everything was resolved.

    Raises:
        UsageError: a pattern matches nothing, or there is not a folder for `out`.
        ServerError: hub or registry refuse, or cannot be reached.
    """
    hub.check_repo(repo)
    problem = writable_kind(out)
    if problem is not None:
        raise UsageError(f"{out}: expected a file for the pins, but {problem}")
    commit, files = hub.list_files(repo, revision, include)
    tell(f"{repo}: {revision} is {commit}")
    pinned = []
    for file in files:
        sha256 = file.sha256 or _hash_small_file(repo, commit, file)
        tell(f"{file.name}: {file.size / 1e6:.1f} MB, SHA-256 {sha256}")
        pinned.append({"name": file.name, "sha256": sha256, "size": file.size})
    digest = ""
    if image is not None:
        digest = image_digest(image)
        tell(f"{image}: {digest}")
    pins = {"revision": commit, "files": pinned, "image_digest": digest}
    about = f"{repo} at {revision}{f', image {image}' if image else ''}"
    write_atomic(out, _as_yaml(pins, about))
    return pins


def _as_yaml(pins: dict[str, Any], about: str) -> str:
    """The variables file; values are written as JSON, which is YAML, so that no hash can be read as a number."""
    lines = ["---", f"# Written by `trialbench pin`: {about}.", "trial_pins:"]
    lines += [f"  {name}: {json.dumps(pins[name])}" for name in ("revision", "image_digest")]
    lines.append("  files:")
    for file in pins["files"]:
        lines += [f"    - name: {json.dumps(file['name'])}"]
        lines += [f"      {name}: {json.dumps(file[name])}" for name in ("sha256", "size")]
    return "\n".join(lines) + "\n"


def _hash_small_file(repo: str, commit: str, file: RemoteFile) -> str:
    """The hub provides SHA-256 only for large files; a small one is downloaded and hashed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        download(repo, commit, file, path)
        return hub.sha256_of(path)
