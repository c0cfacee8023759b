"""What llama.cpp does with tokens because of their texts, whatever a GGUF says about them.

It knows some texts by heart, and it looks for added tokens one after another, longest first, where the library
`tokenizers` looks for all of them at once, from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
# It ends at each of these.
ENDS = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>",
     "_<EOT>", "<|end_of_text|>", "<|call|>", "<|calls|>", "<|flush|>", "</s>", "[EOT]", "[EOS]", "<end_of_utterance>",
     "<eos>", "<turn|>", "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[")
)  # fmt: skip
# It ends at one of each line, too: padding, repository and file of a model for code.
_CODE_ENDS = frozenset(
    ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
     "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>",
     "<|file_sep|>")
)  # fmt: skip
_CODE = frozenset(
    f"{opening}{word}{closing}"
    for opening, words, closing in (
        ("<|", ("fim_prefix", "fim_suffix", "fim_middle", "code_prefix", "code_suffix", "code_middle"), "|>"),
        ("<|", ("prefix", "suffix", "middle"), "|>"),
        ("<", ("fim-prefix", "fim-suffix", "fim-middle", "fim_prefix", "fim_suffix", "fim_middle"), ">"),
        ("<", ("PRE", "SUF", "MID"), ">"),
        ("\u2581<", ("PRE", "SUF", "MID"), ">"),
        ("<\uff5c", ("fim\u2581begin", "fim\u2581hole", "fim\u2581end"), "\uff5c>"),
    )
    for word in words
)
_SHOWN = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))
# Names of models for which it cuts the blanks beside special tokens; it may not load one that lacks a token of theirs.
_MODELS = re.compile(r"phi-?3|modern-bert", re.IGNORECASE | re.ASCII)


def _alphabet() -> frozenset[str]:
    """The 256 characters that stand for bytes: printable ones for themselves, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return frozenset([*map(chr, printable), *(chr(256 + number) for number in range(256 - len(printable)))])


ALPHABET = _alphabet()


def changes_tokens(name: str) -> bool:
    """Whether llama.cpp treats the tokens of a model of this name in a way of their own."""
    return _MODELS.search(name) is not None


def other_ends(ids: Mapping[str, int], said: Collection[int]) -> list[str]:
    """The texts at which it ends although no file of the model says so."""
    return sorted(text for text in (ENDS | _CODE_ENDS) & ids.keys() if ids[text] not in said)


def other_kinds(ids: Mapping[str, int], kinds: Mapping[int, int]) -> Iterator[str]:
    """The tokens that it takes for others than the files say, in words."""
    for texts, kind, what in (
        (ENDS | _CODE_ENDS | _CODE, CONTROL, "a control token, which it finds in a text and does not write out"),
        (_SHOWN, USER_DEFINED, "a token that is written out"),
    ):
        changed = sorted(text for text in texts & ids.keys() if kinds.get(ids[text], UNUSED) != kind)
        if changed:
            yield f"{', '.join(changed)}: llama.cpp takes such a text for {what}; transformers goes by the files"
    strange = [text for text, number in ids.items() if kinds[number] == NORMAL and not ALPHABET.issuperset(text)]
    if strange:
        yield (
            f"characters that stand for no byte in {strange[0]!r} ({len(strange)} such tokens in all): llama.cpp "
            "writes [UNK_BYTE_...] for these, transformers the text"
        )


def cut_otherwise(plain: Collection[str], normalized: Collection[str]) -> str | None:
    """A text in which llama.cpp finds other added tokens than transformers does; None where there is none.

    Args:
        plain: the added tokens that are looked for in the text as it is.
        normalized: those that are looked for in what is left of it.
    """
    tokens = {*plain, *normalized}
    beginning: dict[str, list[str]] = {}
    for token in sorted(tokens):
        for length in range(1, len(token)):
            beginning.setdefault(token[:length], []).append(token)
    meeting = {
        (token[:at] + other, other)
        for token in tokens
        for at in range(1, len(token))
        for other in beginning.get(token[at:], ())
    }
    # A text that holds another one matters only where that one is looked for first.
    inside = {(token, token) for token in normalized for other in plain if other in token}
    for text, last in sorted(meeting | inside):
        here = [token for token in tokens if token in text]
        library = [[token for token in here if token in group] for group in (plain, normalized)]
        longest_first = sorted(here, key=lambda token: (-len(token.encode()), token != last, token))
        if _cut(text, library) != _cut(text, [[token] for token in longest_first]):
            return text
    return None


def _cut(text: str, groups: Sequence[Sequence[str]]) -> list[tuple[str, bool]]:
    """The pieces of a text, and whether each is a token, when one group of tokens is looked for after another."""
    pieces = [(text, False)]
    for group in filter(None, groups):
        found = re.compile(f"({'|'.join(re.escape(token) for token in sorted(group, key=len, reverse=True))})")
        pieces = [
            (part, known or at % 2 == 1)
            for piece, known in pieces
            for at, part in enumerate([piece] if known else found.split(piece))
            if part
        ]
    return pieces
