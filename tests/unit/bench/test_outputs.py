"""Where outputs go: links stay links, pipes pipes, devices devices, and `-` is standard output, for each option."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trialbench import files
from trialbench.cli import main
from trialbench.errors import TrialbenchError, UsageError
from trialbench.files import destination, write_atomic
from trialbench.options import output, outputs

WORD = """
name: word
title: one word
messages: [{role: user, content: Say forward.}]
limits: {max_tokens: 20, temperature: 0.0, timeout_s: 5}
samples: {n: 2, warmup: 1}
"""


@pytest.fixture
def word(tmp_path: Path) -> Path:
    path = tmp_path / "word.yml"
    path.write_text(WORD, encoding="utf-8")
    return path


@pytest.mark.parametrize("links", [1, 3])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one(tmp_path: Path, links: int, there: bool) -> None:
    """Also one that leads to nothing yet, over other links and into another folder."""
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "out.json"
    if there:
        target.write_text("old", encoding="utf-8")
        target.chmod(0o640)
    (tmp_path / "folder").symlink_to("data")
    link: Path = tmp_path / "folder" / "out.json"
    for number in range(links):
        (tmp_path / f"link{number}").symlink_to(os.path.relpath(link, tmp_path))
        link = tmp_path / f"link{number}"
    write_atomic(link, "new")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == link.read_text(encoding="utf-8") == "new"
    assert stat.S_IMODE(target.stat().st_mode) == (0o640 if there else 0o644)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["out.json"]


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UsageError, match="links that lead to each other"):
        write_atomic(tmp_path / "a", "new")
    with pytest.raises(UsageError, match="links that lead to each other"):
        outputs({"--out": tmp_path / "a"})


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_a_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / ("n" * 255)
    path.write_text("old", encoding="utf-8")
    path.chmod(mode)
    write_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_pipe_stays_one_and_its_reader_gets_all(tmp_path: Path) -> None:
    pipe, text = tmp_path / "pipe", "é" * 200_000
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    write_atomic(tmp_path / "link", text)
    reader.join()
    assert got == [text]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_pipe_without_a_reader_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_READER_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="expected a reader of this pipe"):
        write_atomic(tmp_path / "pipe", "new")


def test_a_reader_that_leaves_is_an_error_and_not_the_end_of_a_pipeline(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def leave() -> None:
        with (tmp_path / "pipe").open("rb") as stream:
            stream.read(1)

    reader = threading.Thread(target=leave)
    reader.start()
    with pytest.raises(UsageError, match="cannot be written: Broken pipe"):
        write_atomic(tmp_path / "pipe", "x" * 1_000_000)
    reader.join()


def test_devices_are_written_to() -> None:
    write_atomic(Path("/dev/null"), "new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(UsageError, match="/dev/full: cannot be written: No space left"):
        write_atomic(Path("/dev/full"), "new")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_what_nothing_can_be_written_to_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, found in ((tmp_path / "socket", "a socket"), (tmp_path, "a folder")):
            with pytest.raises(UsageError, match=f"found {found}"):
                write_atomic(path, "new")
            with pytest.raises(UsageError, match=rf"--out .*: expected a file that can be written, but is {found}"):
                outputs({"--out": path})
    assert (tmp_path / "socket").is_socket()


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "link"])
@pytest.mark.parametrize("there", ["file", "pipe"])
def test_an_open_descriptor_is_written_to_where_it_stands(tmp_path: Path, name: str, there: str) -> None:
    """Its file is not replaced: what is printed before and after stands around it."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    path = str(tmp_path / name) if name == "link" else name
    code = (
        "import sys\nfrom pathlib import Path\nfrom trialbench.files import write_atomic\n"
        "print('before')\nwrite_atomic(Path(sys.argv[1]), 'new\\n')\nprint('after')"
    )
    command = [sys.executable, "-c", code, path]
    if there == "pipe":
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    else:
        with (tmp_path / "log").open("w", encoding="utf-8") as log:
            subprocess.run(command, stdout=log, check=True)
        shown = (tmp_path / "log").read_text(encoding="utf-8")
    assert shown == "before\nnew\nafter\n"


def test_a_descriptor_that_is_not_for_writing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("kept", encoding="utf-8")
    with (tmp_path / "in").open("rb") as stream:
        with pytest.raises(UsageError, match="but it is open for reading only"):
            outputs({"--out": Path(f"/dev/fd/{stream.fileno()}")})
        with pytest.raises(UsageError, match="cannot be written"):
            write_atomic(Path(f"/dev/fd/{stream.fileno()}"), "new")
        number = stream.fileno()
    with pytest.raises(UsageError, match="but it is not open"):
        outputs({"--out": Path(f"/dev/fd/{number}")})
    assert (tmp_path / "in").read_text(encoding="utf-8") == "kept"


def test_a_dash_is_standard_output_and_a_file_of_that_name_is_another(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert destination(output("-")) == 1
    write_atomic(output("./-"), "new")
    assert Path("./-").read_text(encoding="utf-8") == "new"


def test_two_outputs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    for one, other in (("a", "a"), ("a", "link"), ("-", "/dev/stdout")):
        given = {"--json": output(one if one == "-" else str(tmp_path / one)), "--junit": output(str(tmp_path / other))}
        with pytest.raises(UsageError, match=r"--junit .* a file other than that of --json"):
            outputs(given)
    assert outputs({"--json": Path("/dev/null"), "--junit": Path("/dev/null")}) is sys.stdout
    assert outputs({"--json": output("-"), "--junit": None}) is sys.stderr


def run_output(word: Path, server: Any, _acts: Any, out: str) -> list[str]:
    return ["run", "--workload", str(word), "--url", server.url, "--summary", out]


def samples_output(word: Path, server: Any, _acts: Any, out: str) -> list[str]:
    return ["run", "--workload", str(word), "--url", server.url, "--out", out, "-n", "1"]


def result_output(_word: Path, server: Any, acts: Any, out: str) -> list[str]:
    server.script = [acts.recorded("good.sse")]
    return ["oneshot", "--engine", "openai", "--url", server.url, "--result", out, "hi"]


MakesVerb = Callable[[Path, Any, Any, str], list[str]]


@pytest.mark.parametrize("out", ["-", "/dev/stdout"])
@pytest.mark.parametrize("verb", [run_output, samples_output, result_output])
def test_standard_output_is_for_the_document_alone(
    word: Path, server: Any, acts: Any, capfd: pytest.CaptureFixture[str], verb: MakesVerb, out: str
) -> None:
    before = sorted(word.parent.iterdir())
    assert main(verb(word, server, acts, out)) == 0
    shown = capfd.readouterr()
    assert isinstance(json.loads(shown.out), dict)
    assert shown.err
    # No file of warm-ups beside a device.
    assert sorted(word.parent.iterdir()) == before
    assert not Path("/dev/stdout-warmup").exists()


@pytest.mark.parametrize("verb", [run_output, samples_output, result_output])
def test_each_option_keeps_links_and_pipes(word: Path, server: Any, acts: Any, tmp_path: Path, verb: MakesVerb) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text(encoding="utf-8")))
    reader.start()
    assert main(verb(word, server, acts, str(tmp_path / "pipe"))) == 0
    reader.join()
    assert isinstance(json.loads(got[0]), dict)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "link").symlink_to("file")
    assert main(verb(word, server, acts, str(tmp_path / "link"))) == 0
    assert (tmp_path / "link").is_symlink()
    assert isinstance(json.loads((tmp_path / "file").read_text(encoding="utf-8")), dict)


def test_pins_to_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from trialbench import hub

    listed = hub.RemoteFile("m.gguf", 5, "9" * 64)
    monkeypatch.setattr(hub, "list_files", lambda *_: ("1" * 40, [listed]))
    assert main(["pin", "--repo", "a/b", "--include", "*", "--out", "-"]) == 0
    shown = capfd.readouterr()
    assert shown.out.startswith("---\n# Written by `trialbench pin`")
    assert "m.gguf: 0.0 MB" in shown.err


@pytest.mark.parametrize("option", ["--summary", "--out"])
@pytest.mark.parametrize("out", ["{tmp}", "{tmp}/none/x", "/dev/stdin", "/proc/none/x", "/proc/none"])
def test_what_cannot_be_written_is_refused_before_anything_is_sent(
    word: Path, server: Any, tmp_path: Path, option: str, out: str
) -> None:
    arguments = ["run", "--workload", str(word), "--url", server.url, option, out.replace("{tmp}", str(tmp_path))]
    with open(os.devnull, encoding="utf-8") as nothing:
        kept = os.dup(0)
        os.dup2(nothing.fileno(), 0)
        try:
            assert main(arguments) == 2
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    assert server.bodies == []


def test_the_file_stays_whole_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to("data")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, TrialbenchError)):
        write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "link"]
