"""Workloads: the request to a model and how its replies are read, one YAML file each.

A workload is read, checked against the published schema and rendered into the bytes of one request before anything is
measured. All samples of a segment send the same bytes; where the workload has scenes, all samples of a scene do.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trialbench import schemas
from trialbench.errors import UsageError
from trialbench.files import encodable, read_text, read_verbatim, yaml_line
from trialbench.workloads import scenes
from trialbench.workloads.parsers import Calls, Contract, Fits, Matches, OwnParser, Words
from trialbench.workloads.scenes import Scene

_PACKAGED = Path(__file__).parent
# `--set variables.NAME` is the long form of `--set NAME`.
_VARIABLE = "variables."
# Detected from the first bytes: a file name proves nothing, and `mimetypes` reads system files.
_LINE_END = re.compile(r"\r\n|\r|\n")
_TAG = re.compile(r"(\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\})", re.DOTALL)
_IMAGE_KINDS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"GIF8", "image/gif"))


@dataclass(frozen=True)
class Limits:
    """Limits of one request. Times in seconds; `timeout_s` covers the whole request, including connecting."""

    max_tokens: int
    temperature: float | None = None
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0


@dataclass(frozen=True)
class Workload:
    """A workload ready to send: `messages` are rendered, the image is encoded in them.

    `contract` is None for free text; production's own parser may replace the words. `request` has additional fields for
    the body of the request. `scenes` are the distinct questions that its samples ask in turns; without any, `messages`
    is the one question, with them it is the first one.
    """

    name: str
    messages: list[dict[str, Any]]
    limits: Limits
    contract: Contract | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    n: int = 20
    warmup: int = 0
    scenes: tuple[Scene, ...] = ()

    def read_by(self, parser: OwnParser) -> Workload:
        """The workload with production's own parser in place of its contract.

        Raises:
            UsageError: the parser can't read the right answer of a scene.
        """
        reread = [
            replace(scene, expected=scenes.meaning(scene.label, parser, f"scene {scene.id}: expected"))
            for scene in self.scenes
        ]
        return replace(self, contract=parser, scenes=tuple(reread))


def packaged() -> list[str]:
    """Names of the workloads that come with trialbench."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yml"))


def load_workload(
    name: str,
    *,
    settings: Mapping[str, str] | None = None,
    image: Path | None = None,
    prompt_file: Path | None = None,
    base: Path | None = None,
    scenes_file: Path | None = None,
) -> Workload:
    """Read, check and render a workload.

    Args:
        name: a packaged workload's name, or a path to a YAML or JSON file.
        settings: overrides; a key with a dot sets that place of the file (`limits.temperature`), its value read as
            YAML; one without sets a variable, as text. A name that the workload does not know is refused.
        image: replaces the file's image.
        prompt_file: its text becomes the variable `prompt`, verbatim, line ends included.
        base: folder that a relative `name` is relative to; default: the current one.
        scenes_file: its scenes replace those of the workload.

    Raises:
        UsageError: with the file, the line where it is known, what was expected and what was found.
    """
    path = _find(name, base)
    text = read_text(path, "workload")
    document, line_of = parse_document(text, path)
    declared = set(document["variables"]) if isinstance(document.get("variables"), dict) else set()
    for key, value in (settings or {}).items():
        _set(document, key, value)
    problems = schemas.validate(document, "workload")
    if problems:
        lines = [f"{path}{line_of(problem.path)}: {problem}" for problem in problems]
        raise UsageError(
            "the workload does not fit its schema (see `trialbench schema workload`):\n  " + "\n  ".join(lines)
        )
    if not _finite(document.get("request")):
        # It is sent as it stands, whatever its keys are.
        raise UsageError(f"{path}: request: expected finite numbers, found NaN or one that is infinite")
    for place, odd in _keys_not_text(document.get("contract"), ("contract",)):
        # A reply is JSON, so no value of it would ever stand under such a key.
        read = odd.isoformat() if isinstance(odd, datetime.date) else json.dumps(odd)
        raise UsageError(
            f"{path}{line_of(place)}: {'.'.join(map(str, place))}: expected keys that are text, as in JSON, "
            f"found {read} as YAML reads it: quote the key"
        )
    if settings:
        _check_variables(settings, declared, document["messages"], path)
    listed = _scenes(document, path, scenes_file)
    image_path = image or (_beside(path, document["image"]) if document.get("image") else None)
    contract, request = document.get("contract"), document.get("request", {})
    samples = document.get("samples", {})
    reads = _contract(contract, request, path) if contract else None
    rendered = [
        Scene(
            id=scene.id,
            messages=_messages(
                document["messages"],
                _variables(document, path, prompt_file, scene.variables),
                scene.image or image_path,
                path,
            ),
            label=scene.label,
            expected=scenes.meaning(scene.label, reads, f"{path}: scene {scene.id}: expected"),
            group=scene.group,
        )
        for scene in listed or [scenes.Described("")]
    ]
    alike = scenes.same_question(rendered)
    if alike:
        raise UsageError(f"{path}: expected scenes that differ, found the same question in {alike[0]} and {alike[1]}")
    return Workload(
        name=document["name"],
        messages=rendered[0].messages,
        scenes=tuple(rendered) if listed else (),
        limits=Limits(**document["limits"]),
        contract=reads,
        request=request,
        n=samples.get("n", Workload.n),
        warmup=samples.get("warmup", Workload.warmup),
    )


def _scenes(document: dict[str, Any], path: Path, scenes_file: Path | None) -> list[scenes.Described]:
    """The scenes of the file, or those in place of them; none where the workload has one question."""
    own = document.get("scenes")
    source = _beside(path, own) if scenes_file is None and isinstance(own, str) else scenes_file or path
    if source != path:
        found = scenes.read(source, _parsed)
    else:
        found = scenes.described(own, path) if own else []
    given = {name for scene in found for name in scene.variables} - set(document.get("variables", {}))
    unread = sorted(given - _used(document["messages"], path)) if given else []
    if unread:
        raise UsageError(
            f"{source}: scenes: expected variables of {path}, found {', '.join(unread)}, which no message uses"
        )
    return found


def _contract(found: Mapping[str, Any], request: Mapping[str, Any], path: Path) -> Contract:
    if "words" in found:
        words = tuple(tuple(words) for words in found["words"])
        return Words(words, found.get("separator", Words.separator))
    if "schema" in found:
        return Fits(found["schema"])
    if "pattern" in found:
        try:
            return Matches(re.compile(found["pattern"]))
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(
                f"{path}: contract.pattern: expected a regular expression, found one with {error}"
            ) from error
    offered = _tools(request)
    if found["tool"] not in offered:
        raise UsageError(
            f"{path}: contract.tool: expected a function of request.tools ({', '.join(offered) or 'there is none'}),"
            f" found {found['tool']!r}"
        )
    return Calls(found["tool"], found.get("arguments"))


def _tools(request: Mapping[str, Any]) -> list[str]:
    """Names of the functions that the request offers to the model."""
    tools = request.get("tools")
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return [str(one["name"]) for one in functions if isinstance(one, dict) and "name" in one]


def _find(name: str, base: Path | None) -> Path:
    if "/" not in name and "." not in name:
        if name not in packaged():
            raise UsageError(
                f"no workload named {name!r}: expected one of {', '.join(packaged())}, or a path to a YAML file"
            )
        return _PACKAGED / f"{name}.yml"
    return (base or Path()) / Path(name).expanduser()


def _beside(workload: Path, name: str) -> Path:
    return workload.parent / Path(name).expanduser()


def parse_document(text: str, path: Path) -> tuple[dict[str, Any], Any]:
    """The document, and a function from a schema path to `:LINE` (empty where lines are not known).

    Raises:
        UsageError: neither YAML nor JSON, or no mapping.
    """
    document = _mapping(_parsed(text, path), path)
    return document, (lambda _: "") if path.suffix == ".json" else (lambda where: f":{yaml_line(text, where)}")


def _parsed(text: str, path: Path) -> Any:
    """What a YAML or JSON text holds."""
    if path.suffix == ".json":
        # The trial writes JSON, which needs no YAML parser: that saves 30 ms of the window.
        try:
            return json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: is not JSON: {error}") from error
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        twice = _twice(node, set())
        if twice is not None:
            line = twice.start_mark.line + 1
            raise UsageError(f"{path}:{line}: expected every key once, found {twice.value!r} again")
        found = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Bytes that YAML forbids, a date such as 2026-02-31, brackets without end.
        raise UsageError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from error
    if _holds_itself(found, set(), set()):
        raise UsageError(f"{path}: expected a value for every anchor, found one that is within itself")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose keys Python would let the last one win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"expected every key once, found {next(one for one in names if names.count(one) > 1)!r} again")
    return found


def _twice(node: Any, done: set[int]) -> Any:
    """The node of a key that its mapping of YAML has already, at any depth; None where all differ."""
    import yaml

    if not isinstance(node, yaml.CollectionNode) or id(node) in done:
        return None
    done.add(id(node))
    names: set[tuple[str, str]] = set()
    for part in node.value:
        key, *values = part if isinstance(part, tuple) else (None, part)
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in names:
                return key
            names.add((key.tag, key.value))
        found = next((one for one in (_twice(value, done) for value in values) if one is not None), None)
        if found is not None:
            return found
    return None


def _holds_itself(value: object, above: set[int], done: set[int]) -> bool:
    """Whether a list or mapping of YAML is an entry of its own, at any depth."""
    if not isinstance(value, (dict, list)) or id(value) in done:
        return False
    if id(value) in above:
        return True
    above.add(id(value))
    found = any(_holds_itself(one, above, done) for one in (value.values() if isinstance(value, dict) else value))
    above.remove(id(value))
    done.add(id(value))
    return found


def _finite(value: object) -> bool:
    """Whether JSON has all numbers in `value`: YAML also has `.nan` and `.inf`, and 1e400 is read as infinite."""
    if isinstance(value, (dict, list)):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _keys_not_text(value: object, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """The keys in `value` that YAML reads as a number, a truth value, a date or null, each with its mapping's place."""
    if isinstance(value, dict):
        yield from ((place, key) for key in value if not isinstance(key, str))
        for key, inner in value.items():
            yield from _keys_not_text(inner, (*place, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _keys_not_text(inner, (*place, index))


def _mapping(document: Any, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected a mapping with name, messages and limits, found {type(document).__name__}")
    return document


def _set(document: dict[str, Any], key: str, text: str) -> None:
    if "." not in key or key.startswith(_VARIABLE):
        # A variable is text for a template: `no` must stay `no`.
        variables = document.setdefault("variables", {})
        # If it is not a mapping, the schema check reports it.
        if isinstance(variables, dict):
            variables[key.removeprefix(_VARIABLE)] = text
        return
    places = _places()
    if key not in places and not key.startswith("request."):
        raise UsageError(f"--set {key}: this workload has no such place; there are: {', '.join(places)}")
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {key}: expected a YAML value, found {text!r}") from error
    *parents, last = key.split(".")
    place = document
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {key}: {parent!r} is not a mapping in this workload")
        place = inner
    place[last] = value


def _places() -> list[str]:
    """What `--set` with a dot can set, by the schema; below `request` anything is allowed."""
    sections = schemas.load("workload")["properties"]
    known = [
        f"{name}.{inner}"
        for name, section in sections.items()
        for form in [section, *section.get("anyOf", ())]
        for inner in form.get("properties", {})
    ]
    return [*known, "request.FIELD"]


def _check_variables(
    settings: Mapping[str, str], declared: set[str], messages: list[dict[str, Any]], path: Path
) -> None:
    """Refuse an unused variable: a misspelled setting must not measure the wrong request."""
    names = [key.removeprefix(_VARIABLE) for key in settings if "." not in key or key.startswith(_VARIABLE)]
    unknown = [name for name in names if name not in declared]
    if not unknown:
        return
    known = declared | _used(messages, path)
    for name in unknown:
        if name not in known:
            hint = next((place for place in _places() if place.endswith(f".{name}")), None)
            raise UsageError(
                f"--set {name}: {path} has no such variable; there are: {', '.join(sorted(known)) or 'none'}"
                f"; places in the file: {', '.join(_places())}" + (f" (meant --set {hint}=...?)" if hint else "")
            )


def _used(messages: list[dict[str, Any]], path: Path) -> set[str]:
    """Names of the variables that the templates use."""
    import jinja2
    import jinja2.meta

    found: set[str] = set()
    for message in messages:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
        for text in texts:
            try:
                found |= jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(text))
            except jinja2.TemplateError as error:
                raise UsageError(f"{path}: the template {text!r:.60} cannot be rendered: {error}") from error
    return found


def _variables(
    document: dict[str, Any], path: Path, prompt_file: Path | None, of_scene: Mapping[str, Any]
) -> dict[str, Any]:
    variables: dict[str, Any] = dict(document.get("variables", {}))
    if prompt_file is not None:
        variables["prompt"] = read_verbatim(prompt_file, "prompt")
    variables |= of_scene
    for name, value in variables.items():
        if value is None:
            hint = "--prompt-file FILE or " if name == "prompt" else ""
            raise UsageError(f"{path}: the variable {name!r} has no value: give it with {hint}--set {name}=VALUE")
        if isinstance(value, dict):
            variables[name] = read_verbatim(_beside(path, value["file"]), f"text of the variable {name!r}")
        elif isinstance(value, str) and not encodable(value):
            raise UsageError(f"{path}: the variable {name!r} is not UTF-8 text: {value!a:.60}")
    return variables


def _render(template: str, variables: Mapping[str, Any], path: Path) -> str:
    # Most templates are a single variable and need no Jinja, whose import costs 50 ms of the window.
    if template.startswith("{{") and template.endswith("}}") and template[2:-2].strip() in variables:
        return str(variables[template[2:-2].strip()])
    if "{{" not in template and "{%" not in template and "{#" not in template:
        return template
    import jinja2

    # keep_trailing_newline and no autoescape: the model must get exactly what was written.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    # Jinja makes one line end of all in a template. Where there are several, a sign stands for each carriage return.
    ends, sign = set(_LINE_END.findall(template)), ""
    if len(ends) == 1:
        environment.newline_sequence = ends.pop()
    elif ends:
        taken = {template, *map(str, variables.values())}
        sign = next(one for one in map(chr, range(0xE000, 0xF900)) if not any(one in text for text in taken))
        parts = _TAG.split(template)
        template = "".join(part if at % 2 else part.replace("\r", sign) for at, part in enumerate(parts))
    try:
        text = environment.from_string(template).render(variables)
        return text.replace(sign, "\r") if sign else text
    except jinja2.TemplateError as error:
        raise UsageError(f"{path}: the template {template!r:.60} cannot be rendered: {error}") from error


def _messages(
    messages: list[dict[str, Any]], variables: Mapping[str, Any], image: Path | None, path: Path
) -> list[dict[str, Any]]:
    rendered: list[dict[str, Any]] = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            rendered.append({"role": message["role"], "content": _render(content, variables, path)})
            continue
        parts: list[dict[str, Any]] = []
        for part in content:
            if "text" in part:
                parts.append({"type": "text", "text": _render(part["text"], variables, path)})
            else:
                parts.append({"type": "image_url", "image_url": {"url": _data_uri(image, path)}})
        rendered.append({"role": message["role"], "content": parts})
    return rendered


def _data_uri(image: Path | None, path: Path) -> str:
    if image is None:
        raise UsageError(f"{path}: the workload sends an image, and none is set: give one with --image FILE")
    try:
        data = image.read_bytes()
    except OSError as error:
        raise UsageError(f"{image}: the image cannot be read: {error.strerror}") from error
    for magic, kind in _IMAGE_KINDS:
        if data.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
    raise UsageError(f"{image}: expected a JPEG, PNG, GIF or WebP image, found {data[:8]!r}")
