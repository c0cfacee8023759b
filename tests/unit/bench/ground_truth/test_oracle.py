"""Making oracles, with stand-ins of torch and transformers: what is asked of them and what is written down.

The real libraries are the extra `oracle`; `make ground-truth` compares what they say with the files in the fixtures.
"""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from trialbench.errors import UsageError
from trialbench.ground_truth.evidence import oracle as maker
from trialbench.ground_truth.evidence.oracle import NoDevice, make_oracles, make_second_oracles
from trialbench.ground_truth.evidence.oracle_files import oracle_path, read_oracle, read_tokenizer, tokenizer_path
from trialbench.ground_truth.model.roster import Roster, load_roster

VOCABULARY, EOS = 12, 9


class Tensor:
    """As much of a tensor as is used."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape = self.values.shape

    def to(self, _device: str) -> Tensor:
        return self

    def float(self) -> Tensor:
        return self

    def tolist(self) -> Any:
        return self.values.tolist()

    def __getitem__(self, where: Any) -> Tensor:
        return Tensor(self.values[where])


class Tokenizer:
    chat_template: str | None = "x"
    eos_token_id: int | None = EOS

    def __call__(self, text: str, return_tensors: str | None = None, add_special_tokens: bool = True) -> Any:
        ids = [ord(one) % 9 for one in text]
        if return_tensors:
            return {"input_ids": Tensor([ids])}
        return SimpleNamespace(input_ids=[10, *ids] if add_special_tokens else ids)

    def decode(self, tokens: list[int], **options: Any) -> str:
        assert options == {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return " ".join(str(token) for token in tokens)

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        assert options == {"tokenize": False, "add_generation_prompt": True}
        return "|".join(message["content"] for message in messages)


class Network:
    """Counts up from the last token of the prompt."""

    def __init__(self, eos: Any = EOS) -> None:
        self.config = SimpleNamespace(eos_token_id=eos)
        self.generation_config: Any = "the folder's"
        self.calls: list[Any] = []

    def to(self, device: str) -> Network:
        self.calls.append(device)
        return self

    def eval(self) -> Network:
        return self

    def generate(self, *, input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **options: Any) -> Any:
        self.calls.append(vars(generation_config))
        assert attention_mask.shape == input_ids.shape
        tokens, rows, last = [], [], int(input_ids.values[0, -1])
        for _ in range(generation_config.max_new_tokens):
            last = (last + 1) % VOCABULARY
            logits = np.zeros((1, VOCABULARY))
            logits[0, last] = 5.0
            rows.append(Tensor(logits))
            tokens.append(last)
            if last in (generation_config.eos_token_id or []):
                break
        assert options == {"output_logits": True, "return_dict_in_generate": True}
        return SimpleNamespace(sequences=Tensor([[*input_ids.values[0].tolist(), *tokens]]), logits=rows)


def log_softmax(row: Tensor, dim: int) -> Tensor:
    assert dim == -1
    return Tensor(row.values - math.log(np.exp(row.values).sum()))


def topk(row: Tensor, count: int) -> Any:
    order = np.argsort(-row.values, kind="stable")[:count]
    return SimpleNamespace(indices=Tensor(order), values=Tensor(row.values[order]))


class World(SimpleNamespace):
    """The stand-ins, and what was asked of them."""

    network: Network
    tokenizer: Tokenizer
    torch: Any
    asked: list[Any]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    state = World(network=Network(), tokenizer=Tokenizer(), asked=[])
    torch: Any = ModuleType("torch")
    torch.__version__ = "2.13.0+stand-in"
    torch.float32, torch.bfloat16, torch.float16 = "f32", "bf16", "f16"
    torch.set_num_threads = state.asked.append
    torch.backends = SimpleNamespace(
        cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=True)), cudnn=SimpleNamespace(allow_tf32=True)
    )
    torch.cuda = SimpleNamespace(is_available=lambda: False, get_device_name=lambda _number: "a card")
    torch.version = SimpleNamespace(cuda="13.0")
    torch.no_grad = contextlib.nullcontext
    torch.ones_like = lambda tensor: Tensor(np.ones_like(tensor.values))
    torch.log_softmax, torch.topk = log_softmax, topk
    transformers: Any = ModuleType("transformers")
    transformers.__version__ = "5.23.0"
    transformers.GenerationConfig = SimpleNamespace

    def tokenizer(folder: Path, **options: Any) -> Tokenizer:
        assert options == {"local_files_only": True}
        return state.tokenizer

    def network(folder: Path, **options: Any) -> Network:
        state.asked.append((folder, options))
        if isinstance(state.network, Exception):
            raise state.network
        return state.network

    transformers.AutoTokenizer = SimpleNamespace(from_pretrained=tokenizer)
    transformers.AutoModelForCausalLM = SimpleNamespace(from_pretrained=network)
    state.torch = torch
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    return state


@pytest.fixture
def roster(roster_file: Path) -> Roster:
    return load_roster(str(roster_file))


def make(roster: Roster, **options: Any) -> list[Path]:
    return make_oracles(
        roster, roster.models[:1], lambda model: model.folder or Path(), tell=lambda _text: None, **options
    )


def test_an_oracle_is_greedy_clean_and_complete(world: World, roster: Roster) -> None:
    paths = make(roster)
    slug = roster.models[0].slug
    assert paths == [
        oracle_path(roster.oracle, slug, "one"),
        oracle_path(roster.oracle, slug, "two"),
        tokenizer_path(roster.oracle, slug),
    ]
    oracle = read_oracle(paths[0])
    # "abc" ends in ord("c") % 9 = 0: it counts 1, 2, ... to the end of sequence, which is part of it.
    assert oracle.prompt_ids == (7, 8, 0)
    assert oracle.tokens == (1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert oracle.text == "1 2 3 4 5 6 7 8 9"
    assert oracle.eos_ids == (EOS,)
    assert (oracle.device, oracle.precision, oracle.format, oracle.source) == ("cpu", "fp32", "float32", "hf")
    assert oracle.top is not None
    assert len(oracle.top) == 9
    assert sum(math.exp(one.logprob) for one in oracle.top[0]) == pytest.approx(1.0, abs=1e-3)
    assert oracle.margins() == pytest.approx((5.0,) * 9, abs=1e-4)
    assert oracle.revision is not None
    assert oracle.revision.startswith("sha256:")
    assert set(oracle.files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    folder, options = next(entry for entry in world.asked if isinstance(entry, tuple))
    assert folder == roster.models[0].folder
    assert options["dtype"] == "f32"
    assert options["trust_remote_code"] is False
    assert options["local_files_only"] is options["use_safetensors"] is True
    clean = world.network.calls[1]
    assert (clean["do_sample"], clean["repetition_penalty"], clean["num_beams"]) == (False, 1.0, 1)
    assert clean["max_new_tokens"] == 32
    assert world.network.generation_config.max_new_tokens == 32
    assert world.asked[0] == 1
    assert world.torch.backends.cudnn.allow_tf32 is False
    tokenizer = read_tokenizer(paths[2])
    assert tokenizer.texts == {"prompt/one": "abc", "prompt/two": "ba", "blank": " a"}
    assert tokenizer.ids["prompt/one"] == (7, 8, 0)
    assert tokenizer.ids_special["prompt/one"] == (10, 7, 8, 0)
    assert tokenizer.chats == {"hello": "abc"}


def test_a_model_without_template_or_end_of_sequence(world: World, roster: Roster) -> None:
    world.network = Network(eos=None)
    world.tokenizer.eos_token_id = world.tokenizer.chat_template = None
    paths = make(roster)
    assert len(read_oracle(paths[0]).tokens) == 32
    assert read_oracle(paths[0]).eos_ids == ()
    assert read_tokenizer(paths[2]).chats == {}
    world.tokenizer.eos_token_id = 4
    assert read_oracle(make(roster)[0]).tokens == (1, 2, 3, 4)
    world.network = Network(eos=[3, 5])
    assert read_oracle(make(roster)[0]).eos_ids == (3, 5)
    # As transformers does it: generation_config.json before config.json; -1 stands for none.
    world.network = Network(eos=[3, 5])
    world.network.generation_config = SimpleNamespace(eos_token_id=[-1, 6])
    assert read_oracle(make(roster)[0]).eos_ids == (6,)
    world.network = Network(eos=3)
    world.network.generation_config = SimpleNamespace(eos_token_id=-1)
    assert read_oracle(make(roster)[0]).eos_ids == (3,)


def test_a_prompt_and_a_text_of_one_name_are_two(world: World, roster: Roster) -> None:
    blank = replace(roster.prompts.tokenizer[0], name="one")
    read = read_tokenizer(make(replace(roster, prompts=replace(roster.prompts, tokenizer=(blank,))))[2])
    assert read.texts == {"prompt/one": "abc", "prompt/two": "ba", "one": " a"}
    assert read.ids["one"] != read.ids["prompt/one"]


def test_the_commit_is_written_down_where_there_is_one(world: World, roster: Roster) -> None:
    assert read_oracle(make(roster, revision_of=lambda _model: "f" * 40)[0]).revision == "f" * 40


def test_on_a_gpu(world: World, roster: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoDevice, match="expected a GPU that torch can use, found none"):
        make(roster, device="cuda", precision="bf16")
    world.torch.cuda.is_available = lambda: True
    paths = make(roster, device="cuda", precision="bf16")
    assert len(paths) == 2
    oracle = read_oracle(paths[0])
    assert paths[0] == oracle_path(roster.oracle, roster.models[0].slug, "one", precision="bf16")
    assert (oracle.device, oracle.precision, oracle.format) == ("cuda", "bf16", "bfloat16")
    assert oracle.gpu == {"cuda_version": "13.0", "gpu_name": "a card", "kernels_enabled": False}
    with pytest.raises(UsageError, match="--kernels: expected the package kernels, found none"):
        make(roster, device="cuda", precision="fp16", kernels=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 1")
    oracle = read_oracle(make(roster, device="cuda", precision="fp16", kernels=True)[0])
    assert oracle.gpu["kernels_version"] == "kernels 1"
    assert oracle.gpu["kernels_enabled"] is True
    assert world.asked[-1][1]["use_kernels"] is True


def test_the_reference_is_never_written_over(world: World, roster: Roster) -> None:
    slug = roster.models[0].slug
    world.torch.cuda.is_available = lambda: True
    assert make(roster)[0] == oracle_path(roster.oracle, slug, "one")
    for device, precision in (("cuda", "fp32"), ("cpu", "bf16"), ("cpu", "fp16")):
        path = make(roster, device=device, precision=precision)[0]
        assert path == roster.oracle.with_name("oracle-gpu") / slug / precision / "one.json"
        found = read_oracle(path)
        assert (found.device, found.precision) == (device, precision)
        assert bool(found.gpu) is (device == "cuda")
    assert read_oracle(oracle_path(roster.oracle, slug, "one")).device == "cpu"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp8"}, "--precision: expected one of fp32, bf16, fp16, found 'fp8'"),
        ({"device": "tpu"}, "--device: expected cpu or cuda, found 'tpu'"),
        ({"kernels": True}, "--kernels: they are programs for a GPU, expected --device cuda"),
    ],
)
def test_options_that_do_not_go_together(world: World, roster: Roster, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(roster, **options)


def test_what_cannot_be_read_is_named(world: World, roster: Roster, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"found no config\.json"):
        make_oracles(roster, roster.models, lambda _model: tmp_path, tell=print)
    # safetensors, a missing package and a full GPU: none of them has a kind of error in common with the others.
    for kind in (type("SafetensorError", (Exception,), {}), ImportError, RuntimeError):
        world.network = kind("not whole")  # type: ignore[assignment]  # raised by the stand-in
        with pytest.raises(UsageError, match="transformers does not read this folder: not whole"):
            make(roster)
    world.network = OSError("no weights")  # type: ignore[assignment]  # raised by the stand-in
    with pytest.raises(UsageError, match="transformers does not read this folder: no weights"):
        make(roster)
    with pytest.raises(UsageError, match="transformers does not read this file: no weights"):
        make_second_oracles(roster, roster.models[0], tmp_path / "m.gguf", "Q2_K", tmp_path, tell=print)


def test_numbers_that_are_none_make_no_oracle(world: World, roster: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(tensor: Tensor, dim: int) -> Tensor:
        return Tensor(log_softmax(tensor, dim).values * np.nan)

    monkeypatch.setattr(world.torch, "log_softmax", nothing)
    with pytest.raises(UsageError, match="m-llama: in fp16 on cpu its log-probabilities are not numbers"):
        make(roster, precision="fp16")
    assert not roster.oracle.with_name("oracle-gpu").exists()


def test_an_empty_prompt_has_nothing_to_continue(world: World, roster: Roster, roster_file: Path) -> None:
    path = roster_file.parent / "prompts.yml"
    path.write_text(path.read_text().replace('text: "abc"', 'text: ""'))
    with pytest.raises(UsageError, match="the prompt 'one' has no tokens"):
        make(load_roster(str(roster_file)))


def test_the_second_oracle(world: World, roster: Roster, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"weights")
    model = roster.models[0]
    assert model.folder is not None
    told: list[str] = []
    paths = make_second_oracles(roster, model, tmp_path / "m.gguf", "Q2_K", model.folder, tell=told.append)
    assert paths[0] == oracle_path(roster.oracle, model.slug, "one", quant="Q2_K")
    oracle = read_oracle(paths[0])
    assert oracle.source == "gguf Q2_K"
    assert list(oracle.files) == ["m.gguf"]
    assert world.asked[-1] == (tmp_path, {"gguf_file": "m.gguf", "dtype": "f32", "local_files_only": True})
    assert told == [f"{model.slug} Q2_K: second oracle, 2 prompts"]


def test_without_the_extra_it_says_what_to_install(roster: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install 'edgelab-trialbench\[oracle\]'"):
        make(roster)


def test_an_oracle_without_log_probabilities_has_no_margin() -> None:
    assert math.isnan(maker._smallest(SimpleNamespace(margins=lambda: None)))  # type: ignore[arg-type]  # a stand-in
