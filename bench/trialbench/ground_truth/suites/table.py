"""The suites: which rows each declares for a roster and a runtime, and how a row is judged.

A suite knows capabilities, not runtimes. Rows are declared before anything is asked, so their number is computed and
cannot depend on what was found. The rules all judgments share:

* A runtime that crashed, or refuses a file it should read, failed. A missing model, oracle, runtime or GPU, a timeout,
  an unreadable or incomplete answer is inconclusive. Neither is ever a pass.
* Continuations are compared only when the prompt's token ids (or their number) are the oracle's.
* Tokens come first, text is never stripped, and at most one trailing end-of-sequence token is dropped.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from trialbench.errors import UsageError
from trialbench.ground_truth.evidence.observe import Evidence, prompts_of
from trialbench.ground_truth.model.roster import Roster, load_roster
from trialbench.ground_truth.model.yaml_files import PACKAGED
from trialbench.ground_truth.runtimes.base import Artifact, Capability, Runtime
from trialbench.ground_truth.suites import answers, files, precision, tokens
from trialbench.ground_truth.suites.answers import probing
from trialbench.ground_truth.suites.case import Case
from trialbench.ground_truth.suites.results import Result, Row, Status

# The pairs of neighboring precisions, finer first: drift and gap compare them.
_PAIRS = (("int8", "int4"), ("Q8_0", "Q4_0"))
# Files whose text must match the oracle's, character by character.
_EXACT = ("int8", "f32", "f16", "Q8_0")
_BACK_AND_FORTH = ("int4", "int8", "f32", "f16")
_FLOATS = ("f32", "f16")
# Limits of texts for people; the adapters limit the raw answers.
_MOST_CHARACTERS = 4000
_MOST_PRINTED = 20_000


@dataclass(frozen=True)
class Suite:
    """A kind of check.

    Attributes:
        name: as on the command line.
        title: what a pass means.
        needs: what a runtime must be able to do; declined means not applicable.
        rows: the declared rows of a roster for a runtime's name.
        judge: the answer to one row.
        integrity: a pass says that the file is whole; a damaged one must not get it.
        blind: why a pass does not say so after all, by runtime name.
        constant: why the answer proves nothing, by runtime name.
        either: of these, a runtime must be able to do one.
    """

    name: str
    title: str
    needs: tuple[Capability, ...]
    rows: Callable[[Roster, str], Iterator[Row]]
    judge: Callable[[Case], Result]
    integrity: bool = True
    blind: Mapping[str, str] = field(default_factory=dict)
    constant: Mapping[str, str] = field(default_factory=dict)
    either: tuple[Capability, ...] = ()

    def declined(self, runtime: Runtime, artifact: Artifact | None) -> str | None:
        """Why it is not applicable, as the runtime declared beforehand; None: it is asked."""
        found = [runtime.declined(capability, artifact) for capability in self.needs]
        choice = [runtime.declined(capability, artifact) for capability in self.either]
        if choice and None not in choice:
            found += choice
        return next((why for why in found if why is not None), None)


def _each_file(name: str, only: Sequence[str] | None = None) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            for quant in model.wanted(runtime):
                if only is None or quant in only:
                    yield Row(name, model.slug, quant)

    return rows


def _each_prompt(name: str, only: Sequence[str] | None = None) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for row in _each_file(name, only)(roster, runtime):
            for prompt in prompts_of(roster):
                yield replace(row, prompt=prompt)

    return rows


def _each_pair(name: str, *, by_prompt: bool = False) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            there = model.wanted(runtime)
            for fine, coarse in _PAIRS:
                if fine in there and coarse in there:
                    for prompt in prompts_of(roster) if by_prompt else ("",):
                        yield Row(name, model.slug, fine, coarse, prompt)

    return rows


def _each_model(name: str) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            there = model.wanted(runtime)
            if there:
                # The most exact file: what is judged does not depend on the precision of the weights.
                yield Row(name, model.slug, next((one for one in (*_FLOATS, "int8") if one in there), there[0]))

    return rows


def _ppl_rows(roster: Roster, runtime: str) -> Iterator[Row]:
    yield from _each_file("ppl")(roster, runtime)
    yield from _each_pair("ppl")(roster, runtime)


def _diff_rows(name: str) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        for model in roster.models:
            there = model.wanted(runtime)
            # Two floats may rightly hold the same numbers, where those were published in half precision.
            order = sorted(there, key=lambda quant: quant not in _FLOATS)
            if len(order) > 1 and (order[-1] not in _FLOATS or name == "rosetta-diff"):
                pair = next((pair for pair in _PAIRS if set(pair) <= set(there)), (order[-2], order[-1]))
                if name == "rosetta-diff" and "f32" in there:
                    # A layout is compared against the most exact file.
                    pair = ("f32", next(quant for quant in (*pair, *there) if quant != "f32"))
                yield Row(name, model.slug, *pair)

    return rows


def _one(name: str) -> Callable[[Roster, str], Iterator[Row]]:
    def rows(roster: Roster, runtime: str) -> Iterator[Row]:
        if any(model.wanted(runtime) for model in roster.models):
            yield Row(name, roster.models[0].slug)

    return rows


def _chat_rows(roster: Roster, runtime: str) -> Iterator[Row]:
    for row in _each_model("template")(roster, runtime):
        for chat in roster.prompts.chats:
            yield replace(row, prompt=chat.name)


def _question(
    capability: Capability,
    title: str,
    read: Callable[[Case, Any], Result],
    rows: Callable[[str], Callable[[Roster, str], Iterator[Row]]] = _each_file,
    **more: Any,
) -> Suite:
    """A suite of one question, which bears the question's name."""
    name = capability.value
    return Suite(name, title, (capability,), rows(name), probing(capability, read), **more)


_GENERATE = (Capability.GENERATE,)

SUITES: tuple[Suite, ...] = (
    Suite("canary", "the text is the oracle's", _GENERATE, _each_prompt("canary", _EXACT), tokens.canary),
    Suite(
        "token", "the tokens are the oracle's, within the bound", _GENERATE, _each_prompt("token"), tokens.token
    ),
    Suite("drift", "more bits drift no further", _GENERATE, _each_pair("drift", by_prompt=True), tokens.drift),
    Suite(
        "roundtrip",
        "export and import change nothing",
        (Capability.EXPORT, *_GENERATE),
        _each_file("roundtrip", _BACK_AND_FORTH),
        files.roundtrip,
        # A damaged file comes back as damaged as it was.
        integrity=False,
    ),
    Suite(
        "ppl", "perplexity is below the ceiling", (), _ppl_rows, files.ppl,
        either=(Capability.PERPLEXITY, Capability.EVAL),
    ),
    Suite(
        "forced", "the distributions are the oracle's", (Capability.SCORE,), _each_file("forced"), tokens.forced
    ),
    Suite("second", "the runtime computes what the file says", _GENERATE, _each_prompt("second"), tokens.second),
    Suite("tokenizer", "the same token ids", (Capability.TOKENIZE,), _each_model("tokenizer"), tokens.tokenizer),
    Suite("template", "the same chat prompt", (Capability.TEMPLATE,), _chat_rows, tokens.template),
    Suite("weights", "every tensor is within the bound", (), _each_file("weights"), files.weights),
    _question(Capability.INSPECT, "the file says what it is", answers.inspect, integrity=False),
    _question(
        Capability.VALIDATE, "it finds itself valid", answers.validate,
        blind={"apr": "`apr validate` looks at the header and at the file's length, and finds damaged values valid"},
    ),
    _question(
        Capability.TENSORS, "its tensors are listed", answers.tensors,
        blind={"apr": "`apr tensors` lists names and shapes, not values"},
    ),
    _question(Capability.LINT, "no errors of form", answers.lint, integrity=False),
    _question(
        Capability.SELFTEST, "its stages run", answers.selftest,
        blind={"apr": "`apr check` sees damage only where it makes values that are not numbers"},
    ),
    _question(Capability.TREE, "as many layers as the model has", answers.tree, integrity=False),
    _question(Capability.ORACLE_ID, "its family is recognized", answers.oracle_id, integrity=False),
    Suite(
        "hex", "a matrix is not constant", (Capability.HEX,), _each_file("hex"), answers.hex_stats,
        integrity=False,
    ),
    _question(
        Capability.DEBUG, "health is OK", answers.debug,
        integrity=False, constant={"apr": "`apr debug` says OK of truncated and damaged files too"},
    ),
    _question(Capability.BENCH, "it generates", answers.bench, integrity=False),
    _question(Capability.QA, "its gates pass", answers.qa),
    _question(Capability.DIFF, "two precisions are told apart", answers.diff, _diff_rows, integrity=False),
    _question(
        Capability.ROSETTA_DIFF, "the layout is the same", answers.rosetta, _diff_rows, integrity=False
    ),
    _question(Capability.PARITY_GPU, "the GPU computes the same", answers.parity, _each_model),
    _question(
        Capability.LIST, "its cache is listed", answers.listed, _one,
        integrity=False, constant={"apr": "`apr list` lists its own cache, in which no file that is judged lies"},
    ),
    # Oracles against oracles: it says nothing about a runtime's file.
    Suite(
        "precision", "half precision stays near float32", (), precision.rows, precision.judge,
        integrity=False,
    ),
)  # fmt: skip

# What only llama.cpp is asked: they came with this harness, and the original's 139 are counted without them.
NEW = ("forced", "second", "tokenizer", "template", "weights", "precision")


def suite(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        UsageError: there is none; lists those there are.
    """
    for one in SUITES:
        if one.name == name:
            return one
    raise UsageError(f"--suite: no suite {name!r}; there are: {', '.join(one.name for one in SUITES)}")


def declared(roster: Roster, runtime: str, names: Sequence[str] = (), models: Sequence[str] = ()) -> list[Row]:
    """All rows, before anything is asked."""
    chosen = [suite(name) for name in names] if names else [one for one in SUITES if _asked(one, runtime)]
    return [row for one in chosen for row in one.rows(roster, runtime) if not models or row.model in models]


def _asked(one: Suite, runtime: str) -> bool:
    return runtime == "llama.cpp" or one.name not in NEW


def judge(row: Row, evidence: Evidence) -> Result:
    """The answer to one row. Whatever goes wrong while asking is an answer too, and never a pass."""
    chosen, model = suite(row.suite), evidence.roster.model(row.model)
    runtime: Runtime = evidence.runtime
    case = Case(row, model, evidence)
    artifact = evidence.artifact(model, row.quant) if row.quant else None
    constant = runtime.identity.name in chosen.constant
    why = chosen.declined(runtime, artifact)
    if why is not None:
        return Result(row, Status.NOT_APPLICABLE, why, proves_nothing=constant)
    evidence.last_call = None
    result, verb = chosen.judge(case), "ci"
    if result.status is Status.PASS and not constant:
        changed = _changed(case)
        # Converting would recreate the file and remove the fault.
        result, verb = (result, verb) if changed is None else (changed, "check")
    return replace(
        result,
        says=result.says[:_MOST_CHARACTERS],
        expected=result.expected[:_MOST_CHARACTERS],
        got=result.got[:_MOST_CHARACTERS],
        cause=result.cause[:_MOST_CHARACTERS],
        proves_nothing=constant,
        reproduce=_reproduce(row, evidence, verb),
        evidence={**result.evidence, **_raw(case, result.status)},
    )


def _raw(case: Case, status: Status) -> dict[str, Any]:
    """What was asked and printed, as it was; of a server's answers only those that did not pass."""
    row, evidence = case.row, case.evidence
    call = evidence.call_of(case.model, row.quant, row.prompt) if row.prompt else evidence.last_call
    if call is None or not call.argv or (call.request is not None and status is Status.PASS):
        return {}
    kept = {"stdout": call.stdout[:_MOST_PRINTED], "stderr": call.stderr[:_MOST_PRINTED]}
    return {"call": {"argv": list(call.argv), "exit_code": call.exit_code, **kept, "seconds": round(call.seconds, 3)}}


def _changed(case: Case) -> Result | None:
    """An answer about a file that was changed after it was made is no answer about the file that was made. A program
    that looks only at the header calls a damaged file valid; the hash shows the damage.
    """
    for quant in (case.row.quant, case.row.other):
        altered = case.evidence.altered(case.model, quant) if quant else None
        if altered is not None:
            return case.answer(Status.FAIL, altered, cause=f"changed since it was made: {case.model.slug} {quant}")
    return None


def _reproduce(row: Row, evidence: Evidence, verb: str) -> str:
    """One command that makes what is not there and judges the row's suite."""
    roster, identity, root = evidence.roster, evidence.runtime.identity, evidence.workspace.root
    name, oracle = _named(roster.path, root)
    words = ["trialbench", verb, "--roster", name, "--work", str(root)]
    words += [] if oracle == roster.oracle else ["--oracle", str(roster.oracle)]
    words += ["--runtime", identity.name, "--suite", row.suite, "--model", row.model]
    variables = [f"{name}={shlex.quote(value)}" for name, value in identity.environment.items()]
    return " ".join([*variables, shlex.join(words)])


@cache
def _named(path: Path, root: Path) -> tuple[str, Path | None]:
    """How a command line names a roster from any folder, and where the oracles are under that name."""
    name = path.stem.removeprefix("roster-") if path.parent == PACKAGED else str(path.resolve())
    try:
        return name, load_roster(name, work=root).oracle
    except UsageError:
        return name, None
