"""How published byte-level tokenizers cut a text before merging, by the names that GGUF files use for it."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, pre_tokenizers

from scratchlm.errors import UserError
from scratchlm.tokenizers.parts import steps_of

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DIGITS = "digits"
"""Each digit alone, then GPT-2's way."""
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
"""What llama.cpp does with a file that names none: one pattern after the other."""

_WAYS: dict[str, str | tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-en", "jina-es", "jina-de", "roberta-bpe"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"), _QWEN2),
    "default": _DEFAULT,
}
NORMALISED = frozenset({"qwen2", "deepseek-r1-qwen"})
"""Those whose makers bring text into Unicode's form NFC first. llama.cpp leaves that out."""
WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"})
"""Those that take a piece which is in the vocabulary as it is, whatever the merges say."""


def pre_tokenizer(name: str) -> Any:
    """The pre-tokenizer of that name, byte alphabet included.

    Raises:
        UserError: there is none.
    """
    way = _WAYS.get(name)
    if way is None:
        raise UserError(
            f"the tokenizer cuts text in the way {name[:40]!r}, which is not supported; these are: {', '.join(_WAYS)}"
        )
    if way is _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if way is _DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    patterns = (way,) if isinstance(way, str) else way
    splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def name_of(part: Any) -> str | None:
    """The name by which GGUF knows a byte-level pre-tokenizer; None where it has none."""
    wanted = [_essence(step) for step in steps_of(part)]
    for name in ("gpt-2", "smollm", "llama-bpe", "qwen2", "default"):
        if wanted == [_essence(step) for step in steps_of(pre_tokenizer(name))]:
            return name
    return None


def _essence(step: dict[str, Any]) -> dict[str, Any]:
    """What decides the ids; ``trim_offsets`` does not."""
    return {key: value for key, value in step.items() if key != "trim_offsets"}
