"""The llama.cpp adapter against stand-ins of its programs: a good one, and all the ways of being a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench.ground_truth.runtimes import llama_cpp
from trialbench.ground_truth.runtimes.base import Answer, Artifact, Call, Capability, Prompt, TroubleKind
from trialbench.ground_truth.runtimes.llama_cpp import LlamaCpp, parse_perplexity, read_completion
from trialbench.ground_truth.runtimes.tools import LocalTools, RuntimeMissing


@pytest.fixture
def runtime(stand_ins: Path) -> Iterator[LlamaCpp]:
    adapter = LlamaCpp(LocalTools(stand_ins))
    yield adapter
    adapter.close()


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Artifact]:
    """A model file that tells the stand-in how to behave."""

    def make(**knobs: Any) -> Artifact:
        path = tmp_path / "m.gguf"
        path.write_text(json.dumps(knobs))
        return Artifact(path, "m", "gguf", "f16")

    return make


PROMPT = Prompt("one", "abc", (1, 2, 3))
# The stand-in's next token is (7 t + 3) mod 50.
CHAIN = (24, 21, 0, 3, 24)


def test_identity(runtime: LlamaCpp, tmp_path: Path) -> None:
    assert runtime.identity.version == "1.2.3 (build 42, commit stand-in)"
    assert runtime.identity.detail["built with"] == "nothing for nowhere"
    with pytest.raises(
        RuntimeMissing, match="found no llama-server, llama-quantize, llama-perplexity: set LLAMA_CPP_BIN"
    ):
        LlamaCpp(LocalTools(tmp_path)).identity  # noqa: B018 (asking is the test)
    for program in llama_cpp.PROGRAMS:
        (tmp_path / program).write_text("#!/bin/sh\necho something else\n")
        (tmp_path / program).chmod(0o755)
    with pytest.raises(RuntimeMissing, match=r"expected a line 'version: \.\.\.', found 'something else"):
        LlamaCpp(LocalTools(tmp_path)).identity  # noqa: B018


def test_generation(runtime: LlamaCpp, model: Callable[..., Artifact]) -> None:
    with runtime.open(model()) as loaded:
        assert loaded.trouble is None
        got = loaded.generate(PROMPT, max_new_tokens=5, top=3)
        assert got.tokens == CHAIN
        assert got.text == "t24 t21 t0 t3 t24"
        assert (got.prompt_tokens, got.finish_reason, got.tokens_per_s, got.trouble) == (3, "length", 123.5, None)
        assert got.positions is not None
        assert [position.chosen for position in got.positions] == list(CHAIN)
        assert len(got.positions[0].top) == 3
        assert got.call.request is not None
        sent = dict(got.call.request)
        assert sent["prompt"] == [1, 2, 3]
        assert (sent["cache_prompt"], sent["temperature"], sent["repeat_penalty"]) == (False, 0, 1.0)
        by_text = loaded.generate(Prompt("one", "abc"), max_new_tokens=2)
        assert by_text.call.request is not None
        assert by_text.call.request["prompt"] == "abc"
        assert by_text.positions is None


def test_the_end_of_sequence(runtime: LlamaCpp, model: Callable[..., Artifact]) -> None:
    with runtime.open(model(wrong={"21": 49})) as loaded:
        got = loaded.generate(PROMPT, max_new_tokens=5)
        assert (got.tokens, got.finish_reason) == ((24, 21, 49), "stop")


def test_a_faithful_file_is_scored_by_one_request(runtime: LlamaCpp, model: Callable[..., Artifact]) -> None:
    with runtime.open(model()) as loaded:
        asked = count_requests(loaded)
        score = loaded.score(PROMPT, CHAIN, top=5)
        assert len(asked) == 1
        assert score.positions is not None
        assert [position.chosen for position in score.positions] == list(CHAIN)
        assert score.generation.tokens == CHAIN


def test_each_disagreement_costs_one_more_request(runtime: LlamaCpp, model: Callable[..., Artifact]) -> None:
    forced = (24, 21, 7, 2, 17)
    with runtime.open(model()) as loaded:
        asked = count_requests(loaded)
        score = loaded.score(PROMPT, forced, top=5)
        assert len(asked) == 2
        assert score.positions is not None
        # Each position is what follows the forced token before it, whatever the model would have said.
        assert [position.chosen for position in score.positions] == [24, 21, 0, 2, 17]
        assert score.generation.tokens == CHAIN
    with runtime.open(model(wrong={"24": 49})) as loaded:
        # It wants to stop early, and is led on.
        score = loaded.score(PROMPT, CHAIN, top=5)
        assert score.positions is not None
        assert [position.chosen for position in score.positions] == [24, 49, 0, 3, 24]


def count_requests(loaded: Any) -> list[str]:
    asked: list[str] = []
    original = loaded._ask

    def counting(path: str, body: Any) -> Answer:
        asked.append(path)
        answer: Answer = original(path, body)
        return answer

    loaded._ask = counting
    return asked


def test_scoring_needs_prompt_ids_and_an_answer(runtime: LlamaCpp, model: Callable[..., Artifact]) -> None:
    with runtime.open(model()) as loaded:
        score = loaded.score(Prompt("one", "abc"), CHAIN, top=5)
        assert score.positions is None
        assert score.trouble is not None
        assert score.trouble.kind is TroubleKind.ABSENT
    with runtime.open(model(behavior="http 500")) as loaded:
        score = loaded.score(PROMPT, CHAIN, top=5)
        assert score.trouble is not None
        assert score.trouble.kind is TroubleKind.REFUSED
        assert "HTTP 500" in score.trouble.text
    with runtime.open(
        model(replies={"/completion": {"tokens": [1], "content": "", "completion_probabilities": []}})
    ) as s:
        score = s.score(PROMPT, CHAIN, top=5)
        assert score.trouble is not None
        assert score.trouble.kind is TroubleKind.MISSING_FIELD


def test_tokenizer_and_template(runtime: LlamaCpp, model: Callable[..., Artifact]) -> None:
    with runtime.open(model(bos=True)) as loaded:
        assert loaded.tokenize("ab", add_special=False).payload == [48, 0]
        assert loaded.tokenize("ab", add_special=True).payload == [48, 48, 0]
        assert loaded.render([{"role": "user", "content": "hi"}]).payload == "<user>hi"
    odd = {"/tokenize": {"tokens": ["a"]}, "/apply-template": {"prompt": 5}}
    with runtime.open(model(replies=odd)) as loaded:
        for answer in (loaded.tokenize("a", add_special=False), loaded.render([])):
            assert answer.payload is None
            assert answer.trouble is not None
            assert answer.trouble.kind is TroubleKind.UNREADABLE
    with runtime.open(model(behavior="http 500")) as loaded:
        assert loaded.tokenize("a", add_special=False).payload is None
        assert loaded.render([]).payload is None


@pytest.mark.parametrize(
    ("behavior", "kind", "said"),
    [
        ("refuses", TroubleKind.REFUSED, "ended with 1 while loading: error loading model: tensor 'x'"),
        ("killed", TroubleKind.PANIC, "ended with -9 while loading"),
    ],
)
def test_a_file_that_cannot_be_loaded(
    runtime: LlamaCpp, model: Callable[..., Artifact], behavior: str, kind: TroubleKind, said: str
) -> None:
    with runtime.open(model(behavior=behavior)) as loaded:
        assert loaded.trouble is not None
        assert loaded.trouble.kind is kind
        assert said in loaded.trouble.text
        # Every question then has the same answer.
        assert loaded.generate(PROMPT, max_new_tokens=5).trouble == loaded.trouble
        assert loaded.tokenize("a", add_special=False).trouble == loaded.trouble


def test_a_file_that_is_not_there(runtime: LlamaCpp, tmp_path: Path) -> None:
    with runtime.open(Artifact(tmp_path / "none.gguf", "m", "gguf", "f16")) as loaded:
        assert loaded.trouble is not None
        assert loaded.trouble.kind is TroubleKind.ABSENT
        assert "trialbench convert" in loaded.trouble.text


@pytest.mark.parametrize(
    ("behavior", "kind", "said"),
    [
        ("dies", TroubleKind.PANIC, "the connection broke"),
        ("no json", TroubleKind.UNREADABLE, "not JSON"),
        ("a list", TroubleKind.UNREADABLE, "expected an object"),
        ("http 500", TroubleKind.REFUSED, "HTTP 500"),
        ("slow", TroubleKind.TIMEOUT, "no answer within"),
    ],
)
def test_a_server_that_answers_badly(
    monkeypatch: pytest.MonkeyPatch,
    runtime: LlamaCpp,
    model: Callable[..., Artifact],
    behavior: str,
    kind: TroubleKind,
    said: str,
) -> None:
    monkeypatch.setattr(llama_cpp, "_REQUEST_S", 0.5)
    with runtime.open(model(behavior=behavior)) as loaded:
        got = loaded.generate(PROMPT, max_new_tokens=5)
        assert got.tokens is None
        assert got.trouble is not None
        assert got.trouble.kind is kind
        assert said in got.trouble.text


def test_a_server_that_never_gets_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Callable[..., Artifact]
) -> None:
    (tmp_path / "llama-server").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "llama-server").chmod(0o755)
    monkeypatch.setattr(llama_cpp, "_LOAD_S", 0.2)
    with LlamaCpp(LocalTools(tmp_path)).open(model()) as loaded:
        assert loaded.trouble is not None
        assert loaded.trouble.kind is TroubleKind.TIMEOUT


def test_a_port_that_was_taken_is_tried_again(tmp_path: Path, model: Callable[..., Artifact]) -> None:
    (tmp_path / "llama-server").write_text(f"#!/bin/sh\necho x >> {tmp_path}/tries\necho 'failed to bind'\nexit 1\n")
    (tmp_path / "llama-server").chmod(0o755)
    with LlamaCpp(LocalTools(tmp_path)).open(model()) as loaded:
        assert loaded.trouble is not None
    assert (tmp_path / "tries").read_text().count("x") == 3


def test_a_quantized_cache_needs_flash_attention(runtime: LlamaCpp, model: Callable[..., Artifact]) -> None:
    for kv_type, flash in (("f32", "off"), ("f16", "off"), ("q8_0", "on")):
        with runtime.open(model(), kv_type=kv_type) as loaded:
            argv = loaded.generate(PROMPT, max_new_tokens=1).call.argv
            assert argv[argv.index("--flash-attn") + 1] == flash
            assert argv[argv.index("--cache-type-v") + 1] == kv_type


GOOD = {"tokens": [1], "content": "a", "tokens_evaluated": 3, "stop_type": "limit", "truncated": False}


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": None}, {"tokens": [True]}, {"tokens": [-1]}, {"tokens": "1"}, {"content": 5}, {"truncated": True},
        {"completion_probabilities": None}, {"completion_probabilities": [5]},
        {"completion_probabilities": [{"id": 1}]}, {"completion_probabilities": [{"id": 1, "top_logprobs": [5]}]},
        {"completion_probabilities": [{"id": 1, "top_logprobs": [{"id": 1, "logprob": None}]}]},
        {"completion_probabilities": [{"id": 1, "top_logprobs": [{"id": 1, "logprob": float("nan")}]}]},
        {"completion_probabilities": [{"id": 1, "top_logprobs": [{"id": 1, "logprob": -(10**400)}]}]},
        {"completion_probabilities": [{"id": 1, "top_logprobs": [{"id": 1, "logprob": -1e300}]}]},
        {"tokens": [10**400]},
    ],
)  # fmt: skip
def test_every_field_of_a_completion_is_checked(change: dict[str, Any]) -> None:
    rows = [{"id": 1, "top_logprobs": [{"id": 1, "logprob": 1e-7}]}]
    good = read_completion(Answer({**GOOD, "completion_probabilities": rows}, Call()), 1)
    assert good.trouble is None
    assert good.positions is not None
    assert good.positions[0].top[0].logprob == 0.0
    got = read_completion(Answer({**GOOD, "completion_probabilities": rows, **change}, Call()), 1)
    assert got.tokens is None
    assert got.trouble is not None
    assert got.trouble.kind is TroubleKind.UNREADABLE


def test_no_tokens_are_missing_tokens() -> None:
    got = read_completion(
        Answer({**GOOD, "tokens": [], "stop_type": 7, "tokens_evaluated": "3", "timings": 1}, Call()), 0
    )
    assert got.tokens is got.finish_reason is got.prompt_tokens is got.tokens_per_s is None
    assert got.trouble is not None
    assert got.trouble.kind is TroubleKind.MISSING_FIELD


def test_a_speed_that_is_none() -> None:
    for told in (10**400, float("inf"), -1.0, 0, True, "9", None):
        got = read_completion(Answer({**GOOD, "timings": {"predicted_per_second": told}}, Call()), 0)
        assert (got.tokens, got.tokens_per_s) == ((1,), None)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "logprob", "top_logprobs"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*GOOD, "completion_probabilities", "timings"]), anything, max_size=6),
    st.booleans(),
)
def test_whatever_a_server_says_is_read_or_trouble(payload: dict[str, Any], top: bool) -> None:
    got = read_completion(Answer(payload, Call()), int(top))
    assert (got.trouble is not None) == (got.tokens is None)


def test_perplexity(runtime: LlamaCpp, model: Callable[..., Artifact], tmp_path: Path) -> None:
    text = tmp_path / "text"
    plain = runtime.perplexity(model(), text, context=256)
    assert (plain.value, plain.uncertainty, plain.tokens) == (3.6037, 0.28167, 14 * 127)
    assert plain.kl_mean is plain.trouble is None
    trouble = runtime.reference_logits(model(), text, tmp_path / "ref", context=256)
    assert trouble is None
    assert (tmp_path / "ref").exists()
    with_kl = runtime.perplexity(model(), text, context=256, reference=tmp_path / "ref")
    assert (with_kl.value, with_kl.kl_mean, with_kl.kl_uncertainty) == (3.601987, 0.164628, 0.017708)
    assert with_kl.kl_max == 9.374946
    assert with_kl.same_top == pytest.approx(0.93195)
    assert (with_kl.tokens, with_kl.trouble) == (14 * 127, None)


def test_perplexity_fails_with_exit_code_zero(runtime: LlamaCpp, tmp_path: Path) -> None:
    gone = Artifact(tmp_path / "none.gguf", "m", "gguf", "f16")
    got = runtime.perplexity(gone, tmp_path / "text", context=256)
    assert got.value is None
    assert got.trouble is not None
    assert got.trouble.kind is TroubleKind.REFUSED
    assert "failed to open" in got.trouble.text
    trouble = runtime.reference_logits(gone, tmp_path / "text", tmp_path / "ref", context=256)
    assert trouble is not None
    silent = Artifact(tmp_path / "silent.gguf", "m", "gguf", "f16")
    silent.path.write_text("{}")
    trouble = runtime.reference_logits(silent, tmp_path / "text", tmp_path / "ref", context=256)
    assert trouble is not None
    assert trouble.text == "llama-perplexity wrote no ref"


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("Final estimate: PPL = nan +/- nan", 0, TroubleKind.REFUSED),
        ("Final estimate: PPL = inf +/- 1.0", 0, TroubleKind.REFUSED),
        ("Final estimate: PPL = 0.5 +/- 0.1", 0, TroubleKind.REFUSED),
        ("", 0, TroubleKind.REFUSED),
        (f"over {'9' * 5000} chunks, n_ctx=512\n", 0, TroubleKind.REFUSED),
        # All of it was printed, and then it crashed.
        ("Final estimate: PPL = 3.0 +/- 0.1", -11, TroubleKind.PANIC),
        ("half of it", 134, TroubleKind.PANIC),
        ("half of it", None, TroubleKind.TIMEOUT),
    ],
)
def test_a_perplexity_that_is_none(text: str, code: int | None, kind: TroubleKind) -> None:
    got = parse_perplexity(Call(("x",), code, text), kl=False)
    assert got.trouble is not None
    assert got.trouble.kind is kind
    assert parse_perplexity(Call(("x",), code, text), kl=True).trouble is not None


@given(st.text(max_size=200))
def test_any_output_of_llama_perplexity_is_read_or_trouble(text: str) -> None:
    for kl in (True, False):
        assert parse_perplexity(Call(stdout=text), kl=kl).trouble is not None


def test_conversions(runtime: LlamaCpp, tmp_path: Path, folder_of: Callable[..., Path]) -> None:
    source = Artifact(folder_of(tmp_path / "hf"), "m", "hf", "hf", parents=("hf",))
    made = runtime.convert(Capability.IMPORT_HF, source, tmp_path / "m.gguf", "f32").artifact
    assert made is not None
    assert (made.label, made.parents, len(made.sha256)) == ("m f32 (gguf)", ("hf", "gguf f32"), 64)
    quantized = runtime.convert(Capability.QUANTIZE, made, tmp_path / "q.gguf", "Q8_0").artifact
    assert quantized is not None
    assert quantized.parents == ("hf", "gguf f32", "gguf Q8_0")
    folder = runtime.convert(Capability.EXPORT, quantized, tmp_path / "back", "f32").artifact
    assert folder is not None
    assert (folder.format, folder.parents[-1]) == ("hf", "hf")
    for quant in ("Q9_9", "Q0_0"):
        refused = runtime.convert(Capability.QUANTIZE, made, tmp_path / "r.gguf", quant)
        assert refused.artifact is None
        assert refused.trouble is not None
        assert not list(tmp_path.glob("*r.gguf*"))
    assert runtime.convert(Capability.IMPORT_GGUF, made, tmp_path / "x", "f32").trouble is not None
    gone = Artifact(tmp_path / "none", "m", "hf", "hf")
    nothing = runtime.convert(Capability.IMPORT_HF, gone, tmp_path / "x.gguf", "f32")
    assert nothing.trouble is not None
    assert nothing.trouble.kind is TroubleKind.REFUSED
    inspected = runtime.probe(Capability.INSPECT, made)
    assert inspected.payload["architecture"] == "llama"
    assert runtime.probe(Capability.DIFF, made, quantized).payload["identical"] is True


def test_what_llama_cpp_declines(runtime: LlamaCpp, tmp_path: Path, model: Callable[..., Artifact]) -> None:
    assert runtime.declined(Capability.GENERATE) is None
    assert runtime.declined(Capability.LINT) == "llama.cpp has no such command"
    assert "does not read apr" in str(runtime.declined(Capability.GENERATE, Artifact(tmp_path, "m", "apr", "int8")))
    lint = runtime.probe(Capability.LINT, model())
    assert lint.trouble is not None
    assert lint.trouble.kind is TroubleKind.NOT_BUILT
    broken = runtime.probe(Capability.INSPECT, model())
    assert broken.trouble is not None
    assert broken.trouble.kind is TroubleKind.REFUSED
    gone = runtime.probe(Capability.INSPECT, Artifact(tmp_path / "none.gguf", "m", "gguf", "f16"))
    assert gone.trouble is not None
    assert gone.trouble.kind is TroubleKind.ABSENT
