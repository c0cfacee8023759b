"""Make oracles with `transformers`: greedy, float32 on the CPU unless told otherwise, no penalties of any kind.

The only part of the ground truth that imports torch and transformers (the extra `edgelab-trialbench[oracle]`), and only
when it runs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trialbench.errors import TrialbenchError, UsageError
from trialbench.ground_truth.evidence.oracle_files import (
    Oracle,
    TokenizerOracle,
    oracle_path,
    tokenizer_path,
    write_oracle,
    write_tokenizer,
)
from trialbench.ground_truth.model.roster import Model, Prompts, PromptText, Roster
from trialbench.ground_truth.model.weights import folder_hashes, sha256
from trialbench.ground_truth.runtimes.base import Candidate

PRECISIONS = ("fp32", "bf16", "fp16")
_TOP = 32
# Half precision is compared with float32 as a whole, not position by position.
_TOP_HALF = 8
# The second oracle only has to say how close a decision was.
_TOP_SECOND = 4
_EXTRA = (
    "oracles are made with torch and transformers: pip install 'edgelab-trialbench[oracle]', best in an environment of "
    "its own, or use the image of images/oracle; everything else works without them"
)


class NoDevice(TrialbenchError):
    """The device that was asked for is not there: nothing was made."""

    exit_code = 4


def make_oracles(
    roster: Roster,
    models: Sequence[Model],
    folder_of: Callable[[Model], Path],
    *,
    revision_of: Callable[[Model], str | None] = lambda _model: None,
    device: str = "cpu",
    precision: str = "fp32",
    kernels: bool = False,
    tell: Callable[[str], None],
) -> list[Path]:
    """Write an oracle for each model and prompt, and for each model's tokenizer.

    Args:
        roster: names the prompts, the length of a continuation and the folder to write into.
        models: which of its models.
        folder_of: where a model's Hugging Face files are.
        revision_of: the commit they are; None when they are local (then their hash stands for it).
        device, precision: `cpu` or `cuda`; `fp32`, `bf16`, `fp16`. Halves are for a GPU; a CPU computes them as well,
            slowly, in another order of sums, and the file says on what it was made.
        kernels: let transformers use the custom kernels of the hub (on a GPU).
        tell: progress, one line each.

    Raises:
        UsageError: torch or transformers is missing, or a folder is.
        NoDevice: no GPU although one was asked for.
    """
    torch, transformers = _libraries()
    _check_device(torch, device, precision, kernels)
    written: list[Path] = []
    for model in models:
        folder = folder_of(model)
        tokenizer, network = _load(transformers, torch, folder, device, precision, kernels=kernels)
        maker = _Maker(torch, transformers, model, folder, tokenizer, network, device, precision, kernels)
        maker.revision = revision_of(model) or maker.revision
        for prompt in roster.prompts.prompts:
            # Never over the reference: what a GPU says in float32 is another arithmetic.
            path = oracle_path(roster.oracle, model.slug, prompt.name, precision=precision, device=device)
            oracle = maker.continued(prompt, roster.max_new_tokens)
            write_oracle(path, oracle)
            tell(f"{model.slug}/{prompt.name}: {len(oracle.tokens)} tokens, smallest margin {_smallest(oracle):.3f}")
            written.append(path)
        if precision == "fp32" and device == "cpu":
            path = tokenizer_path(roster.oracle, model.slug)
            write_tokenizer(path, maker.tokenizer_oracle(roster.prompts))
            written.append(path)
    return written


def make_second_oracles(
    roster: Roster, model: Model, gguf: Path, quant: str, folder: Path, *, tell: Callable[[str], None]
) -> list[Path]:
    """Write the oracles of transformers loading a quantized GGUF: what the file itself says, by other arithmetic.

    Args:
        folder: the model's Hugging Face folder, for the tokenizer.

    Raises:
        UsageError: torch, transformers or the file is missing, or transformers does not read it.
    """
    torch, transformers = _libraries()
    _check_device(torch, "cpu", "fp32", False)
    tokenizer = _load_tokenizer(transformers, folder)
    network = _load_gguf(transformers, torch, gguf, folder).eval()
    maker = _Maker(torch, transformers, model, folder, tokenizer, network, "cpu", "fp32", False)
    maker.source, maker.files, maker.top = f"gguf {quant}", {gguf.name: sha256(gguf)}, _TOP_SECOND
    written = []
    for prompt in roster.prompts.prompts:
        path = oracle_path(roster.oracle, model.slug, prompt.name, quant=quant)
        write_oracle(path, maker.continued(prompt, roster.max_new_tokens))
        written.append(path)
    tell(f"{model.slug} {quant}: second oracle, {len(written)} prompts")
    return written


def _load_gguf(transformers: Any, torch: Any, gguf: Path, folder: Path) -> Any:
    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.float32, "local_files_only": True}
    load = transformers.AutoModelForCausalLM.from_pretrained
    try:
        try:
            return load(gguf.parent, **options)
        except RuntimeError:
            # For some architectures not every size is read from the GGUF; the folder's configuration has them.
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            return load(gguf.parent, config=config, **options)
    # A cut file, a missing package, a GPU without room: the libraries have an exception of their own for each.
    except Exception as error:
        raise UsageError(f"{gguf}: transformers does not read this file: {error}") from error


def _smallest(oracle: Oracle) -> float:
    margins = oracle.margins()
    return min(margins) if margins else float("nan")


def _libraries() -> tuple[Any, Any]:
    # Nothing is ever fetched here: that is what `pull` is for, with a pinned commit.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UsageError(f"{error}; {_EXTRA}") from error
    return torch, transformers


def _check_device(torch: Any, device: str, precision: str, kernels: bool) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"--precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device: expected cpu or cuda, found {device!r}")
    if device == "cpu" and kernels:
        raise UsageError("--kernels: they are programs for a GPU, expected --device cuda, found --device cpu")
    if kernels and importlib.util.find_spec("kernels") is None:
        raise UsageError("--kernels: expected the package kernels, found none: install what transformers asks for")
    if device == "cuda" and not torch.cuda.is_available():
        raise NoDevice("--device cuda: expected a GPU that torch can use, found none: no oracle was made")
    # One thread: the order of sums, and so the last bit, must not depend on the machine's cores.
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _load(
    transformers: Any, torch: Any, folder: Path, device: str, precision: str, *, kernels: bool
) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: expected a Hugging Face folder, found no config.json")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    options: dict[str, Any] = {"use_kernels": True} if kernels else {}
    tokenizer = _load_tokenizer(transformers, folder)
    try:
        network = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True, **options
        )
        return tokenizer, network.to(device).eval()
    except Exception as error:
        raise UsageError(f"{folder}: transformers does not read this folder: {error}") from error


def _load_tokenizer(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UsageError(f"{folder}: transformers does not read this folder: {error}") from error


class _Maker:
    """Everything that the oracles of one model have in common."""

    def __init__(
        self,
        torch: Any,
        transformers: Any,
        model: Model,
        folder: Path,
        tokenizer: Any,
        network: Any,
        device: str,
        precision: str,
        kernels: bool,
    ) -> None:
        self._torch, self._transformers = torch, transformers
        self._model, self._tokenizer, self._network = model, tokenizer, network
        self._device, self._precision, self._kernels = device, precision, kernels
        # Read before a configuration of our own takes its place.
        self._ends = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
        self.files = folder_hashes(folder)
        self.source, self.top = "hf", _TOP if precision == "fp32" else _TOP_HALF
        joined = "".join(f"{name} {digest}\n" for name, digest in sorted(self.files.items()))
        self.revision = f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"

    def continued(self, prompt: PromptText, max_new_tokens: int) -> Oracle:
        """The golden continuation of one prompt."""
        torch = self._torch
        encoded = self._tokenizer(prompt.text, return_tensors="pt")
        ids = encoded["input_ids"].to(self._device)
        if ids.shape[1] == 0:
            raise UsageError(f"the prompt {prompt.name!r} has no tokens: there is nothing to continue")
        # A configuration of our own: the folder's may sample, penalize or stop at other tokens.
        eos = self._eos()
        clean = self._transformers.GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=list(eos) or None,
            pad_token_id=eos[0] if eos else None,
        )
        self._network.generation_config = clean
        with torch.no_grad():
            out = self._network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=clean,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens = out.sequences[0, ids.shape[1] :].tolist()
        return Oracle(
            model=self._model.name,
            model_slug=self._model.slug,
            prompt=prompt.text,
            prompt_file=f"prompts/{prompt.name}.txt",
            format={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[self._precision],
            transformers_version=str(self._transformers.__version__),
            torch_version=str(torch.__version__),
            device=self._device,
            precision=self._precision,
            tokens=tuple(tokens),
            text=self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            max_new_tokens=max_new_tokens,
            gpu=self._gpu(),
            revision=self.revision,
            prompt_ids=tuple(ids[0].tolist()),
            eos_ids=eos,
            top=tuple(self._rows(out.logits)),
            files=self.files,
            source=self.source,
        )

    def _rows(self, logits: Sequence[Any]) -> Iterator[tuple[Candidate, ...]]:
        for row in logits:
            logprobs = self._torch.log_softmax(row[0].float(), dim=-1)
            best = self._torch.topk(logprobs, min(self.top, logprobs.shape[-1]))
            if not all(map(math.isfinite, best.values.tolist())):
                # Half precision has an end that some models reach.
                what = f"{self._model.slug}: in {self._precision} on {self._device}"
                raise UsageError(f"{what} its log-probabilities are not numbers: there is nothing to compare with")
            yield tuple(
                Candidate(number, value)
                for number, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            )

    def _eos(self) -> tuple[int, ...]:
        # In the order of transformers: generation_config.json, config.json, the tokenizer; -1 stands for none.
        for found in (self._ends, self._network.config.eos_token_id, self._tokenizer.eos_token_id):
            ids = tuple(int(one) for one in (found if isinstance(found, list) else [found]) if one not in (None, -1))
            if ids:
                return ids
        return ()

    def _gpu(self) -> dict[str, Any]:
        if self._device != "cuda":
            return {}
        facts: dict[str, Any] = {
            "cuda_version": self._torch.version.cuda,
            "gpu_name": self._torch.cuda.get_device_name(0),
            "kernels_enabled": self._kernels,
        }
        if self._kernels:
            facts["kernels_version"] = importlib.metadata.version("kernels")
        return facts

    def tokenizer_oracle(self, prompts: Prompts) -> TokenizerOracle:
        """Token ids of prompts and torture set, and the chats as the template renders them."""
        texts = prompts.tokenized()
        encode = self._tokenizer
        chats = {}
        if getattr(self._tokenizer, "chat_template", None):
            for chat in prompts.chats:
                chats[chat.name] = encode.apply_chat_template(
                    [dict(message) for message in chat.messages], tokenize=False, add_generation_prompt=True
                )
        return TokenizerOracle(
            model_slug=self._model.slug,
            transformers_version=str(self._transformers.__version__),
            texts=texts,
            ids={name: tuple(encode(text, add_special_tokens=False).input_ids) for name, text in texts.items()},
            ids_special={name: tuple(encode(text).input_ids) for name, text in texts.items()},
            chats=chats,
            files=self.files,
        )
