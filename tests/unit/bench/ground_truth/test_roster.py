"""Rosters, prompts and tolerances are data: read, checked, and wrong ones refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from trialbench.errors import UsageError
from trialbench.ground_truth.model.roster import load_prompts, load_roster, load_tolerances
from trialbench.ground_truth.model.yaml_files import PACKAGED, load

TINY = Path(__file__).resolve().parents[3] / "fixtures" / "ground_truth" / "roster.yml"


def test_the_original_roster(tmp_path: Path) -> None:
    roster = load_roster("original", work=tmp_path)
    sizes = {
        model.slug: (model.layers, model.heads, model.kv_heads, model.hidden, model.vocabulary)
        for model in roster.models
    }
    assert sizes == {
        "smollm-135m": (30, 9, 3, 576, 49152),
        "qwen2-0.5b": (24, 14, 2, 896, 151936),
        "gpt2-124m": (12, 12, 12, 768, 50257),
    }  # fmt: skip
    assert [model.perplexity_ceiling for model in roster.models] == [20, 15, 30]
    assert all(model.quants["apr"] == ("int4", "int8") for model in roster.models)
    assert [prompt.name for prompt in roster.prompts.prompts] == ["arithmetic", "code", "completion", "greeting"]
    assert all("\n" not in prompt.text for prompt in roster.prompts.prompts)
    assert roster.oracle == tmp_path / "oracle"
    assert roster.max_new_tokens == 32
    assert (roster.tolerance("token-int4").value, roster.tolerance("token-int8").value) == (5, 3)
    assert all(len(one.why) > 20 for one in roster.tolerances.values())


def test_the_tiny_roster_brings_everything() -> None:
    roster = load_roster(str(TINY))
    assert [model.architecture for model in roster.models] == ["llama", "qwen2", "gpt2"]
    assert roster.prompts.perplexity_text is not None
    for model in roster.models:
        assert model.folder is not None
        assert (model.folder / "model.safetensors").is_file()
        assert model.hidden % 256 == 0
        # Every bound that a check of these files will ask for has been written down.
        for quant in model.quants["llama.cpp"]:
            for kind in ("token", "agreement", "kl", "tensor"):
                assert roster.tolerance(f"{kind}-{quant}").why


def test_a_small_roster(roster_file: Path) -> None:
    roster = load_roster(str(roster_file))
    assert roster.oracle == roster_file.parent / "oracle"
    assert roster.model("m-gpt2").architecture == "gpt2"
    assert roster.prompts.chats[0].messages[0]["content"] == "abc"
    with pytest.raises(UsageError, match="no model 'x' in the roster 'small'; there are: m-llama, m-gpt2"):
        roster.model("x")
    with pytest.raises(UsageError, match="no tolerance 'x'; there are: token-f16"):
        roster.tolerance("x")


def test_a_roster_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no roster named 'x': expected one of original, or a path"):
        load_roster("x")
    with pytest.raises(UsageError, match=r"nowhere/roster\.yml: the roster cannot be read: No such file"):
        load_roster("nowhere/roster.yml")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("layers: 2", "layers: two", 11, 'models[0].layers: expected integer, found "two"'),
        ("architecture: llama", "architectures: llama", 7, "models[0]: expected a key 'architecture', found none"),
        ("slug: m-gpt2", "slug: ../m", 18, "models[1].slug: expected text like"),
        ("slug: m-gpt2", "slug: m-llama", 18, "'m-llama' is already there"),
        ("name: small", "name: small\nname: other", 3, "the key 'name' is already there in line 2"),
        ("models:", "models: [", 0, "is not YAML"),
        ("name: small", "name: &a [*a]", 0, "is not YAML: maximum recursion depth"),
        ("layers: 2", "layers: 2\n    color: red", 12, "models[0].color: expected one of the keys slug, name"),
        ("layers: 2", "\tlayers: 2", 11, "is not YAML: found character '\\t' that cannot start any token"),
        ("layers: 2", "layers: 2026-99-99", 11, "is not YAML: '2026-99-99': month must be in 1..12"),
        ("layers: 2", "layers: !!timestamp x", 11, "is not YAML: 'x': "),
        ("layers: 2", "layers: " + "9" * 5000, 11, "is not YAML: '9999"),
        ("name: small", 'name: "\\U00FFFFFF"', 0, "is not YAML: "),
        ("name: small", 'name: "\\UFFFFFFFF"', 0, "is not YAML: "),
        ("layers: 2", "? [a, b]\n    : 2", 11, "is not YAML: found unhashable key"),
        (
            "perplexity_ceiling: 3",
            "perplexity_ceiling: .inf",
            16,
            "perplexity_ceiling: expected number, found Infinity",
        ),
        ("layers: 2", "layers: 1.0e+22", 11, "layers: expected a finite number below 1e15, found 1e+22"),
        ("perplexity_ceiling: 3", f"perplexity_ceiling: {'9' * 400}", 16, "expected a finite number below 1e15"),
        ("oracle: oracle", "oracle: oracle\nclaims: none", 6, "expected a folder of claims, found none at"),
        ("llama.cpp: [f32", "llama-cpp: [f32", 17, "expected one of the keys llama.cpp, apr, found the key 'llama-"),
        ("[f32, f16, Q8_0]", "[f32, f16, f32]", 17, "'f32' is already there"),
        ("oracle: oracle", "oracle: oracle\nprecisions: [bf16, bf16]", 6, "'bf16' is already there"),
        ("    quants:", "    files: {Q4_0: x.gguf}\n    quants:", 17, "expected one of the quants that llama.cpp is"),
        ("oracle: oracle", 'oracle: "a\\0b"', 5, "expected a path, found 'a\\x00b'"),
        ("oracle: oracle", "oracle: ~nobody-of-that-name/x", 5, "expected a path, found '~nobody-of-that-name/x'"),
    ],
)
def test_errors_have_lines(roster_file: Path, old: str, new: str, line: int, said: str) -> None:
    roster_file.write_text(roster_file.read_text().replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        load_roster(str(roster_file))
    assert said in str(caught.value)
    if line:
        assert f"{roster_file}:{line}: " in str(caught.value)


def test_prompts_and_tolerances_have_lines_too(roster_file: Path) -> None:
    prompts = roster_file.parent / "prompts.yml"
    good = prompts.read_text()
    prompts.write_text(good.replace("name: two", "name: one"))
    with pytest.raises(UsageError, match=r"prompts\.yml:4: 'one' is already there"):
        load_prompts(prompts)
    prompts.write_text(good.replace("text.txt", "none.txt"))
    with pytest.raises(UsageError, match=r"prompts\.yml:9: expected a text file, found nothing at"):
        load_prompts(prompts)
    prompts.write_text(good.replace("perplexity_text: text.txt\n", ""))
    assert load_prompts(prompts).perplexity_text is None
    tolerances = roster_file.parent / "tolerances.yml"
    tolerances.write_text(tolerances.read_text().replace("value: 0", "value: none"))
    with pytest.raises(UsageError, match=r"tolerances\.yml:3: tolerances\.token-f16\.value: expected number"):
        load_tolerances(tolerances)
    tolerances.write_text(tolerances.read_text().replace("value: none", "value: .nan"))
    with pytest.raises(UsageError, match=r"yml:3: tolerances\.token-f16\.value: expected number, found NaN"):
        load_tolerances(tolerances)


def test_aliases_of_aliases_are_not_walked_over(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match="its aliases unfold to more than 200000 values"):
        load(path, "roster", "roster")


def test_whole_numbers_may_be_written_with_a_point(roster_file: Path) -> None:
    roster_file.write_text(roster_file.read_text().replace("name: small", "name: small\nmax_new_tokens: 8.0"))
    assert repr(load_roster(str(roster_file)).max_new_tokens) == "8"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the roster cannot be read: Is a directory"):
        load(tmp_path, "roster", "roster")
    with pytest.raises(UsageError, match=r"--roster: expected a path, found '~nobody-of-that-name/r\.yml'"):
        load_roster("~nobody-of-that-name/r.yml")


@pytest.mark.prove
def test_files_that_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "r.yml"
    for raw, said in [
        (b"\xff", "is not UTF-8 text: byte 0"),
        (b"- 1", ":1: expected a mapping (roster), found list"),
        (b"", ":1: expected a mapping (roster), found NoneType"),
        (b"a: 2026-13-45", "is not YAML"),
        (b"[" * 5000, "is not YAML"),
        (b"# " + b"x" * 4_000_000, "has 4000002 bytes, expected at most"),
        (b"a: \x00", "is not YAML"),
    ]:
        path.write_bytes(raw)
        with pytest.raises(UsageError) as caught:
            load(path, "roster", "roster")
        assert said in str(caught.value)


def test_packaged_data_fits_its_schemas() -> None:
    for path in PACKAGED.glob("roster-*.yml"):
        assert load_roster(path.stem.removeprefix("roster-")).models
