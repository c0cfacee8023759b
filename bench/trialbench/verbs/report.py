"""The verbs that read a result folder, and `schema`, which says what its files hold."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from trialbench.errors import TrialbenchError, UsageError
from trialbench.options import Verbs, output, outputs, pairs
from trialbench.show.terminal import say


def add(verbs: Verbs) -> None:
    """Add summarize, verdict, show, compare, report, documents, export and schema."""
    _add_folder(verbs, "summarize", _summarize, "write summary.json of a result folder")
    verdict = _add_folder(verbs, "verdict", _verdict, "decide and write verdict.json, without measuring again")
    verdict.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME=better|same|worse",
        help="a person's judgment of a workload that is shown, against the baseline; repeatable",
    )
    verdict.add_argument(
        "--review",
        nargs="+",
        type=Path,
        default=[],
        metavar="judgements.json",
        help="judgments saved by the run's review.html, a file of each reviewer: decided by an exact sign test",
    )
    verdict.add_argument("--require", choices=["adopt"], help="exit 1 unless the verdict is ADOPT")
    verdict.add_argument("--adherence-rule", choices=["share", "proved"], help="default: the plan's, else share")
    verdict.add_argument(
        "--ground-truth",
        choices=["not_required", "passed", "failed", "missing"],
        help="require ground truth from now on, and give its result (missing: there is none yet)",
    )
    _add_folder(verbs, "show", _show, "print a result folder as a readable table")
    compare = verbs.add_parser("compare", help="print several runs side by side")
    compare.add_argument("dirs", type=Path, metavar="DIR", nargs="*", help="result folders")
    compare.add_argument(
        "--without", action="append", default=[], metavar="HOST=WHY", help="a host without results; repeatable"
    )
    compare.add_argument("--html", type=output, metavar="FILE", help="also write an HTML page")
    compare.set_defaults(verb=_compare)
    report = _add_folder(verbs, "report", _report, "write report.html and review.html of a result folder")
    report.add_argument(
        "--out", type=output, metavar="FILE", help="default: DIR/report.html, with DIR/review.html to judge beside it"
    )
    for parser in (verdict, report):
        parser.add_argument(
            "--proofs",
            type=Path,
            metavar="FOLDER",
            help="first add these proofs (JSON of `trialbench proof`) to the run, as evidence next to the trial",
        )
    documents = _add_folder(
        verbs, "documents", _documents, "write a run into your own Markdown: research, registry, memory"
    )
    documents.add_argument("--root", required=True, type=Path, metavar="DOCS", help="holds MEMORY.md and docs/")
    documents.add_argument("--research", metavar="FILE", help="the research document, relative to DOCS")
    documents.add_argument("--check", action="store_true", help="write nothing, print the diff")
    documents.add_argument("--diff", action="store_true", help="print the diff of what is written")
    documents.add_argument("--json", action="store_true", help="print one JSON line (`trialbench schema documents`)")
    export = _add_folder(verbs, "export", _export, "write a run for other tools: JUnit, CSV, OpenMetrics")
    export.add_argument(
        "--format", action="append", choices=["junit", "csv", "openmetrics"], help="repeatable (default: all)"
    )
    schema = verbs.add_parser("schema", help="print a published JSON schema")
    schema.add_argument("name", metavar="NAME", nargs="?", help="default: list the names")
    schema.set_defaults(verb=_schema)


def _add_folder(
    verbs: Verbs, name: str, verb: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text)
    parser.add_argument("dir", type=Path, metavar="DIR", help="a result folder")
    parser.set_defaults(verb=verb)
    return parser


def _take_proofs(options: argparse.Namespace) -> None:
    if options.proofs is not None:
        from trialbench.report.proofs import take_proofs
        from trialbench.report.run import read_run

        # Checked before anything is written: a folder that is not a run gets no proofs.
        read_run(options.dir)
        take_proofs(options.dir, options.proofs)


def _summarize(options: argparse.Namespace) -> int:
    from trialbench.report.summary import write_summary

    say("\n".join([str(write_summary(options.dir)), *_still_down(options.dir)]))
    return 0


def _still_down(folder: Path) -> list[str]:
    from trialbench.report.run import read_run
    from trialbench.report.windows import still_down, still_down_text

    return [still_down_text(entry) for entry in still_down(read_run(folder))]


def _verdict(options: argparse.Namespace) -> int:
    from trialbench.report.decide import decide_folder

    _take_proofs(options)
    decision = decide_folder(
        options.dir,
        judged=pairs(options.judge, "--judge", "NAME=better|same|worse"),
        judgments=options.review,
        adherence_rule=options.adherence_rule,
        ground_truth=options.ground_truth,
    )
    say(decision["verdict"])
    for line in [*decision["reasons"], *_still_down(options.dir)]:
        say(f"  {line}")
    older = {"report.html": "report", "exports": "export"} if options.judge or options.review else {}
    for name, verb in older.items():
        if (options.dir / name).exists():
            say(f"  {name} still says what was decided before: trialbench {verb} DIR")
    if options.require is not None and decision["verdict"] != "ADOPT":
        raise TrialbenchError(f"expected the verdict ADOPT, found {decision['verdict']}: {decision['reasons'][0]}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from trialbench.report.table import folder_table

    say(folder_table(options.dir))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from trialbench.report.compare import compare_table

    without = list(pairs(options.without, "--without", "HOST=WHY").items())
    if not options.dirs and not without:
        raise UsageError("compare: expected result folders, found none")
    words = outputs({"--html": options.html})
    say(compare_table(options.dirs, without), words)
    if options.html is not None:
        from trialbench.report.html.comparison import write_comparison

        say(str(write_comparison(options.dirs, options.html, without)), words)
    return 0


def _report(options: argparse.Namespace) -> int:
    from trialbench.report.html.report import write_report
    from trialbench.report.review.page import write_review

    words = outputs({"--out": options.out})
    _take_proofs(options)
    # First, so that the report finds it. Its key belongs into the run's folder, so there is no such page elsewhere.
    review = write_review(options.dir) if options.out is None else None
    say(str(write_report(options.dir, options.out)), words)
    if review is not None:
        say(str(review), words)
    return 0


def _documents(options: argparse.Namespace) -> int:
    from trialbench.report.documents import RESEARCH, diff, told, write_documents

    research = options.research or RESEARCH
    found = write_documents(options.dir, options.root, check=options.check, research=research)
    # Ansible asks for diff and check separately; a person who checks wants to see the diff.
    shown = diff(found) if options.diff or (options.check and not options.json) else ""
    if options.json:
        print(json.dumps(told(found, shown, check=options.check)))
    else:
        say("\n".join([*([shown] if shown else []), *(one.line(check=options.check) for one in found)]))
    return 0


def _export(options: argparse.Namespace) -> int:
    from trialbench.report.export import write_exports

    say("\n".join(str(path) for path in write_exports(options.dir, options.format or [])))
    return 0


def _schema(options: argparse.Namespace) -> int:
    from trialbench import schemas

    if options.name is None:
        print("\n".join(schemas.names()))
    else:
        print(json.dumps(schemas.load(options.name), indent=2))
    return 0
