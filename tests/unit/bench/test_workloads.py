"""Workload files: what is read, what is sent, and how wrong ones are refused."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from profiles import examples
from trialbench.cli import main
from trialbench.errors import UsageError
from trialbench.workloads import _render, load_workload, packaged
from trialbench.workloads.parsers import Calls, Contract, Fits, Matches, Words

MINIMAL = """\
name: mine
messages:
  - role: user
    content: "{{ greeting }}, world"
variables:
  greeting: Hello
limits:
  max_tokens: 5
"""


TOOLS = "request: {tools: [{type: function, function: {name: go}}]}\n"


@pytest.mark.parametrize(
    ("text", "contract"),
    [
        ("contract: {words: [[turn left, stop]]}\n", Words((("turn left", "stop"),))),
        ("contract: {schema: {const: 3}}\n", Fits({"const": 3})),
        ("contract: {pattern: a|b}\n", Matches(re.compile("a|b"))),
        (TOOLS + "contract: {tool: go}\n", Calls("go")),
        (TOOLS + "contract: {tool: go, arguments: {type: object}}\n", Calls("go", {"type": "object"})),
        ("", None),
    ],
)
def test_every_form_of_a_contract(tmp_path: Path, text: str, contract: Contract | None) -> None:
    assert load_workload(write(tmp_path, MINIMAL + text)).contract == contract


def write(tmp_path: Path, text: str, name: str = "mine.yml") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_packaged_workloads_are_whole(image: Path) -> None:
    assert packaged() == ["describe", "nav"]
    nav = load_workload("nav", settings={"prompt": "p"}, image=image)
    assert (nav.limits.max_tokens, nav.n, nav.warmup) == (20, 100, 3)
    assert nav.contract is not None
    assert nav.contract.words == (("forward", "left", "right"), ("small", "medium", "large"))
    describe = load_workload("describe", image=image)
    assert describe.contract is None
    assert describe.n == 5


def test_prompt_arrives_verbatim(tmp_path: Path, image: Path) -> None:
    text = "  line one\n{{ not a template }} <b> & \u2028 'quotes'\n\n"
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(text, encoding="utf-8")
    nav = load_workload("nav", prompt_file=prompt, image=image)
    assert nav.messages[0]["content"][1] == {"type": "text", "text": text}


def test_image_is_sent_as_data_uri(image: Path) -> None:
    nav = load_workload("nav", settings={"prompt": "p"}, image=image)
    uri = nav.messages[0]["content"][0]["image_url"]["url"]
    assert uri.startswith("data:image/png;base64,")
    assert base64.b64decode(uri.partition(",")[2]) == image.read_bytes()


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"), (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp")],
)
def test_kind_of_image_is_told_from_its_bytes(tmp_path: Path, start: bytes, kind: str) -> None:
    path = tmp_path / "misnamed.png"
    path.write_bytes(start)
    nav = load_workload("nav", settings={"prompt": "p"}, image=path)
    assert nav.messages[0]["content"][0]["image_url"]["url"].startswith(f"data:{kind};base64,")


def test_own_file_with_template_and_settings(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load_workload(path).messages == [{"role": "user", "content": "Hello, world"}]
    changed = load_workload(path, settings={"greeting": "no", "limits.temperature": "0.5", "request.seed": "7"})
    assert changed.messages[0]["content"] == "no, world"
    assert changed.limits.temperature == 0.5
    assert changed.request == {"seed": 7}


def test_json_workload_and_files_beside_it(tmp_path: Path, image: Path) -> None:
    (tmp_path / "prompt.txt").write_text("from a file", encoding="utf-8")
    document = {
        "name": "mine",
        "messages": [{"role": "user", "content": [{"text": "{{ prompt }}"}, {"image": True}]}],
        "variables": {"prompt": {"file": "prompt.txt"}},
        "image": image.name,
        "limits": {"max_tokens": 1},
        "samples": {"n": 7, "warmup": 2},
        "contract": {"words": [["yes", "no"]], "separator": "-"},
    }
    write(tmp_path, json.dumps(document), "mine.json")
    mine = load_workload("mine.json", base=tmp_path)
    assert mine.messages[0]["content"][0]["text"] == "from a file"
    assert (mine.n, mine.warmup) == (7, 2)
    assert mine.contract is not None
    assert mine.contract.separator == "-"


def test_a_setting_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"variable 'greeting' is not UTF-8 text: 'caf\\udce9'"):
        load_workload(write(tmp_path, MINIMAL), settings={"greeting": "caf\udce9"})


# Line ends, a byte order mark, white space at either end, and what looks like a template.
VERBATIM = [
    b"one\r\ntwo\r\n",
    b"one\r\ntwo\rthree\r\n",
    b"one\rtwo\r",
    b"one\ntwo",
    b"one\n\n\n",
    b"\r\n\r\n one",
    b"\n\r",
    b"\xef\xbb\xbfone\r\n",
    "\ttab \u2028 \x85 \x0b\x0c odd ends ".encode(),
    b"nul \0 \x1b[31m",
    b"{{ 7 * 7 }}\r\n{% raw %}\r",
    "\N{LATIN SMALL LETTER E}\N{COMBINING ACUTE ACCENT} \U0001f600\r\n".encode(),
]


@pytest.mark.parametrize("raw", VERBATIM)
@pytest.mark.parametrize(
    "template", ["{{ text }}", "a {{ text }}b", "a\r\n{{ text }}\r\n", "a\r\nb\n{{ text }}\rc\r\n\r"]
)
def test_files_arrive_byte_for_byte(tmp_path: Path, raw: bytes, template: str) -> None:
    (tmp_path / "text.txt").write_bytes(raw)
    document = {
        "name": "mine",
        "messages": [{"role": "user", "content": template}, {"role": "user", "content": [{"text": "{{ prompt }}"}]}],
        "variables": {"text": {"file": "text.txt"}, "prompt": None},
        "limits": {"max_tokens": 1},
    }
    write(tmp_path, json.dumps(document), "mine.json")
    mine = load_workload("mine.json", base=tmp_path, prompt_file=tmp_path / "text.txt")
    whole, [part] = mine.messages[0]["content"], mine.messages[1]["content"]
    assert whole.encode() == template.encode().replace(b"{{ text }}", raw)
    assert part["text"].encode() == raw


@settings(max_examples=examples(1000))
@given(before=st.text(max_size=8), text=st.text(max_size=20), after=st.text(max_size=8))
@example(before="\r\n" + chr(0xE000), text=chr(0xE001) + "\r", after="\r")
def test_a_rendered_text_loses_nothing(before: str, text: str, after: str) -> None:
    assume(not set(before + after) & set("{}#%"))
    assert _render(f"{before}{{{{ text }}}}{after}", {"text": text}, Path("mine.yml")) == before + text + after


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            MINIMAL.replace("max_tokens: 5", "max_tokens: 0"),
            ["mine.yml:8", "limits.max_tokens", "at least 1", "found 0"],
        ),
        (MINIMAL.replace("max_tokens: 5", "max_token: 5"), ["mine.yml:8", "'max_token'", "a key 'max_tokens'"]),
        (MINIMAL.replace("role: user", "role: robot"), ["mine.yml:3", "messages[0].role", '"user"', '"robot"']),
        (MINIMAL.replace("name: mine", "name: My Own"), ["mine.yml:1", "name", "text like"]),
        ("name: x\n", ["'messages'", "'limits'"]),
        ("- a\n", ["expected a mapping", "list"]),
        ("name: [\n", ["mine.yml:2", "is not YAML"]),
        (MINIMAL.replace("{{ greeting }}", "{{ absent }}"), ["cannot be rendered", "absent"]),
        (MINIMAL.replace("greeting: Hello", "greeting: null"), ["'greeting'", "--set greeting=VALUE"]),
        (MINIMAL.replace("greeting: Hello", "greeting: {file: none.txt}"), ["none.txt", "cannot be read"]),
        (MINIMAL + "contract:\n  words: []\n", ["contract.words", "at least 1 entries"]),
        (MINIMAL + "contract:\n  words: [[' left']]\n", ["contract.words[0][0]", "text like"]),
        (MINIMAL + "contract: {words: [[a]], pattern: b}\n", ["contract.pattern", "one of the keys words, separator"]),
        (MINIMAL + "contract: {}\n", ["contract", "a key"]),
        (MINIMAL + "contract: {pattern: '('}\n", ["contract.pattern", "a regular expression"]),
        (MINIMAL + "contract: {schema: {type: number, multipleOf: 3}}\n", ["contract.schema.multipleOf", "minimum"]),
        (MINIMAL + "contract: {schema: {items: {type: text}}}\n", ["contract.schema.items.type", '"string"']),
        (MINIMAL + "contract: {tool: go}\n", ["contract.tool", "request.tools (there is none)", "'go'"]),
        (MINIMAL + TOOLS + "contract: {tool: stop}\n", ["contract.tool", "request.tools (go)", "'stop'"]),
    ],
)
def test_wrong_files_are_refused_with_place_expected_and_found(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_workload(write(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


def test_wrong_json_and_wrong_bytes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not JSON"):
        load_workload(write(tmp_path, "{", "mine.json"))
    (tmp_path / "latin.yml").write_bytes(b"name: \xe9\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_workload(str(tmp_path / "latin.yml"))


def test_names_files_and_images_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of describe, nav"):
        load_workload("navv")
    with pytest.raises(UsageError, match="cannot be read"):
        load_workload(str(tmp_path / "none.yml"))
    with pytest.raises(UsageError, match="--prompt-file"):
        load_workload("nav", image=tmp_path / "x.png")
    with pytest.raises(UsageError, match="--image FILE"):
        load_workload("nav", settings={"prompt": "p"})
    with pytest.raises(UsageError, match=r"none\.png: the image cannot be read"):
        load_workload("nav", settings={"prompt": "p"}, image=tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    with pytest.raises(UsageError, match="expected a JPEG, PNG"):
        load_workload("nav", settings={"prompt": "p"}, image=tmp_path / "text.png")


def test_settings_that_lead_nowhere(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    with pytest.raises(UsageError, match="'seed' is not a mapping"):
        load_workload(path, settings={"request.seed": "7", "request.seed.first": "x"})
    with pytest.raises(UsageError, match="expected a YAML value"):
        load_workload(path, settings={"limits.temperature": "["})


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("nonsense", "--set nonsense: .* has no such variable; there are: greeting; places in the file: .*samples.n"),
        ("max_tokens", r"meant --set limits.max_tokens=\.\.\.\?"),
        ("variables.nonsense", "--set nonsense: .* no such variable"),
        ("limits.tokens", "--set limits.tokens: this workload has no such place; there are: .*limits.max_tokens"),
        ("messages.0", "no such place"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_workload(write(tmp_path, MINIMAL), settings={key: "1"})


def test_settings_may_name_what_templates_use_or_the_file_declares(tmp_path: Path, image: Path) -> None:
    text = MINIMAL.replace("{{ greeting }}", "{% if loud %}{{ word|upper }}{% endif %}")
    changed = load_workload(
        write(tmp_path, text), settings={"loud": "1", "variables.word": "hey", "greeting": "unused"}
    )
    assert changed.messages[0]["content"] == "HEY, world"
    with pytest.raises(UsageError, match="there are: none"):
        load_workload("describe", settings={"prompt": "x"}, image=image)
    with pytest.raises(UsageError, match="cannot be rendered"):
        load_workload(write(tmp_path, MINIMAL.replace("}}", "")), settings={"word": "x"})
    broken = MINIMAL.replace("variables:\n  greeting: Hello", "variables: none")
    with pytest.raises(UsageError, match="does not fit its schema"):
        load_workload(write(tmp_path, broken), settings={"greeting": "x"})


@pytest.mark.parametrize(
    ("contract", "words"),
    [
        ("{schema: {properties: {2026-02-03: {}}}}", "mine.yml:9: contract.schema.properties: .*, found 2026-02-03 as"),
        ("{schema: {required: [a], properties: {yes: {}}}}", "contract.schema.properties: .*, found true as YAML"),
        ("{schema: {anyOf: [{properties: {1: {}}}]}}", "contract.schema.anyOf.0.properties: .*, found 1 as YAML"),
        ("{schema: {enum: [{null: 1}]}}", "contract.schema.enum.0: .*, found null as YAML reads it: quote the key"),
        ("{tool: go, arguments: {properties: {off: {}}}}", "contract.arguments.properties: .*, found false as YAML"),
    ],
)
def test_a_key_that_no_json_has_is_no_part_of_a_contract(tmp_path: Path, contract: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_workload(write(tmp_path, f"{MINIMAL}contract: {contract}\n{TOOLS}"))


OWN = MINIMAL + "contract: {words: [[left, right]]}\n"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "nav", "role": "decides"}, None),
        ({"name": "of-another-image", "role": "shown"}, None),
        ({"text": OWN}, None),
        ({"text": OWN.replace("Hello", "null").replace("greeting", "prompt")}, None),
        ({"text": OWN.replace("name: mine", "name: mine\nimage: none.png")}, None),
        ({"text": MINIMAL, "role": "shown"}, None),
        ({"text": MINIMAL}, "mine.yml: expected a contract, because this workload decides, found none"),
        ({"name": "describe"}, "describe.yml: expected a contract"),
        ({"text": ""}, "mine.yml: expected a workload, found nothing: its file is missing, unreadable or empty"),
        ({"text": "name: [\n"}, "mine.yml:2: is not YAML"),
        ({"text": "name: \0"}, "mine.yml: is not YAML: unacceptable character"),
        ({"text": "name: 2026-02-31"}, "mine.yml: is not YAML: day"),
        ({"text": "- a\n"}, "mine.yml: expected a mapping"),
        ({"text": OWN.replace("max_tokens", "tokens")}, "mine.yml:7: limits: expected a key 'max_tokens'"),
        ({"text": OWN.replace("{{ greeting }}", "{{ absent }}")}, "cannot be rendered"),
        ({"text": OWN.replace("Hello", "null")}, "mine.yml:6: variables.greeting: expected its value in this file"),
        ({"text": OWN.replace("Hello", "{file: /etc/hostname}")}, "prompt and image alone, found a file"),
        ({"text": OWN + "request: {since: 2026-02-03}\n"}, "mine.yml: expected values that JSON can hold"),
        (
            {"text": OWN.replace("max_tokens: 5", "max_tokens: 5\n  max_tokens: 7")},
            "mine.yml:9: expected every key once",
        ),
        ({"text": OWN + "scenes: [{id: a, expected: left, expected: right}]\n"}, "found 'expected' again"),
        ({"text": OWN + "request: {top_p: .nan}\n"}, "mine.yml: request: expected finite numbers"),
        ({"text": OWN + "request: {deep: [{at: 1.0e+400}]}\n"}, "mine.yml: request: expected finite numbers"),
        ({"text": OWN.replace("max_tokens: 5", "max_tokens: 5\n  temperature: .nan")}, "expected number, found NaN"),
        ({"text": OWN + "request: &a {more: *a}\n"}, "mine.yml: expected a value for every anchor"),
    ],
)
def test_a_plans_workloads_are_checked_as_their_containers_will_read_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, str], said: str | None
) -> None:
    """All that is broken is said at once, without the folder in which it was tried."""
    both = [{"name": "mine", "role": "decides", **entry}, {"name": "second", "role": "shown", "text": "{}"}]
    (tmp_path / "plan.json").write_text(json.dumps({"workloads": both}))
    assert main(["workloads", str(tmp_path / "plan.json")]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "second.yml" in shown
    assert "no tenant was touched" in shown
    assert "trialbench-" not in shown.replace("trialbench schema", "")
    assert (said in shown) if said else (shown.count(".yml") == shown.count("second.yml"))
    (tmp_path / "plan.json").write_text(json.dumps({"workloads": both[:1]}))
    assert main(["workloads", str(tmp_path / "plan.json")]) == (2 if said else 0)


def test_a_plan_without_a_list_of_workloads_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text("[]")
    assert main(["workloads", str(tmp_path / "plan.json")]) == 2
    assert "expected a plan with a list of workloads" in capsys.readouterr().err


LABELED = OWN + "scenes: [{id: a, variables: {greeting: A}%s}, {id: b, variables: {greeting: B}}]\n"
AT_1, AT_2 = ({"place": f"/views/labels.csv:{line}: scene s{line}: expected"} for line in (1, 2))
ACCEPTED = "labels.csv:2: scene s2: expected: expected an answer that keeps the contract exactly"


@pytest.mark.parametrize(
    ("text", "plan", "said"),
    [
        (OWN, {}, None),
        (OWN, {"accuracy_not_worse_by": None}, None),
        (
            OWN,
            {"accuracy_not_worse_by": 0},
            "mine.yml: expected scenes with the right answer, because accuracy_not_worse_by",
        ),
        (OWN, {"accuracy_not_worse_by": 5, "rehearsal": True}, None),
        (OWN, {"accuracy_not_worse_by": 5, "rehearsal": "True"}, None),
        # Contract 10 looks at the host's own scenes.
        (OWN, {"accuracy_not_worse_by": 5, "scenes": {"folder": "/views"}}, None),
        (LABELED % "", {}, None),
        (LABELED % "", {"accuracy_not_worse_by": 5}, "found none in its 2"),
        (LABELED % ", expected: left", {"accuracy_not_worse_by": 5}, None),
        (
            LABELED % ", expected: up",
            {"accuracy_not_worse_by": 5},
            "contract exactly (one of left, right, *), found 'up'",
        ),
        (OWN, {"labels": [{**AT_1, "label": "left"}]}, None),
        (
            OWN,
            {"labels": [{**AT_1, "label": "left"}, {**AT_2, "label": "lefft"}]},
            f"{ACCEPTED} (one of left, right, *), found 'lefft'",
        ),
        (OWN, {"labels": [{**AT_2, "label": "Left"}]}, "found 'Left'"),
        # One letter with an accent, in both of its spellings.
        (OWN.replace("right]", "f\u00fcr]"), {"labels": [{**AT_2, "label": "fu\u0308r"}]}, None),
        (OWN.replace("right]", "fu\u0308r]"), {"labels": [{**AT_2, "label": "f\u00fcr"}]}, None),
        (OWN.replace("right]", "f\u00fcr]"), {"labels": [{**AT_2, "label": "fur"}]}, "found 'fur'"),
        (
            MINIMAL + "contract: {words: [[left, right], [near, far]], separator: ', '}\n",
            {"labels": [{**AT_2, "label": "left near"}]},
            "(one of left, right, *, then one of near, far, *, between them ', '), found 'left near'",
        ),
        (
            MINIMAL + "contract: {schema: {type: integer}}\n",
            {"labels": [{**AT_1, "label": "3"}, {**AT_2, "label": "3.5"}]},
            f'{ACCEPTED} (JSON that fits {{"type": "integer"}}), found',
        ),
        (
            MINIMAL + "contract: {pattern: '[a-c]+'}\n",
            {"labels": [{**AT_2, "label": "d"}]},
            "(all of it like [a-c]+), found 'd'",
        ),
        (
            MINIMAL + "request: {tools: [{function: {name: go}}]}\ncontract: {tool: go, arguments: {required: [x]}}\n",
            {"labels": [{**AT_2, "label": "{}"}]},
            '(arguments of go that fit {"required": ["x"]}), found',
        ),
        (
            MINIMAL + f"contract: {{words: [[{', '.join(f'word{at}' for at in range(99))}]]}}\n",
            {"labels": [{**AT_2, "label": "x"}]},
            "...), found 'x'",
        ),
    ],
)
def test_right_answers_are_read_before_anything_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, plan: dict[str, Any], said: str | None
) -> None:
    document = {"workloads": [{"name": "mine", "role": "decides", "text": text}, {"name": "describe", "role": "shown"}]}
    (tmp_path / "plan.json").write_text(json.dumps(document | plan))
    assert main(["workloads", str(tmp_path / "plan.json")]) == (2 if said else 0)
    shown = " ".join(capsys.readouterr().err.split())
    assert (said or "") in shown
    assert shown.count("expected an answer") <= 1
