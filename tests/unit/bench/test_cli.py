"""The command, run as people run it: arguments, output, exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trialbench
from trialbench.cli import main

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_version_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"trialbench {trialbench.__version__}\n"
    assert f'version = "{trialbench.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "trialbench", "--version"], capture_output=True, check=True)
    assert done.stdout.decode() == f"trialbench {trialbench.__version__}\n"


def test_run_writes_samples_summary_and_a_table(
    server: Any, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, summary = tmp_path / "nav.jsonl", tmp_path / "nav.json"
    code = run(
        *("run", "--url", server.url, "--workload", "nav", "--set", "prompt=Where to?", "--image", image),
        *("-n", "8", "--warmup", "2", "--out", out, "--summary", summary, "--label", "tiny", "--timeout-s", "5"),
    )
    assert code == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 8
    assert len((tmp_path / "nav-warmup.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    document = json.loads(summary.read_text(encoding="utf-8"))
    assert (document["model_label"], document["segments"]["nav"]["ok"]) == ("tiny", 8)
    captured = capsys.readouterr()
    assert "8/8" in captured.out
    assert "nav: 8/8 sent, all ok, p50" in captured.err
    assert max(map(len, captured.out.splitlines())) <= 100


def test_run_reads_replies_with_productions_own_parser(
    server: Any, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reads.py").write_text("def reads(text):\n    return text.split()[1] if 'left' in text else None\n")
    own = ("--parser", f"{tmp_path}/reads.py:reads", "--out", tmp_path / "out.jsonl")
    assert run("run", "--url", server.url, "--workload", "describe", "--image", image, "-n", "2", *own) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["strategy"], line["parsed"]) for line in lines] == [(1, ["large"])] * 2
    assert "2/2" in capsys.readouterr().out


def test_run_takes_the_workload_s_own_numbers_and_keeps_nothing(server: Any, image: Path, tmp_path: Path) -> None:
    assert run("run", "--url", server.url, "--workload", "describe", "--image", image, "--cache-prompt") == 0
    assert len(server.bodies) == 5
    assert all(body["cache_prompt"] is True for body in server.bodies)
    assert list(tmp_path.iterdir()) == [image]


def test_run_options_reach_the_request(server: Any, acts: Any, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIALBENCH_API_KEY", "k-1")
    server.script = [acts.recorded("good.sse")]
    common = ("run", "--url", server.url, "--workload", "describe", "--image", image, "-n", "1")
    assert run(*common, "--stream", "--model", "m", "--omit", "chat_template_kwargs", "--omit", "cache_prompt") == 0
    body = server.bodies[0]
    assert (body["model"], body["stream"]) == ("m", True)
    assert "chat_template_kwargs" not in body
    assert "cache_prompt" not in body
    assert "k-1" in server.headers[0]


@pytest.mark.parametrize(
    ("script", "code"), [([("turn around", "stop")], 0), ([("", "stop"), ("left large", "stop")], 3)]
)
def test_run_exit_codes(server: Any, acts: Any, image: Path, script: list[tuple[str, str]], code: int) -> None:
    server.script = [acts.chat(*reply) for reply in script]
    arguments = ("run", "--url", server.url, "--workload", "nav", "--set", "prompt=x", "--image", image)
    assert run(*arguments, "-n", "3", "--warmup", "0") == code


def test_run_against_nobody(dead_url: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--url", dead_url, "--workload", "describe", "--image", image) == 4
    captured = capsys.readouterr()
    assert "5 connect" in captured.out
    assert "the server is broken or unreachable: all requests found no connection" in captured.out
    assert "first error: describe 1: connect: " in captured.out


def test_run_says_once_why_requests_fail(
    server: Any, acts: Any, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = [acts.http(b"image input is not supported\n\x1b[31m" + b"x" * 300, status=500)]
    assert run("run", "--url", server.url, "--workload", "describe", "--image", image, "-n", "2") == 3
    captured = capsys.readouterr()
    line = "first error: describe 1: http_500: image input is not supported\\n\\x1b[31mxxx"
    for text in (captured.out, captured.err):
        assert text.count("first error") == text.count(line) == 1
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) < 240
    assert "describe: 2/2 sent, 2 failed" in captured.err


def test_run_stops_at_its_time_limit(server: Any, acts: Any, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.script = [acts.chat(), acts.stalls]
    code = run("run", "--url", server.url, "--workload", "describe", "--image", image, "--time-limit-s", "0.2")
    # Partial, said so, and not taken for a success.
    assert code == 3
    shown = capsys.readouterr().out
    assert "stopped: time_limit, 1 cut off" in shown
    assert "its results are partial" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--url", "http://127.0.0.1:1", "--workload", "navv"],
        ["run", "--url", "127.0.0.1:1", "--workload", "describe", "--image", "IMAGE"],
        ["run", "--url", "http://127.0.0.1:1", "--workload", "nav", "--set", "prompt"],
        ["run", "--url", "http://127.0.0.1:1", "--workload", "describe", "--image", "IMAGE", "--parser", "reads.py"],
        ["run", "--url", "http://127.0.0.1:1", "--workload", "describe", "--image", "IMAGE", "--parser", "/none.py:f"],
        ["run", "--url", "http://127.0.0.1:1", "--workload", "describe", "--image", "IMAGE", "--out", "/none/x.jsonl"],
        ["run", "--url", "http://127.0.0.1:1", "--workload", "describe", "--image", "IMAGE", "--set", "nonsense=1"],
        ["run", "--url", "http://127.0.0.1:1", "--workload", "describe", "--image", "IMAGE", "--set", "max_tokens=1"],
        ["session", "/none.json"],
        ["schema", "none"],
        ["show", "/none"],
        ["prompt", "--source", "/none.py", "--call", "f()"],
        ["prompt", "--source", "/none.py", "--call-file", "/none.txt"],
        ["fetch", "--repo", "x", "--revision", "main", "--include", "*", "--dest", "/none"],
        ["pin", "--repo", "x", "--include", "*", "--out", "/none/x.yml"],
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_wrong_usage_is_exit_2_with_a_plain_message(
    arguments: list[str], image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(str(image) if argument == "IMAGE" else argument for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("trialbench: ")
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["run"], ["unknown"], [], ["run", "-n", "0"], ["run", "-n", "x"]])
def test_argparse_s_own_refusals_are_exit_2_too(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2


def test_session(server: Any, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = {
        "url": server.url,
        "out_dir": str(tmp_path),
        "image": str(image),
        "segments": [{"id": "describe-candidate", "workload": "describe", "n": 2}],
    }
    (tmp_path / "s.json").write_text(json.dumps(session), encoding="utf-8")
    assert run("session", tmp_path / "s.json") == 0
    assert "describe-candidate: 2/2" in capsys.readouterr().out
    assert (tmp_path / "summary-describe-candidate.json").exists()


def test_prompt_is_printed_verbatim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.py").write_text("def f(goal):\n    return f'Go to {goal}.'\n", encoding="utf-8")
    assert run("prompt", "--source", tmp_path / "p.py", "--call", 'f(goal="x")') == 0
    assert capsys.readouterr().out == "Go to x."
    (tmp_path / "call.txt").write_text('f(goal="the red ball")\n', encoding="utf-8")
    assert run("prompt", "--source", tmp_path / "p.py", "--call-file", tmp_path / "call.txt") == 0
    assert capsys.readouterr().out == "Go to the red ball."


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    assert "workload" in capsys.readouterr().out.split()
    assert run("schema", "sample") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Sample"


@pytest.mark.parametrize("arguments", [("schema",), ("schema", "summary")], ids=["short", "longer than the buffer"])
def test_reader_that_has_seen_enough(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "trialbench", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.prove
def test_bars_on_a_terminal(server: Any, image: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trialbench", "run", "--url", server.url, "--workload", "describe"]
    done = subprocess.run(
        [*command, "--image", str(image)],
        stderr=theirs,
        stdout=subprocess.PIPE,
        check=False,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "5/5" in drawn
    assert "all ok" in drawn


def test_a_verb_loads_only_what_it_needs() -> None:
    """Start-up counts in the trial: what is slow to import must not creep into the measuring client."""
    code = (
        "import sys, trialbench.cli, trialbench.measure.session, trialbench.measure.progress\n"
        "slow = {'yaml', 'jinja2', 'rich', 'huggingface_hub', 'docker', 'asyncio', 'click', 'requests'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    # The image has neither click nor anyio, which httpx and httpcore load where they find them.
    hide = "import sys\nfor name in ('click', 'anyio', 'trio', 'socksio', 'rich'): sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert loaded <= {"click", "rich"}  # present as None: hidden, not loaded
