# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Production's code: parsed and taken along verbatim, or named and refused; what is taken is run as a proof."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edgelab.model_trial.plugins.module_utils import production
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Clause

Write = Callable[[str], Path]

SERVER = '''\
"""The nav service."""
from __future__ import annotations

import os, re
import logging as log
from datetime import datetime, timezone
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

raise SystemExit("production code was executed")
app = FastAPI()
ACTIONS = ("FORWARD", "LEFT", "RIGHT")
_SEPARATOR = " | "; UNUSED = httpx
CHOICES = _SEPARATOR.join(ACTIONS)
HINTS: dict[str, str] = {}
HINTS["goal"] = "Look around."
RULES = []
RULES.append("Answer in one line.")
RULES += [f"Use one of: {CHOICES}"]


class Reply(BaseModel):
    text: str


def _clean(text: str) -> str:
    return re.sub(r"\\s+", " ", text)  # one line


@app.get("/health")
def health() -> dict[str, Any]:
    return {"status": "ok"}


def build_vlm_prompt(goal: str, extra: Reply | None = None) -> str:
    """Ask for a direction."""
    # A comment, kept.
    lines = [f"You seek {goal!r}." , *RULES]
    for rule in lines:
        pass
    return _clean("\\n".join([HINTS["goal"], *lines]))


def parse(reply: Reply) -> str:
    return reply.text
'''


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of production's."""

    def make(text: str) -> Path:
        path = tmp_path / "server.py"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def run(source: str, call: str) -> str:
    """What ``call`` gives after ``source`` ran in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{source}\nprint({call}, end='')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Finding


def test_a_function_is_found_with_its_lines_and_hash(write: Write) -> None:
    found = production.find_function(write(SERVER), "build_vlm_prompt")
    assert (found.first_line, found.last_line) == (38, 44)
    assert found.source == "\n".join(SERVER.splitlines()[37:44])
    assert found.sha256 == hashlib.sha256(found.source.encode()).hexdigest()


def test_decorators_belong_to_the_function(write: Write) -> None:
    found = production.find_function(write(SERVER), "health")
    assert (found.first_line, found.last_line) == (33, 35)
    assert found.source.startswith('@app.get("/health")\ndef health')


def test_the_last_definition_counts_as_it_does_for_python(write: Write) -> None:
    assert production.find_function(write("def f():\n    return 1\n\ndef f():\n    return 2\n"), "f").first_line == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "no function build"),
        (
            "class A:\n    def build(self):\n        return self.x\n",
            r"build \(line 2\) is inside a class",
        ),
        ("def f():\n    def build():\n        pass\n", r"build \(line 2\) is inside a class or another"),
        ("async def build():\n    pass\n", r"build \(line 1\) is async"),
        ("def build(:\n", "is not valid Python of version"),
        ("x = '\0'\n", "is not valid Python of version"),
        ("# -*- coding: klingon -*-\n", "is not valid Python of version"),
    ],
)
def test_a_function_that_cannot_be_found_is_named(write: Write, text: str, message: str) -> None:
    with pytest.raises(production.ProductionError, match=message):
        production.find_function(write(text), "build")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(production.ProductionError, match=r"server\.py: cannot be read: No such file"):
        production.find_function(tmp_path / "server.py", "build")


# Extracting


def test_the_prompt_is_extracted_with_all_it_needs_and_nothing_else(write: Write) -> None:
    path = write(SERVER)
    source = production.extract(path, "build_vlm_prompt")
    assert production.find_function(path, "build_vlm_prompt").source in source
    for absent in (
        "httpx",
        "fastapi",
        "FastAPI",
        "SystemExit",
        "logging",
        "datetime",
        "import os",
        "health",
        "parse(",
    ):
        assert absent not in source, absent
    prompt = run(source, 'build_vlm_prompt(goal="something interesting")')
    words = "Answer in one line. Use one of: FORWARD | LEFT | RIGHT"
    assert prompt == f"Look around. You seek 'something interesting'. {words}"


def test_the_order_is_the_sources(write: Write) -> None:
    source = production.extract(write(SERVER), "build_vlm_prompt")
    parts = [
        "from __future__",
        "import re",
        "ACTIONS",
        "_SEPARATOR",
        "HINTS",
        "RULES",
        "def _clean",
        "def build",
    ]
    places = [source.index(part) for part in parts]
    assert places == sorted(places)


def test_what_is_taken_is_verbatim_comments_and_all(write: Write) -> None:
    source = production.extract(write(SERVER), "build_vlm_prompt")
    assert '    lines = [f"You seek {goal!r}." , *RULES]\n' in source
    assert '    return re.sub(r"\\s+", " ", text)  # one line\n' in source
    assert "# A comment, kept." in source


def test_nothing_is_executed(write: Write, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    touch = f"open({str(marker)!r}, 'w')"
    path = write(f"{touch}\nX = {touch}\ndef build():\n    return X\n")
    assert "open(" in production.extract(path, "build")
    assert not marker.exists()


WORKS = {
    "recursion": ("def build(n=2):\n    return '' if not n else 'x' + build(n - 1)\n", "xx"),
    "helpers that need each other": (
        "def a(n):\n return b(n - 1) if n else 'end'\ndef b(n):\n return a(n)\ndef build():\n return a(3)\n",
        "end",
    ),
    "defaults": (
        "import math\nTOP = 2\ndef build(n=TOP, *, m=math.pi):\n    return f'{n} {m:.2f}'\n",
        "2 3.14",
    ),
    "a local name like a module's": (
        "import requests as text\ndef build():\n    text = 'x'\n    return text\n",
        "x",
    ),
    "a parameter like a module's": (
        "from yaml import load as goal\ndef build(goal='y'):\n    return goal\n",
        "y",
    ),
    "comprehensions": ("N = (1, 2)\nK = 3\ndef build():\n    return [n * K for n in N if K]\n", "[3, 6]"),
    "lambdas": ("D = 'd'\nF = lambda x: x + D\ndef build():\n    return F('f')\n", "fd"),
    "nested functions": (
        "D = 'd'\ndef build():\n    def inner():\n        return D\n    return inner()\n",
        "d",
    ),
    "globals": ("count = 0\ndef build():\n    global count\n    count += 1\n    return count\n", "1"),
    "classes": (
        (
            "from dataclasses import dataclass\nfrom enum import Enum\nDEFAULT = 'go'\n"
            "class Word(Enum):\n    GO = DEFAULT\n@dataclass\nclass Part:\n    word: Word = Word.GO\n"
            "def build():\n    return Part().word.value\n"
        ),
        "go",
    ),
    "decorators of the standard library": (
        "import functools\n@functools.lru_cache(maxsize=None)\ndef build():\n    return 'x'\n",
        "x",
    ),
    "several names at once": (
        "A, (B, *C) = 'a', ('b', 'c')\ndef build():\n    return A + B + C[0]\n",
        "abc",
    ),
    "statements on one line": (
        "A = 'ä'; B = A + 'b'; import requests\ndef build(): return B  # x\n",
        "äb",
    ),
    "dotted imports": (
        "import os.path, requests\ndef build():\n    return os.path.join('a', 'b')\n",
        "a/b",
    ),
    "a rebound name": ("A = 'a'\nA = A + 'b'\nA += 'c'\ndef build():\n    return A\n", "abc"),
    "a walrus": ("(A := 'a')\ndef build():\n    return A\n", "a"),
    "the module's own name": ("def build():\n    return __name__\n", "__main__"),
    "attributes set later": (
        "from types import SimpleNamespace as N\nS = N()\nS.word = 'x'\ndef build():\n    return S.word\n",
        "x",
    ),
    "annotations that nobody evaluates": (
        (
            "from __future__ import annotations\nfrom pydantic import Goal\nX: Goal = 'x'\n"
            "async def other(a: Goal) -> Goal:\n    return a\n"
            "def build(goal: Goal | None = None, *, o=other) -> Goal:\n    y: Goal = X\n    return y\n"
        ),
        "x",
    ),
    "text over several lines": (
        'A = """one\n  two\n  three"""  # odd\ndef build():\n    return A\n',
        "one\n  two\n  three",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WORKS.values(), ids=WORKS)
def test_what_can_be_taken_runs_alone(write: Write, text: str, expected: str) -> None:
    assert run(production.extract(write(text), "build"), "build()") == expected


FAILS = [
    (
        "import requests\ndef build():\n    return requests.get('x')\n",
        "requests, needed by build, .*line 1 imports it from requests",
    ),
    (
        "from .words import WORDS\ndef build():\n    return WORDS\n",
        r"WORDS, .*imports it from \.words, outside the standard library",
    ),
    (
        "from words.more import W as X\nY = X\ndef build():\n    return Y\n",
        "X, needed by Y <- build, .*from words.more",
    ),
    (
        "from words import *\ndef build():\n    return W\n",
        r"W, needed by build, .*only come from `from words import \*`",
    ),
    ("def build():\n    return W\n", "W, needed by build, .*the module gives it no value"),
    ("def build():\n    return __file__\n", "__file__, needed by build"),
    ("if 1:\n    W = 2\ndef build():\n    return W\n", r"W, .*inside a compound statement \(if, line 1\)"),
    (
        "try:\n    import requests\nexcept ImportError:\n    pass\ndef build():\n    return requests\n",
        r"requests, .*\(try, line 1\)",
    ),
    ("for i in range(3):\n    pass\ndef build():\n    return i\n", r"i, .*\(for, line 1\)"),
    (
        "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/')\ndef build():\n    return 'x'\n",
        "FastAPI, needed by app <- build",
    ),
    (
        "from typing_extensions import Goal\ndef build(goal: Goal):\n    return 'x'\n",
        "Goal, needed by build",
    ),
    (
        "from pydantic import BaseModel\nclass C(BaseModel):\n    w = 'x'\ndef build():\n    return C.w\n",
        "BaseModel, needed by C <- build",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAILS, ids=[message for _unused, message in FAILS])
def test_what_cannot_be_taken_fails_by_name(write: Write, text: str, message: str) -> None:
    with pytest.raises(production.ProductionError, match=message):
        production.extract(write(text), "build")


# Clauses

TTS = """\
import httpx


async def speak(client, text):
    try:
        yield await client.post("/synthesize", json={"text": text})
    except (httpx.TimeoutException, httpx.HTTPError) as err:
        log.warning("mute: %s", err)
        yield TTSStoppedFrame()
    except ValueError:
        yield None
"""
CLAUSE = Clause("tts.py", [7, 9], ["httpx.TimeoutException", "httpx.HTTPError"], "TTSStoppedFrame()")


def test_the_clause_is_found_where_it_was(write: Write) -> None:
    found = production.find_clause(write(TTS), CLAUSE)
    assert found.ok
    assert found.lines == (7, 9)
    assert found.found == "lines 7-9: except httpx.HTTPError, httpx.TimeoutException: yield TTSStoppedFrame()"


def test_an_overlap_is_enough(write: Write) -> None:
    assert production.find_clause(write("\n" + TTS), CLAUSE).ok


def test_a_moved_clause_says_where_it_is_now(write: Write) -> None:
    found = production.find_clause(write("\n" * 11 + TTS), CLAUSE)
    assert not found.ok
    assert found.found == "moved from 7-9 to 18-20"
    assert found.lines == (18, 20)


def test_catching_more_is_allowed(write: Write) -> None:
    assert production.find_clause(write(TTS.replace("(httpx.Time", "(OSError, httpx.Time")), CLAUSE).ok


def test_the_way_it_is_written_does_not_matter(write: Write) -> None:
    text = TTS.replace("(httpx.TimeoutException, httpx.HTTPError)", "(  httpx.HTTPError,\n httpx.TimeoutException,)")
    assert production.find_clause(write(text.replace("Frame()", "Frame( )")), CLAUSE).ok


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", httpx.HTTPError", "", "lines 7-9 catch httpx.TimeoutException and yield TTSStoppedFrame()"),
        (
            "yield TTSStoppedFrame()",
            "raise",
            "lines 7-9 catch httpx.HTTPError, httpx.TimeoutException and yield nothing",
        ),
        ("TTSStoppedFrame()", "ErrorFrame()", "and yield ErrorFrame()"),
        ("except (httpx.TimeoutException, httpx.HTTPError) as err", "except", "catch everything"),
    ],
)
def test_a_changed_clause_is_quoted(write: Write, old: str, new: str, message: str) -> None:
    text = TTS.replace(old, new).replace("    except ValueError:\n        yield None\n", "")
    found = production.find_clause(write(text), CLAUSE)
    assert not found.ok
    assert message in found.found
    assert found.lines is None


def test_a_clause_that_is_gone_is_gone(write: Write) -> None:
    found = production.find_clause(write("x = 1\n"), CLAUSE)
    assert not found.ok
    assert "no such clause in" in found.found
    assert "neither at lines 7-9 nor elsewhere" in found.found


def test_a_file_or_a_clause_that_is_no_python_is_a_no(write: Write, tmp_path: Path) -> None:
    assert "cannot be read" in production.find_clause(tmp_path / "absent.py", CLAUSE).found
    wrong = Clause("tts.py", [7, 9], [], "TTSStoppedFrame(")
    assert "which is not an expression" in production.find_clause(write(TTS), wrong).found
