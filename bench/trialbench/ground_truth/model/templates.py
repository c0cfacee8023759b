"""The chat templates of a Hugging Face folder, by name, from the files that transformers reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.ground_truth.model.weights import file_of

_FILE, _MORE, _UNREAD = "chat_template.jinja", "additional_chat_templates", "chat_template.json"


def read_templates(folder: Path, settings: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    """The templates; `default` is the one that is meant without a name.

    Args:
        folder: with `chat_template.jinja` and `additional_chat_templates/`; where one of them has a template, those of
            the settings do not count.
        settings: `tokenizer_config.json`.
        notes: gets what was seen and is not used, in words.

    Raises:
        UsageError: one of them is not a text.
    """
    found = dict(_from_files(folder)) or dict(_from_settings(settings, str(folder / "tokenizer_config.json")))
    if not found and (folder / _UNREAD).is_file():
        notes.append(
            f"{folder / _UNREAD}: not used: it is a processor's, transformers' tokenizer reads no template there"
        )
    for name in [name for name, text in found.items() if not text]:
        del found[name]
        notes.append(
            f"{folder}: chat template {name}: empty, so transformers writes nothing for a chat: not in the file, "
            "llama.cpp takes one of its own"
        )
    if found and "default" not in found:
        notes.append(f"{folder}: chat templates {', '.join(found)} and no default: llama.cpp takes one of its own")
    if len(found) > 1:
        notes.append(f"{folder}: chat templates {', '.join(found)}: llama.cpp takes the one called default")
    # Jinja reads every line end as one character; not everything that reads a GGUF does.
    return {name: re.sub(r"\r\n?", "\n", text) for name, text in found.items()}


def _from_files(folder: Path) -> Iterator[tuple[str, str]]:
    if (folder / _FILE).exists() or (folder / _FILE).is_symlink():
        yield "default", _read(folder / _FILE)
    for path in sorted((folder / _MORE).glob("*.jinja")):
        yield path.stem, _read(path)


def _read(path: Path) -> str:
    raw = file_of(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8, found byte {raw[error.start]:#x} at {error.start}") from error


def _from_settings(settings: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    said = settings.get("chat_template")
    if said is None:
        return
    if isinstance(said, str):
        said = [{"name": "default", "template": said}]
    if isinstance(said, dict):
        said = [{"name": name, "template": text} for name, text in said.items()]
    for one in said if isinstance(said, list) else [said]:
        name, text = (one.get("name"), one.get("template")) if isinstance(one, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(
                f"{where}: chat_template: expected a text, or a list of names and texts, found {one!r:.80}"
            )
        yield name, text
