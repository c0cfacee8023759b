"""A check needs neither torch nor a network: in a process where both are refused it judges files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
FIXTURES = ROOT / "tests" / "fixtures" / "ground_truth"
# Whatever is asked for in spite of the ban is written down; catching the error does not hide it.
BARRED = """
import builtins, os, socket, sys

tried = open(os.environ["TRIED"], "a", buffering=1)
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "accelerate"}


class NoHeavy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            tried.write(f"import {name}\\n")
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NoHeavy())


def barred(event, args):
    place = None
    if event == "socket.connect" and isinstance(args[1], tuple):
        place = args[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        place = args[0]
    if place is not None and place not in ("127.0.0.1", b"127.0.0.1", "localhost", "::1"):
        tried.write(f"{event} {place}\\n")
        raise OSError("the network is barred")


sys.addaudithook(barred)
exec(os.environ["RUN"])
"""


def run(tmp_path: Path, code: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run code behind the bars; also what was tried against them."""
    tried = tmp_path / "tried"
    tried.touch()
    environment = {
        **os.environ, "RUN": code, "TRIED": str(tried), "PYTHONPATH": str(ROOT / "bench"),
        "LLAMA_CPP_BIN": str(FIXTURES / "stand_ins"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", BARRED], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return done, tried.read_text()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import torch", "import torch"),
        ("import socket; socket.socket().connect(('192.0.2.1', 80))", "socket.connect 192.0.2.1"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "socket.getaddrinfo example.org"),
    ],
)
def test_the_bars_hold(tmp_path: Path, code: str, said: str) -> None:
    done, tried = run(tmp_path, f"try:\n  {code}\nexcept Exception:\n  sys.exit(7)")
    assert done.returncode == 7
    assert said in tried


@pytest.mark.prove
def test_a_check_without_torch_and_without_a_network(tmp_path: Path, roster_file: Path) -> None:
    rows = [f"  tensor-{quant}: {{value: 0.01, unit: some, why: because of the test}}" for quant in ("f32", "Q8_0")]
    rows += ["  tensor-f16: {value: 0, unit: some, why: because of the test}"]
    (roster_file.parent / "tolerances.yml").write_text("---\ntolerances:\n" + "\n".join(rows) + "\n")
    words = ["--roster", str(roster_file), "--work", str(tmp_path / "w"), "--model", "m-llama"]
    judged = [*words, "--suite", "weights", "--suite", "token", "--json", str(tmp_path / "v.json")]
    code = "from trialbench.cli import main\n"
    code += f"codes = [main(['pull', *{words!r}]), main(['convert', *{words!r}]), main(['check', *{judged!r}])]\n"
    code += "print('codes', codes)"
    done, tried = run(tmp_path, code)
    assert tried == ""
    # Random numbers are not exact in float16, and there is no oracle: both are found.
    assert "codes [0, 0, 1]" in done.stdout, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    status = {(row["suite"], row["quant"]): row["status"] for row in verdict["results"]}
    assert (status["weights", "f32"], status["weights", "f16"]) == ("PASS", "FAIL")
    assert status["token", "f16"] == "INCONCLUSIVE"


def test_an_oracle_without_torch_says_what_to_install(tmp_path: Path) -> None:
    words = ["oracle", "--roster", str(FIXTURES / "roster.yml"), "--work", "w", "--oracle", "o"]
    done, tried = run(tmp_path, f"from trialbench.cli import main\nsys.exit(main({words!r}))")
    assert done.returncode == 2
    assert "pip install 'edgelab-trialbench[oracle]'" in done.stderr
    assert tried == "import torch\n"
