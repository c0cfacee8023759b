"""Claims are locked before anybody looks; a changed one, a withdrawn one and an edited chain show."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trialbench.errors import UsageError
from trialbench.ground_truth.evidence.measures import Fidelity
from trialbench.ground_truth.evidence.observe import Seen
from trialbench.ground_truth.evidence.oracle_files import Oracle
from trialbench.ground_truth.model.roster import load_roster
from trialbench.ground_truth.runtimes.base import Artifact, Generation, Perplexity, Trouble, TroubleKind
from trialbench.ground_truth.suites import claims as module
from trialbench.ground_truth.suites.claims import Claim, judge_claims, lock, read_claims, read_lock
from trialbench.ground_truth.suites.results import Status

TINY = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth" / "claims"
CLAIM = """---
statement: The tiny models say what they said before.
metric: token-mismatches
at_most: 0
quants: [f16]
falsified_by: One token that is another one.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exact.yml").write_text(CLAIM)
    return tmp_path


def standing(folder: Path) -> list[str]:
    return [claim.standing for claim in read_claims(folder)]


def test_locking_amending_and_what_shows(folder: Path) -> None:
    assert standing(folder) == ["NOT LOCKED"]
    day = datetime(2026, 11, 21, tzinfo=UTC)
    assert lock(folder, now=day) == ["exact: locked"]
    assert standing(folder) == ["locked 2026-11-21"]
    assert lock(folder) == []
    (folder / "exact.yml").write_text(CLAIM.replace("at_most: 0", "at_most: 5"))
    # Changed and not locked again, it is no claim that was stated beforehand.
    assert standing(folder) == ["NOT LOCKED (CHANGED since 2026-11-21)"]
    assert lock(folder, now=day.replace(month=12)) == ["exact: AMENDED"]
    assert standing(folder) == ["locked 2026-12-21, AMENDED once"]
    # Back to the old bound is another amendment: the chain forgets nothing.
    (folder / "exact.yml").write_text(CLAIM)
    lock(folder, now=day)
    assert read_claims(folder)[0].amendments == 2
    assert standing(folder) == ["locked 2026-11-21, AMENDED 2 times"]
    assert [entry["amendment"] for entry in read_lock(folder)] == [False, True, True]


def test_an_edited_chain_is_refused(folder: Path) -> None:
    (folder / "other.yml").write_text(CLAIM)
    lock(folder)
    path = folder / "lock.jsonl"
    good = path.read_text()
    first, second = good.splitlines()
    changed = json.loads(first)
    changed["when"] = "2020-01-01T00:00:00+00:00"
    edits = [
        second + "\n",
        second + "\n" + first + "\n",
        json.dumps(changed) + "\n" + second + "\n",
        good.replace('"amendment": false', '"amendment": true', 1),
        "[]\n",
        "{\n",
        good + "null\n",
    ]
    for edited in edits:
        path.write_text(edited)
        with pytest.raises(UsageError, match="the chain of claims is broken here"):
            read_claims(folder)
    path.write_text(good)
    assert len(read_claims(folder)) == 2


def forge(folder: Path, **changes: Any) -> None:
    """An entry more, with a hash that is right: anyone who can write the file can compute it."""
    last = read_lock(folder)[-1]
    entry = {**{key: value for key, value in last.items() if key != "hash"}, "previous": last["hash"], **changes}
    entry["hash"] = module._hash(entry)
    with (folder / "lock.jsonl").open("a") as stream:
        stream.write(json.dumps(entry) + "\n")


def test_an_amendment_that_calls_itself_none_shows(folder: Path) -> None:
    lock(folder)
    (folder / "exact.yml").write_text(CLAIM.replace("at_most: 0", "at_most: 5"))
    forge(folder, sha256=module.digest(folder / "exact.yml"), amendment=False)
    assert standing(folder)[0].endswith(", AMENDED once")


@pytest.mark.parametrize("changes", [{"claim": None}, {"sha256": 5}, {"when": []}])
def test_an_entry_that_says_nothing_breaks_the_chain(folder: Path, changes: dict[str, Any]) -> None:
    lock(folder)
    forge(folder, **changes)
    with pytest.raises(UsageError, match=r"lock\.jsonl:2: the chain of claims is broken here"):
        read_claims(folder)


def test_a_chain_that_is_no_text_is_broken(folder: Path) -> None:
    (folder / "lock.jsonl").write_bytes(b'{"claim": "\xff"}\n')
    with pytest.raises(UsageError, match=r"lock\.jsonl:1: the chain of claims is broken here"):
        read_claims(folder)


def test_a_claim_cut_from_the_end_of_the_chain_is_missed(folder: Path) -> None:
    (folder / "other.yml").write_text(CLAIM)
    lock(folder, now=BEFORE)
    work = folder / "work"
    assert [one.name for one in module.beforehand(work, folder)] == ["exact", "other"]
    module.remember(work, folder, read_claims(folder), now=RESULTS)
    (folder / "other.yml").unlink()
    path = folder / "lock.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert standing(folder) == ["locked 2026-11-20"]
    with pytest.raises(UsageError, match="other: results of 2026-11-21 were compared with it, and it is no longer"):
        module.beforehand(work, folder)


def test_a_locked_claim_is_not_withdrawn(folder: Path) -> None:
    lock(folder)
    (folder / "exact.yml").unlink()
    with pytest.raises(UsageError, match="exact: locked, but no longer there"):
        read_claims(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("at_most: 0\n", "", "expected either at_most or at_least, found none"),
        ("at_most: 0\n", "at_most: 0\nat_least: 1\n", "found both"),
        ("metric: token-mismatches", "metric: charm", "metric: expected one of"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(folder: Path, old: str, new: str, said: str) -> None:
    (folder / "exact.yml").write_text(CLAIM.replace(old, new))
    with pytest.raises(UsageError, match=said):
        lock(folder)


def test_without_a_folder_there_are_no_claims(tmp_path: Path) -> None:
    assert read_claims(None) == read_claims(tmp_path / "none") == []


def test_the_shipped_claims_are_locked_and_never_amended() -> None:
    found = read_claims(TINY)
    assert {claim.name for claim in found} >= {"exact", "q4km-kl", "q4km-agreement", "q2k-kl", "q2k-agreement"}
    assert all(claim.amendments == 0 for claim in found)
    exact = next(claim for claim in found if claim.name == "exact")
    assert (exact.bound, exact.quants) == (0, ("f32", "f16", "Q8_0"))


ORACLE = Oracle("m", "m", "p", "one.txt", "5", "2", (1, 2), "t", 8, prompt_ids=(7,))


class Found:
    """What a check found, set by the test."""

    def __init__(self, roster: Any) -> None:
        self.roster = roster
        self.runtime = SimpleNamespace(identity=SimpleNamespace(name="llama.cpp"))
        self.workspace = SimpleNamespace(
            quants=lambda model, _name: model.quants["llama.cpp"],
            folder=lambda m: m.folder,
            root=roster.path.parent / "work",
        )
        self.load_trouble: Trouble | None = None
        self.generation = Generation((1, 2), "t", prompt_tokens=1)
        self.the_oracle: Any = ORACLE
        self.the_fidelity: Fidelity | None = Fidelity((0.1, 0.3), (0.0, 0.0), (1,))
        self.over: dict[str, Perplexity] = {}

    def seen(self, model: Any, quant: str) -> Seen:
        names = [prompt.name for prompt in self.roster.prompts.prompts]
        return Seen(self.load_trouble, dict.fromkeys(names, self.generation))

    def oracle(self, model: Any, prompt: str) -> Any:
        return self.the_oracle

    def fidelity(self, model: Any, quant: str, prompt: str) -> Any:
        return self.the_fidelity

    def perplexity(self, model: Any, quant: str) -> Perplexity:
        return self.over.get(quant, Perplexity(2.0, 0.1, 100, kl_mean=0.2))

    def artifact(self, model: Any, quant: str) -> Artifact:
        return Artifact(Path("nowhere.gguf"), model.slug, "gguf", quant)


@pytest.fixture
def found(roster_file: Path) -> Found:
    return Found(load_roster(str(roster_file)))


def claim(metric: str, bound: float = 0.0, direction: str = "at most", **more: Any) -> Claim:
    base = Claim("c", "s", metric, direction, bound, (), ("f16", "Q8_0"), 0, "2026-11-21")
    return replace(base, **more)


def judged(found: Found, one: Claim) -> Any:
    return judge_claims([one], found, found.roster.models)[0]  # type: ignore[arg-type]  # a stand-in


def test_each_metric(found: Found) -> None:
    assert judged(found, claim("token-mismatches")).status is Status.PASS
    found.generation = Generation((1, 3), "t", prompt_tokens=1)
    worst = judged(found, claim("token-mismatches"))
    assert (worst.status, worst.found) == (Status.FAIL, 1)
    assert "m-llama f16" in worst.says
    files = [{"model": slug, "quant": quant} for slug in ("m-llama", "m-gpt2") for quant in ("f16", "Q8_0")]
    assert worst.as_dict()["broken_by"] == files
    assert judged(found, claim("agreement", 0.5, "at least")).status is Status.PASS
    assert judged(found, claim("agreement", 0.6, "at least")).status is Status.FAIL
    assert judged(found, claim("kl-mean", 0.2)).found == pytest.approx(0.2)
    assert judged(found, claim("kl-text", 0.2)).status is Status.PASS
    found.over = {"Q8_0": Perplexity(3.0, 0.1, 100)}
    ratio = judged(found, claim("perplexity-ratio", 1.4))
    assert (ratio.status, ratio.found) == (Status.FAIL, 1.5)
    assert ratio.as_dict()["standing"] == "locked 2026-11-21"


def test_what_was_not_stated_beforehand_is_not_confirmed(found: Found) -> None:
    one = judged(found, claim("token-mismatches", amendments=None))
    assert one.status is Status.INCONCLUSIVE
    assert "not locked" in one.says


def test_what_cannot_be_measured_is_inconclusive(found: Found) -> None:
    trouble = Trouble(TroubleKind.ABSENT, "not there")
    other = judged(found, claim("token-mismatches", quants=("Q9",)))
    assert other.status is Status.NOT_APPLICABLE
    assert other.says == "it is about Q9, and the roster wants none of them of llama.cpp"
    for names in (("other",), ("m-llama", "other")):
        lost = judged(found, claim("token-mismatches", models=names))
        assert (lost.status, lost.says) == (Status.INCONCLUSIVE, "the roster has no model other")
    elsewhere = claim("token-mismatches", models=("m-gpt2",))
    (left,) = judge_claims([elsewhere], found, found.roster.models[:1])  # type: ignore[arg-type]  # a stand-in
    assert (left.status, left.says) == (Status.INCONCLUSIVE, "it applies to nothing that was checked")
    for change in (
        {"load_trouble": trouble},
        {"the_oracle": trouble},
        {"the_oracle": replace(ORACLE, prompt_ids=None)},
        {"generation": Generation(None, None)},
        {"generation": Generation((1, 2), "t", prompt_tokens=9)},
    ):
        fresh = Found(found.roster)
        for name, value in change.items():
            setattr(fresh, name, value)
        assert judged(fresh, claim("token-mismatches")).status is Status.INCONCLUSIVE
    found.the_fidelity = None
    assert judged(found, claim("agreement")).status is Status.INCONCLUSIVE
    found.over = {"f16": Perplexity(2.0, 0.1, 100)}
    assert judged(found, claim("kl-text", 1)).says == "m-llama f16: no reference"
    found.over = {"f16": Perplexity(2.0, 0.1, 99)}
    assert "float32 file over the same tokens" in judged(found, claim("perplexity-ratio", 2)).says
    found.over = {"f16": Perplexity(None, trouble=trouble)}
    assert judged(found, claim("kl-text", 1)).says == "m-llama f16: not there"
    assert judged(found, claim("tensor-error", 1)).status is Status.INCONCLUSIVE


def test_one_counter_example_is_enough(found: Found) -> None:
    found.over = {"f16": Perplexity(None, trouble=Trouble(TroubleKind.ABSENT, "not there"))}
    one = judged(found, claim("kl-text", 0.1))
    assert (one.status, one.found) == (Status.FAIL, 0.2)
    assert one.says == "0.2 (m-llama Q8_0), claimed at most 0.1; m-llama f16: not there"
    assert one.broken_by == (("m-llama", "Q8_0"), ("m-gpt2", "Q8_0"))
    assert judged(found, claim("kl-text", 1)).status is Status.INCONCLUSIVE


def test_the_worst_tensor(found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trialbench.ground_truth.model import tensors
    from trialbench.ground_truth.model.convert import to_gguf

    def artifact(model: Any, quant: str) -> Artifact:
        path = tmp_path / f"{model.slug}.gguf"
        to_gguf(model.folder, path, "f16")
        return Artifact(path, model.slug, "gguf", quant)

    found.artifact = artifact  # type: ignore[method-assign]
    assert judged(found, claim("tensor-error", 0.0005, quants=("f16",))).status is Status.PASS
    whole = tensors.compare

    def without_one(path: Path, folder: Path) -> Any:
        return replace(whole(path, folder), missing=("blk.0.ffn_up.weight",))

    monkeypatch.setattr(tensors, "compare", without_one)
    lost = judged(found, claim("tensor-error", 0.0005, quants=("f16",)))
    assert (lost.status, lost.says) == (
        Status.INCONCLUSIVE, "m-llama f16: not all tensors compare: blk.0.ffn_up.weight is missing",
    )  # fmt: skip
    assert module.digest(TINY / "exact.yml")


# What was seen before: the memory of a work folder.
BEFORE, RESULTS, LATER = (datetime(2026, 11, day, tzinfo=UTC) for day in (20, 21, 22))


def seen(folder: Path, now: datetime = RESULTS) -> str:
    """How the claim stands after a comparison in the work folder."""
    return module.remember(folder / "work", folder, read_claims(folder), now=now)[0].standing


def test_a_bound_changed_after_results_shows_whatever_is_done_to_the_lock(folder: Path) -> None:
    lock(folder, now=BEFORE)
    assert seen(folder) == seen(folder, LATER) == "locked 2026-11-20"
    chain = (folder / "lock.jsonl").read_text()
    (folder / "exact.yml").write_text(CLAIM.replace("at_most: 0", "at_most: 5"))
    assert seen(folder, LATER) == "NOT LOCKED (CHANGED since 2026-11-20)"
    # The honest way: locked again.
    lock(folder, now=LATER)
    assert seen(folder, LATER) == "locked 2026-11-22, AMENDED once, results of 2026-11-21 were seen before"
    # The other way: the chain is thrown away, and a new one is dated back.
    (folder / "lock.jsonl").unlink()
    lock(folder, now=BEFORE)
    assert seen(folder, LATER) == "locked 2026-11-20, THE CHAIN WAS REWRITTEN after results of 2026-11-21"
    # Back to what was seen, everything is as it was.
    (folder / "exact.yml").write_text(CLAIM)
    (folder / "lock.jsonl").write_text(chain)
    assert seen(folder, LATER) == "locked 2026-11-20"


def test_locked_after_looking_is_not_beforehand(folder: Path) -> None:
    assert seen(folder) == "NOT LOCKED"
    lock(folder, now=LATER)
    assert seen(folder, LATER) == "locked 2026-11-22, locked AFTER results of 2026-11-21 were seen"


def test_a_rewritten_chain_confirms_nothing(found: Found, folder: Path) -> None:
    found.roster = replace(found.roster, claims=folder)
    (folder / "exact.yml").write_text(CLAIM.replace("[f16]", "[f16, Q8_0]"))
    lock(folder, now=BEFORE)

    def judge() -> Any:
        return judge_claims(read_claims(folder), found, found.roster.models)[0]  # type: ignore[arg-type]

    assert judge().status is Status.PASS
    (folder / "lock.jsonl").unlink()
    lock(folder, now=LATER)
    one = judge()
    assert one.status is Status.INCONCLUSIVE
    assert "its chain was rewritten, so it proves nothing" in one.says
    assert "REWRITTEN" in one.as_dict()["standing"]


@pytest.mark.parametrize("text", ["[]", '{"x": 1}', '{"x": {}}', '{"x": {"when": 1, "sha256": "", "entry": ""}}'])
def test_a_memory_that_is_none_is_named(folder: Path, text: str) -> None:
    lock(folder)
    (folder / "work").mkdir()
    (folder / "work" / "claims-seen.json").write_text(text)
    with pytest.raises(UsageError, match=r"claims-seen.json: expected the claims that were seen here"):
        seen(folder)


def test_the_shipped_chain_is_the_one_that_is_known() -> None:
    """A new lock of the shipped claims changes this line as well, and the document that names it."""
    head = read_lock(TINY)[-1]["hash"]
    assert head == "0cdb7c7807a34d21b598fe693282980df9d2f6b340ce8306c6d9dcdb78e89d91"
    assert head[:12] in (TINY.parents[3] / "docs" / "ground-truth.md").read_text(encoding="utf-8")
