"""The verbs of ground truth. `trialbench.cli` calls `add`; heavy imports happen when a verb runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trialbench.errors import UsageError
from trialbench.options import Verbs, output, outputs, positive
from trialbench.show.terminal import say

if TYPE_CHECKING:
    from trialbench.ground_truth.evidence.workspace import Workspace
    from trialbench.ground_truth.model.roster import Model, Roster
    from trialbench.ground_truth.runtimes.base import Runtime
    from trialbench.ground_truth.runtimes.llama_cpp import LlamaCpp

RUNTIMES = ("llama.cpp", "apr")


def add(verbs: Verbs) -> None:
    """Add oracle, pull, convert, check, ci, recheck, ticket, attest, claims and clean."""
    oracle = verbs.add_parser("oracle", help="make golden continuations with transformers (extra: oracle)")
    add_roster(oracle)
    oracle.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    oracle.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    oracle.add_argument("--kernels", action="store_true", help="use the hub's custom kernels (GPU)")
    oracle.add_argument(
        "--second", action="store_true", help="from the converted files instead: transformers loads each GGUF"
    )
    oracle.set_defaults(verb=_oracle)
    pull = verbs.add_parser("pull", help="fetch the roster's models at a pinned commit")
    add_roster(pull)
    pull.set_defaults(verb=_pull)
    convert = verbs.add_parser("convert", help="make every file of the roster that the runtime needs")
    add_roster(convert)
    add_runtime(convert)
    convert.set_defaults(verb=_convert)
    _add_check(verbs)
    clean = verbs.add_parser("clean", help="remove what convert made")
    add_roster(clean)
    clean.add_argument("--pulled", action="store_true", help="also remove what pull fetched")
    clean.set_defaults(verb=_clean)


_EXIT_CODES = (
    "exit codes: 0 all passed, 1 something failed, 2 wrong usage, 3 something could not be decided or nothing "
    "was proved, 4 no runtime or no GPU"
)


def _add_check(verbs: Verbs) -> None:
    for name, text in (
        ("check", "say whether a converted or quantized model is still the same model"),
        ("ci", "pull, convert and check"),
        ("recheck", "after an upgrade of the runtime: clean, convert, check, and say what changed"),
    ):
        check = verbs.add_parser(name, help=text, epilog=_EXIT_CODES)
        add_roster(check)
        add_runtime(check)
        check.add_argument("--suite", action="append", default=[], help="only this suite; repeatable")
        check.add_argument("--controls", action="store_true", help="also try deliberately wrong files and runtimes")
        check.add_argument("--json", type=output, metavar="FILE", help="the verdict (default: in the work folder)")
        check.add_argument("--junit", type=output, metavar="FILE.xml", help="the verdict for CI")
        check.add_argument("--html", type=output, metavar="FILE.html", help="the verdict as a page, with plots")
        check.set_defaults(verb={"check": _check, "ci": _ci, "recheck": _recheck}[name])
    ticket = verbs.add_parser("ticket", help="write Markdown for an issue tracker, from a verdict")
    ticket.add_argument("file", type=Path, metavar="VERDICT.json")
    ticket.set_defaults(verb=_ticket)
    attest = verbs.add_parser("attest", help="look up what verdicts say about a file, by its hash")
    attest.add_argument("--sha256", action="append", required=True, metavar="HEX", help="of the file; repeatable")
    attest.add_argument(
        "--verdict", action="append", default=[], type=Path, metavar="FILE.json", help="of trialbench check; repeatable"
    )
    attest.add_argument("--optional", action="store_true", help="only report: a missing or bad verdict is no failure")
    attest.add_argument("--json", type=output, metavar="FILE", help="write what was found (schema attestation)")
    attest.set_defaults(verb=_attest)
    claims = verbs.add_parser("claims", help="show the pre-registered claims, or lock them")
    claims.add_argument("--roster", default="original", metavar="NAME|FILE", help="default: original")
    claims.add_argument("--lock", action="store_true", help="lock what is new; a changed claim becomes an amendment")
    claims.set_defaults(verb=_claims)


def add_roster(parser: argparse.ArgumentParser) -> None:
    """The options that say which models are meant."""
    parser.add_argument(
        "--roster", default="original", metavar="NAME|FILE", help="models, prompts and bounds (default: original)"
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="SLUG", help="only this model of the roster; repeatable"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("ground-truth"),
        metavar="DIR",
        help="folder of models and results (default: ground-truth)",
    )
    parser.add_argument("--oracle", type=Path, metavar="DIR", help="folder of the oracle files (default: the roster's)")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """The options that say which runtime is meant, and where it is."""
    parser.add_argument("--runtime", choices=RUNTIMES, default="llama.cpp", help="default: llama.cpp")
    parser.add_argument(
        "--threads", type=positive, default=1, help="threads of the runtime (default: 1); changes times, not results"
    )


def selected(options: argparse.Namespace) -> tuple[Roster, list[Model], Workspace]:
    """The roster, the models that were asked for, and the work folder."""
    from trialbench.ground_truth.evidence.workspace import Workspace
    from trialbench.ground_truth.model.roster import load_roster

    work = options.work.resolve()
    roster = load_roster(options.roster, work=work)
    if options.oracle is not None:
        roster = replace(roster, oracle=options.oracle.resolve())
    # A model named twice is judged once.
    models = [roster.model(slug) for slug in dict.fromkeys(options.model)] if options.model else list(roster.models)
    return roster, models, Workspace(work, roster)


def llama_cpp(workspace: Workspace, *, threads: int) -> LlamaCpp:
    """llama.cpp from LLAMA_CPP_BIN (a folder), LLAMA_CPP_IMAGE (a container image), or the PATH, in this order."""
    from trialbench.ground_truth.runtimes.llama_cpp import LlamaCpp
    from trialbench.ground_truth.runtimes.tools import ContainerTools, LocalTools, Tools

    folder, image = os.environ.get("LLAMA_CPP_BIN"), os.environ.get("LLAMA_CPP_IMAGE")
    tools: Tools
    if folder:
        tools = LocalTools(Path(folder))
    elif image:
        workspace.root.mkdir(parents=True, exist_ok=True)
        text = workspace.roster.prompts.perplexity_text
        folders = {workspace.root: True, **({text.parent.resolve(): False} if text is not None else {})}
        given = {path.parent: False for model in workspace.roster.models for path in model.files.values()}
        tools = ContainerTools(image, {**given, **folders})
    else:
        tools = LocalTools()
    return LlamaCpp(tools, threads=threads)


def tell(text: str) -> None:
    """Print progress to standard error, apart from reports on standard output."""
    say(text, sys.stderr)


def _oracle(options: argparse.Namespace) -> int:
    from trialbench.ground_truth.evidence.oracle import make_oracles, make_second_oracles

    roster, models, workspace = selected(options)
    if not options.second:
        made = make_oracles(
            roster,
            models,
            workspace.folder,
            revision_of=workspace.revision,
            device=options.device,
            precision=options.precision,
            kernels=options.kernels,
            tell=tell,
        )
        say(f"{len(made)} oracle files, under {roster.oracle}")
        return 0
    count = 0
    for model in models:
        for quant in model.wanted("llama.cpp"):
            file = workspace.artifact(model, "llama.cpp", quant)
            if not file.path.exists():
                raise UsageError(f"{file.path}: expected the converted file, found none: `trialbench convert` first")
            count += len(make_second_oracles(roster, model, file.path, quant, workspace.folder(model), tell=tell))
    say(f"{count} second oracles, beside {roster.oracle}")
    return 0


def _pull(options: argparse.Namespace) -> int:
    _, models, workspace = selected(options)
    wrong = workspace.pull(models, tell)
    if wrong:
        raise UsageError("; ".join(wrong))
    return 0


def _convert(options: argparse.Namespace) -> int:
    _, models, workspace = selected(options)
    return convert_all(options, models, workspace)


def convert_all(options: argparse.Namespace, models: Sequence[Model], workspace: Workspace) -> int:
    """Convert for the runtime that was asked for; 0 when every file is there, 3 when one could not be made."""
    runtime = make_runtime(options, workspace)
    with closing(runtime):
        made = workspace.convert(runtime, models, tell)
    missing = [one.label for one in made if one.artifact is None]
    say(f"{len(made) - len(missing)} of {len(made)} files are there, {sum(one.fresh for one in made)} of them new")
    return 3 if missing or not made else 0


def make_runtime(options: argparse.Namespace, workspace: Workspace) -> Runtime:
    """The adapter of the runtime that was asked for; APR_BINARY names apr where it is not on the PATH."""
    if options.runtime == "apr":
        from trialbench.ground_truth.runtimes.apr import Apr

        return Apr(os.environ.get("APR_BINARY") or "apr")
    return llama_cpp(workspace, threads=options.threads)


def _clean(options: argparse.Namespace) -> int:
    _, models, workspace = selected(options)
    gone = workspace.clean(models, pulled=options.pulled)
    say(f"removed {len(gone)} entries under {workspace.root}")
    return 0


def _check(options: argparse.Namespace) -> int:
    _, models, workspace = selected(options)
    return _checked(options, models, workspace)


def _checked(options: argparse.Namespace, models: Sequence[Model], workspace: Workspace) -> int:
    from trialbench.files import write_atomic, write_json
    from trialbench.ground_truth import check
    from trialbench.ground_truth.output.junit import junit
    from trialbench.ground_truth.output.table import Progress, table

    words = outputs({f"--{option}": getattr(options, option) for option in ("json", "junit", "html")})
    if options.controls:
        _controlled(models)
    runtime = make_runtime(options, workspace)
    with closing(runtime):
        place = check.status_path(workspace, runtime)
        # Checked now, so that an unusable path fails before the work.
        workspace.root.mkdir(parents=True, exist_ok=True)
        before = check.read_verdict(place)
        live = Progress(sys.stderr)
        suites = list(dict.fromkeys(options.suite))
        checked = check.run_check(workspace, runtime, models, suites=suites, progress=live, tell=live.tell)
        live.end()
        verdict = check.document(checked, models)
        say(table(verdict), words)
        code = checked.code
        if options.verb is _recheck:
            found = check.changes(before, verdict, part=bool(options.suite or options.model))
            say("\n".join(["", "Since the last verdict:", *(f"  {one}" for one in found)]), words)
        # A part of the suites is no status of the runtime.
        if options.json is not None:
            write_json(options.json, verdict)
        elif not options.suite:
            check.keep(place, verdict)
        if options.junit is not None:
            write_atomic(options.junit, junit(verdict))
        if options.html is not None:
            from trialbench.ground_truth.output.page import page

            write_atomic(options.html, page(verdict))
        if options.controls:
            caught = _controls(runtime, models, workspace, words)
            # A failure outweighs an undecided row.
            code = 1 if 1 in (code, caught) else max(code, caught)
    return code


def _controlled(models: Sequence[Model]) -> Model:
    """The model that the controls are tried on.

    Raises:
        UsageError: there is none.
    """
    model = next((one for one in models if one.architecture == "llama"), None)
    if model is None:
        raise UsageError("--controls: expected a llama model among those that are checked, found none")
    return model


def _controls(runtime: Runtime, models: Sequence[Model], workspace: Workspace, words: TextIO) -> int:
    from trialbench.ground_truth.controls import run as controls
    from trialbench.ground_truth.output.table import controls_table

    model = _controlled(models)
    caught = controls.run_controls(workspace, runtime, model, tell=tell)
    uncovered = controls.uncovered(caught, runtime, workspace, model)
    say("\n" + controls_table(caught, uncovered), words)
    if uncovered or any(one.tried and not one.good for one in caught):
        return 1
    return 3 if any(one.untried for one in caught) else 0


def _ci(options: argparse.Namespace) -> int:
    _, models, workspace = selected(options)
    workspace.pull(models, tell)
    # A file that could not be made is named by the checks of it; none of them passes.
    convert_all(options, models, workspace)
    return _checked(options, models, workspace)


def _recheck(options: argparse.Namespace) -> int:
    _, models, workspace = selected(options)
    workspace.clean(models)
    convert_all(options, models, workspace)
    return _checked(options, models, workspace)


def _ticket(options: argparse.Namespace) -> int:
    from trialbench import schemas
    from trialbench.ground_truth.output.ticket import ticket

    say(ticket(schemas.read(options.file, "ground-truth", "a verdict of `trialbench check`")))
    return 0


def _attest(options: argparse.Namespace) -> int:
    from trialbench.files import write_json
    from trialbench.ground_truth.attest import NotAttested, attestation

    words = outputs({"--json": options.json})
    found = attestation(options.sha256, options.verdict, required=not options.optional)
    if options.json is not None:
        write_json(options.json, found)
    missing = [file["says"] for file in found["files"] if file["status"] == "missing"]
    for file in found["files"]:
        if options.optional or file["status"] != "missing":
            say(file["says"], words)
    if missing and not options.optional:
        raise NotAttested("; ".join(missing))
    return 0 if options.optional or all(file["status"] == "passed" for file in found["files"]) else 1


def _claims(options: argparse.Namespace) -> int:
    from trialbench.ground_truth.model.roster import load_roster
    from trialbench.ground_truth.suites.claims import lock, read_claims

    folder = load_roster(options.roster).claims
    if folder is None or not folder.is_dir():
        raise UsageError(f"the roster {options.roster!r} names no folder of claims")
    if options.lock:
        for text in lock(folder) or ["nothing to lock: every claim is locked as it is"]:
            say(text)
    for claim in read_claims(folder):
        say(f"{claim.name} ({claim.standing}): {claim.statement}")
    return 0
