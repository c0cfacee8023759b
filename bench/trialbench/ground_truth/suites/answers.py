"""Suites of one question each: what a runtime says about a file, or two, in a document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trialbench.ground_truth.runtimes.base import Capability, TroubleKind
from trialbench.ground_truth.suites.case import Case
from trialbench.ground_truth.suites.results import Result, Status

# Upper limits of plausible answers: more layers, tensors or gates than any model has, and larger speeds and spreads.
_MOST, _LARGEST = 1_000_000, 1e12


class _Empty(Exception):
    """A field that the answer has and leaves empty."""


class _Told(dict[str, Any]):
    """An object of an answer that tells an empty field from a missing one."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if value is None or value == "":
            raise _Empty(key)
        return _told(value)


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return _Told(value)
    return [_told(one) for one in value] if isinstance(value, list) else value


def probing(capability: Capability, read: Callable[[Case, Any], Result], **more: str) -> Callable[[Case], Result]:
    """A suite of one question: trouble is judged here, the payload by `read`. A missing key is inconclusive, one that
    was left empty a failure.
    """

    def judge(case: Case) -> Result:
        row = case.row
        answer = case.evidence.probe(capability, case.model, row.quant, row.other, **more)
        if answer.trouble is not None and (answer.payload is None or answer.trouble.kind is TroubleKind.PANIC):
            return case.troubled(answer.trouble)
        try:
            result = read(case, _told(answer.payload))
        except _Empty as error:
            says = f"the answer has a field {error} and leaves it empty"
            return case.answer(Status.FAIL, says, cause=f"empty field: {capability.value}")
        except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
            says = f"the answer lacks what was asked for, or it is damaged: {type(error).__name__}: {str(error)[:200]}"
            return case.answer(Status.INCONCLUSIVE, says, cause=f"answer: {capability.value}")
        if answer.trouble is not None and result.status is Status.PASS:
            says = f"the answer says yes, the exit code no: {answer.trouble.text}"
            return case.answer(Status.FAIL, says, cause=f"exit code: {capability.value}")
        return result

    return judge


def _yes(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, found {value!r:.40}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise TypeError(f"expected a number, found {value!r:.40}")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise TypeError(f"expected a count, found {value!r:.40}")
    return value


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {value!r:.40}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a name, found {value!r:.40}")
    return value


def _denied(payload: Any, *keys: str) -> list[str]:
    """Those of `keys` that the answer says anything but yes to. It need not have them."""
    return [key for key in keys if key in payload and payload[key] is not True]


def _decided(case: Case, good: bool, says: str, **more: Any) -> Result:
    # Grouped by model: a defect of one quant usually affects all of them.
    cause = "" if good else f"{case.row.suite}: {case.row.model}"
    return case.answer(Status.PASS if good else Status.FAIL, says, cause=cause, **more)


def inspect(case: Case, payload: Any) -> Result:
    """Architecture and sizes are the roster's, and the file's own checksum is not denied."""
    metadata = payload.get("metadata") or {}
    kind = _name(payload["architecture"]).lower()

    def key(name: str, gguf: str) -> int:
        # The metadata of a GGUF are printed as text.
        return _count(payload[name]) if name in payload else int(_name(_Told(metadata)[f"{kind}.{gguf}"]))

    model = case.model
    expected = {"architecture": model.architecture, "layers": model.layers, "heads": model.heads}
    expected["hidden"] = model.hidden
    found = {
        "architecture": kind,
        "layers": key("num_layers", "block_count"),
        "heads": key("num_heads", "attention.head_count"),
        "hidden": key("hidden_size", "embedding_length"),
    }
    if "vocab_size" in payload:
        expected["vocabulary"], found["vocabulary"] = model.vocabulary, _count(payload["vocab_size"])
    denied = _denied(payload, "valid", "checksum_valid")
    says = ", ".join([*(f"{name} {value}" for name, value in found.items()), *(f"not {name}" for name in denied)])
    return _decided(case, found == expected and not denied, says, expected=str(expected), got=str(found))


def validate(case: Case, payload: Any) -> Result:
    """It says so; it made checks, none of them failed, and every value is a number."""
    checks = _items(payload["checks"])
    bad = [_name(check["name"]) for check in checks if _name(check["status"]) == "FAIL"]
    bad += [key for key in ("content_total_nan", "content_total_inf", "content_failed_tensors") if payload.get(key)]
    bad += _denied(payload, "content_passed")
    good = _yes(payload["passed"]) and not bad and bool(checks)
    return _decided(case, good, f"{len(checks)} checks, failed: {', '.join(bad[:3]) or 'none'}")


def tensors(case: Case, payload: Any) -> Result:
    """As many as it counts, each once, and more than there are layers."""
    names, said = [_name(tensor["name"]) for tensor in _items(payload["tensors"])], _count(payload["tensor_count"])
    good = len(names) == said and len(set(names)) == len(names) > case.model.layers
    return _decided(case, good, f"{len(names)} tensors, {said} counted")


def lint(case: Case, payload: Any) -> Result:
    """No errors; warnings are allowed."""
    errors, warnings = _count(payload["error_count"]), _count(payload["warn_count"])
    return _decided(case, errors == 0 and _yes(payload["passed"]), f"{errors} errors, {warnings} warnings")


def selftest(case: Case, payload: Any) -> Result:
    """Enough stages passed, and none failed. A stage that could not run does not count as failed."""
    stages = [(_name(stage["name"]), _name(stage["status"])) for stage in _items(payload["stages"])]
    passed = [name for name, status in stages if status == "PASS"]
    # The bound alone would pass a file that lacks three quarters: seven stages only look for names.
    failed = [name for name, status in stages if status == "FAIL"]
    bound = case.roster.tolerance("selftest-stages")
    says = f"{len(passed)} of {len(stages)} stages passed, failed: {', '.join(failed[:4]) or 'none'}"
    return _decided(case, len(passed) >= bound.value and not failed, says)


def tree(case: Case, payload: Any) -> Result:
    """As many numbered nodes as the model has layers."""
    names: list[str] = []
    waiting = [payload]
    while waiting and len(names) < _MOST:
        node = waiting.pop()
        names.append(_name(node["name"]))
        waiting += _items(node["children"]) if node.get("children") else []
    layers = {name for name in names if name.isdecimal()}
    good = layers == {str(number) for number in range(case.model.layers)}
    return _decided(case, good, f"{len(layers)} layers in a tree of {len(names)} nodes, expected {case.model.layers}")


def oracle_id(case: Case, payload: Any) -> Result:
    """Its family is the roster's."""
    nested = payload.get("format")
    found = _name((_Told(nested) if isinstance(nested, dict) else payload)["architecture"]).lower()
    return _decided(case, found == case.model.architecture, f"taken for {found}, is {case.model.architecture}")


def debug(case: Case, payload: Any) -> Result:
    """It says OK."""
    return _decided(case, payload["health"] == "OK", f"health: {payload['health']}")


def bench(case: Case, payload: Any) -> Result:
    """It generated."""
    speed = _number(payload["tokens_per_second"])
    bound = case.roster.tolerance("bench-speed")
    denied = _denied(payload, "passed")
    says = f"{speed:.1f} tokens per second" + (", and not passed" if denied else "")
    return _decided(case, speed > bound.value and not denied, says)


def qa(case: Case, payload: Any) -> Result:
    """Enough gates ran, and none of them failed. A skipped gate has `passed: false` and is not a failed one."""
    gates = _items(payload["gates"])
    ran = [gate for gate in gates if not _yes(gate["skipped"])]
    failed = [_name(gate["name"]) for gate in ran if not _yes(gate["passed"])]
    bound = case.roster.tolerance("qa-gates")
    good = not failed and len(ran) >= bound.value
    says = f"{len(ran) - len(failed)} gates passed, {len(gates) - len(ran)} were skipped, failed: {failed or 'none'}"
    return _decided(case, good, says)


def diff(case: Case, payload: Any) -> Result:
    """Two precisions of one model are different files, so a tool must report a difference."""
    identical, count = _yes(payload["identical"]), _count(payload["difference_count"])
    good = not identical and count > 0
    return _decided(case, good, f"{count} differences between {case.row.quant} and {case.row.other}")


def rosetta(case: Case, payload: Any) -> Result:
    """The same tensors, laid out the same."""
    numbers = {key: _count(payload[key]) for key in ("layout_mismatches", "missing_in_a", "missing_in_b")}
    return _decided(case, not any(numbers.values()), ", ".join(f"{key} {value}" for key, value in numbers.items()))


def parity(case: Case, payload: Any) -> Result:
    """It says so."""
    return _decided(case, _yes(payload["passed"]), "CPU and GPU agree" if payload["passed"] else "they do not agree")


def listed(case: Case, payload: Any) -> Result:
    """As many as it counts."""
    models, said = _items(payload["models"]), _count(payload["total"])
    return _decided(case, len(models) == said, f"{len(models)} models listed, {said} said")


def hex_stats(case: Case) -> Result:
    """The first query matrix is not constant."""
    name = "blk.0.attn_qkv.weight" if case.model.architecture == "gpt2" else "blk.0.attn_q.weight"
    if case.evidence.artifact(case.model, case.row.quant).format != "gguf":
        # .apr files have one naming for all families, gpt2's fused matrix included.
        name = "layers.0.self_attn.q_proj.weight"

    def read(case: Case, payload: Any) -> Result:
        found = _name(payload[0]["name"])
        if not found.endswith(name):
            raise ValueError(f"asked about {name}, answered about {found:.80}")
        std = _number(payload[0]["stats"]["std"])
        bound = case.roster.tolerance("hex-std")
        return _decided(case, std > bound.value, f"{found}: standard deviation {std:.3g}")

    return probing(Capability.HEX, read, tensor=name)(case)
