"""On a terminal nothing is wider than promised, wide letters count as two, and names that differ look different."""

from __future__ import annotations

import ctypes
import fcntl
import json
import locale
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from trialbench.report.compare import compare_table
from trialbench.report.table import folder_table
from trialbench.show.text import apart, cells, columns, middle, width, wrap

pytestmark = pytest.mark.usefixtures("few_resamples")

REAL = Path(__file__).resolve().parents[2] / "fixtures" / "runs" / "completed"
WIDTHS = (40, 80, 127, 200)
LONG = "unsloth-gemma-4-E4B-it-qat-UD-Q4_K_XL-imatrix-calibrated-2026-11-29-with-a-suffix-that-nobody-shortens"
Q4, Q5 = "gemma-4-E4B-it-qat-UD-Q4_K_XL", "gemma-4-E4B-it-qat-UD-Q5_K_XL"


def make(path: Path, label: str, host: str) -> Path:
    """The recorded run with another model on another host."""
    shutil.copytree(REAL, path)
    plan = json.loads((path / "plan.json").read_text())
    plan["candidate"]["label"], plan["host"] = label, host
    (path / "plan.json").write_text(json.dumps(plan))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    named = [
        ("long", LONG, "edge-node-17.rack-042.datacenter-frankfurt-3.internal.example.org"),
        ("wide", "画像認識モデル日本語版" * 4, "エッジノード十七号機"),
    ]
    return [make(root / name, label, host) for name, label, host in named]


@pytest.mark.parametrize("wide", WIDTHS)
def test_no_line_is_wider_than_the_terminal(runs: list[Path], wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(wide))
    without = [("無" * 30, "理由は長い。" * 40), ("h" * 90, "x" * 300)]
    for text in (*map(folder_table, runs), compare_table(runs, without)):
        lines = text.split("\n")
        assert max(map(cells, lines)) <= wide, max(lines, key=cells)
        # What fits is shown, and what does not fit is shown below.
        assert "adherent" in text
        assert "100/100" in text


@pytest.mark.prove
def test_a_wider_terminal_is_used(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    heights = []
    for wide in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(wide))
        heights.append(compare_table(runs).count("\n"))
    assert all(after <= before for before, after in pairwise(heights))
    assert heights[0] > heights[-1]


@pytest.mark.parametrize(
    ("setting", "found"),
    [("80", 80), ("39", 40), ("1", 40), ("201", 200), ("0", 100), ("-5", 100), ("wide", 100), ("", 100), (None, 100)],
)
def test_the_width_is_bounded_and_a_pipe_has_100(
    setting: str | None, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under pytest, standard output is a file."""
    if setting is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", setting)
    assert width() == found


@pytest.mark.parametrize("wide", [57, 140])
def test_the_width_is_the_terminals(wide: int) -> None:
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, wide, 0, 0))
    code = "import sys; from trialbench.show.text import width; sys.stderr.write(str(width()))"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, stdout=terminal, stderr=subprocess.PIPE, env=environment, check=True, text=True, timeout=60
    )
    os.close(terminal)
    os.close(control)
    assert done.stderr == str(wide)


def test_columns_of_wide_letters_stand_below_each_other() -> None:
    rows = [
        ["日本語", "a"],
        ["é", "b"],
        ["e\u0301", "c"],
        ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "d"],
        ["❤\ufe0f", "e"],
    ]
    lines = columns(rows).split("\n")
    assert [cells(line[: line.index(row[1])]) for line, row in zip(lines, rows, strict=True)] == [8] * 5
    assert columns([]) == ""


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("plain", 5),
        ("日本語", 6),
        ("ｱ", 1),
        ("Ａ", 2),
        ("e\u0301", 1),
        ("\u0645\u06cc\u200c\u0628", 3),
        ("\u0915\u094d\u200d\u0937", 2),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", 2),
        ("\U0001f44d\U0001f3fd", 2),
        ("❤\ufe0f", 2),
        ("\U0001f1eb\U0001f1f7", 2),
        ("\U0001f1eb\U0001f1f7\U0001f1e9", 3),
        ("1\ufe0f\u20e3", 2),
        ("a\ufe0f", 1),
        ("❤\ufe0f\u200d\U0001f525", 2),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f", 2),
        ("\U0001f3f3\ufe0f\u200d\U0001f308", 2),
        ("\u1112\u1161\u11ab", 2),
        ("\ua960\ud7b0\ud7cb", 2),
        ("soft\u00adhyphen", 11),
        ("\u1100\u1161", 2),
        ("1,5\u00a0m", 5),
    ],
)
def test_a_text_takes_so_many_columns(text: str, wide: int) -> None:
    assert cells(text) == wide


def test_single_letters_count_as_the_c_library_counts_them() -> None:
    """An oracle of its own; where its tables are older or newer, the letter is left out."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        wcwidth = ctypes.CDLL(None).wcwidth
        blocks = [range(0x20, 0x7F), range(0xA1, 0x180), range(0x391, 0x530), range(0x3041, 0x3097)]
        blocks += [range(0x4E00, 0x4E80), range(0xAC00, 0xAC80), range(0xFF01, 0xFFBF), range(0x1F600, 0x1F640)]
        letters = [chr(at) for block in blocks for at in block if unicodedata.category(chr(at)) != "Cn"]
        assert [one for one in letters if cells(one) != wcwidth(ord(one))] == []
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


NAMES = [
    ([Q4, Q5], 26),
    ([Q4, Q5], 12),
    ([LONG, LONG.replace("Q4", "Q5")], 26),
    ([LONG, LONG.replace("Q4", "Q5"), LONG.replace("Q4", "Q6"), "short"], 20),
    ([LONG + "a", LONG + "b", "x" + LONG], 20),
    (["日" * 20 + "a", "日" * 20 + "b", "日" * 10 + "x" + "日" * 10 + "a"], 16),
    (
        [
            "a" * 30 + "1" + "b" * 30 + "1" + "c" * 30,
            "a" * 30 + "2" + "b" * 30 + "1" + "c" * 30,
            "a" * 30 + "1" + "b" * 30 + "2" + "c" * 30,
        ],
        14,
    ),
]


@pytest.mark.parametrize(("names", "limit"), NAMES)
def test_names_that_differ_look_different(names: list[str], limit: int) -> None:
    shown = apart(names, limit)
    assert len(set(shown)) == len(names)
    assert max(map(cells, shown)) <= limit
    # Equal names stay equal, and short ones as they are.
    assert apart([*names, names[0]], limit)[-1] == apart([*names, names[0]], limit)[0]
    assert apart(["a", "b"], limit) == ["a", "b"]


@settings(max_examples=examples(100))
@given(st.lists(st.text(alphabet="ab日\u0301", max_size=40), min_size=1, max_size=6), st.integers(12, 30))
def test_any_names_that_differ_look_different(names: list[str], limit: int) -> None:
    shown = apart(names, limit)
    assert len(set(shown)) == len(set(names))
    assert max(map(cells, shown)) <= limit


def test_a_number_makes_no_name_another() -> None:
    names = ["a" * 30 + "b" * 30, "a" * 31 + "b" * 29, "aaaa...bbb #2", "a" * 32 + "b" * 28]
    shown = apart(names, 13)
    assert len(set(shown)) == len(names)
    assert shown[2] == names[2]


@pytest.mark.parametrize("limit", range(8, 16))
@pytest.mark.parametrize("text", ["ab❤\ufe0f" * 6, "❤\ufe0f" * 12, "1\ufe0f\u20e3#\ufe0f\u20e3" * 6])
def test_a_cut_leaves_no_part_of_an_emoji(text: str, limit: int) -> None:
    shown = middle(text, limit)
    assert cells(shown) <= limit
    start, _, end = shown.partition("...")
    assert text.startswith(start)
    assert text.endswith(end)
    whole = "\ufe0f" if "\u20e3" not in text else "\u20e3"
    assert not end.startswith(("\ufe0f", "\u20e3"))
    assert start.endswith((whole, "a", "b"))


def test_a_name_is_cut_in_its_middle() -> None:
    assert middle(Q4, 26) == "gemma-4-E4B-...-UD-Q4_K_XL"
    assert middle("日" * 20, 11) == "日日...日日"
    assert middle("short", 26) == "short"


@pytest.mark.prove
def test_two_models_of_one_name_but_for_a_letter_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [make(tmp_path / label, label, "twin") for label in (Q4, Q5)]
    for wide in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(wide))
        rows = [line for line in compare_table(folders).split("\n") if "K_XL" in line or "Q4" in line or "Q5" in line]
        assert any("Q4" in row for row in rows)
        assert any("Q5" in row for row in rows)


def test_no_line_breaks_between_a_number_and_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "fits: 6.2 of 5.5-7.5 GB; 61 % slower; bounds 92.5-100.0 %; at most 30 ms: kept, 12 Hz, \u65e5\u672c 5 %"
    for columns_of in range(40, 101):
        monkeypatch.setenv("COLUMNS", str(columns_of))
        found = wrap(text)
        assert " ".join(found.split()) == text
        assert not [line for line in found.split("\n") if line.strip().startswith(("%", "GB", "ms", "Hz"))]


def test_wide_text_is_wrapped_by_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = "  長い日本語の文章はここで折り返されます。" * 5 + " and words \U0001f44d\U0001f3fd"
    found = wrap(text)
    assert max(map(cells, found.split("\n"))) <= 36
    assert "".join(found.split()) == "".join(text.split())


FAMILY, FLAG = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7"


@pytest.mark.parametrize("whole", [FAMILY, FLAG, "e\u0301", "❤\ufe0f", "\u1112\u1161\u11ab", "\U0001f44d\U0001f3fd"])
@pytest.mark.parametrize("before", ["", "a", "word and "])
def test_what_is_made_of_several_characters_is_not_broken(
    whole: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = wrap(before + whole * 60).split("\n")
    assert "".join(line.strip() for line in lines).replace(" ", "") == (before + whole * 60).replace(" ", "")
    assert max(map(cells, lines)) <= 38
    for line in lines:
        assert not line.replace(before.strip(), "").replace("word", "").replace("and", "").strip().replace(whole, "")


@pytest.mark.prove
@pytest.mark.parametrize("verb", ["show", "compare", "schema"])
@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_a_closed_standard_stream_ends_quietly(verb: str, closed: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    folder = "" if verb == "schema" else str(REAL)
    code = "import sys; from trialbench.cli import main; sys.exit(main())"
    script = f'"{sys.executable}" -c "{code}" {verb} {folder} {closed}'
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, env=environment, check=False, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == ("1>&-" not in closed)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("arguments", "around", "said", "told"),
    [
        ("report {run} --out -", "0<&- 1>&-", "", "/dev/stdout\n"),
        ("report {run} --out -", "| head -c 15", "<!doctype html>", ""),
        ("show {run}", "| head -c 3", "Ver", ""),
        ("compare {run} --html -", "2>&- | head -c 15", "<!doctype html>", ""),
    ],
)
def test_a_reader_that_wants_no_more_is_no_trouble(
    tmp_path: Path, arguments: str, around: str, said: str, told: str
) -> None:
    """Nor is a descriptor that a file would get when it is opened."""
    run = shutil.copytree(REAL, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import sys; from trialbench.cli import main; sys.exit(main())"
    command = f'"{sys.executable}" -c "{code}" {arguments.format(run=run)}'
    script = f'{{ {command}; echo "exit $?" >&3; }} 3>"{tmp_path}/code" {around}'
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, env=environment, check=False, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == (said, told)
    assert (tmp_path / "code").read_text() == "exit 0\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
