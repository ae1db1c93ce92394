"""What a tokenizer is made of, whichever file it came from, and how its backend must look to be understood here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from scratchlm.errors import UserError

Kind = Literal["char", "word", "bpe", "wordpiece", "spm"]
T = TypeVar("T")

END_TOKENS = (
    *("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"),
    *("<|end_of_turn|>", "<|eot|>", "<end_of_utterance>", "<EOT>", "<|return|>"),
)
"""How published models spell the token that ends a text or a turn; each counts where it is a special token."""


@dataclass(frozen=True)
class Parts:
    """A tokenizer made elsewhere."""

    backend: Backend
    kind: Kind
    roles: Mapping[str, str]
    """Role ("bos", "eos", "unk", "pad", "mask", "cls", "sep") -> the token that plays it."""
    end_ids: frozenset[int] = field(default_factory=frozenset)
    """All ids that end a text, besides those in :data:`END_TOKENS`."""
    chat_template: str | None = None
    max_length: int | None = None


def careful(make: Callable[[], T], what: str) -> T:
    """``make()``, with the tokenizer library's refusals (plain exceptions, or panics of its Rust code) as one line.

    Raises:
        UserError: it refused; the line begins with ``what``.
    """
    try:
        return make()
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{what} is damaged or of a kind that is not supported ({reason}); fetch it again") from error


def state_of(part: Any) -> dict[str, Any]:
    """The settings of a backend's normalizer, pre-tokenizer, decoder or post-processor; empty where it has none."""
    if part is None:
        return {}
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state


def steps_of(part: Any) -> list[dict[str, Any]]:
    """The same as a list, a sequence taken apart."""
    state = state_of(part)
    if state.get("type") == "Sequence":
        steps: list[dict[str, Any]] = next(value for key, value in state.items() if key != "type")
        return steps
    return [state] if state else []


def kind_of(backend: Backend) -> Kind:
    """How a backend's ids become text again, as its decoder says.

    Raises:
        UserError: in a way that is not supported.
    """
    names = [step["type"] for step in steps_of(backend.decoder)]
    if names == ["ByteLevel"]:
        return "bpe"
    if names == ["WordPiece"]:
        return "wordpiece"
    if names == ["Metaspace"] or (
        names[:1] == ["Replace"] and set(names) <= {"Replace", "ByteFallback", "Fuse", "Strip"}
    ):
        return "spm"
    raise UserError(
        f"the tokenizer decodes by {' and '.join(names) or 'nothing'}, which is not supported; "
        "byte-level BPE, SentencePiece's BPE and WordPiece are"
    )


def cuts_at_spaces(backend: Backend) -> bool:
    """Whether a text may be cut before white space that follows something else and its pieces encoded alone.

    GPT-2's pre-tokenizer allows it (see :mod:`scratchlm.tokenizers.segments`), also where digits are split off first.
    Those of Llama 3 and Qwen do not: they join line breaks to signs before them.
    """
    if any(not token.special for token in backend.get_added_tokens_decoder().values()):
        return False  # such tokens are found in any text, and may contain spaces
    steps = steps_of(backend.pre_tokenizer)
    if steps[:1] and steps[0]["type"] == "Digits" and steps[0].get("individual_digits"):
        steps = steps[1:]
    plain = len(steps) == 1 and steps[0]["type"] == "ByteLevel"
    return plain and steps[0]["use_regex"] and not steps[0]["add_prefix_space"] and backend.normalizer is None


def simple_specials(backend: Backend) -> bool:
    """Whether the backend finds special tokens as a plain search for their spelling does, and treats what lies between
    them as texts of their own: none takes spaces in, no start of a text is marked."""
    tokens = backend.get_added_tokens_decoder().values()
    marked = any(step["type"] in ("Prepend", "Metaspace") for step in steps_of(backend.normalizer))
    marked = marked or any(
        step["type"] == "Metaspace" or step.get("add_prefix_space") for step in steps_of(backend.pre_tokenizer)
    )
    return not marked and not any(
        token.lstrip or token.rstrip or token.single_word or not token.special
        or (token.normalized and backend.normalizer is not None)
        for token in tokens
    )  # fmt: skip


def around(backend: Backend) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the backend puts before and after a text."""
    encoding = backend.encode("a", add_special_tokens=True)
    ids, special = encoding.ids, encoding.special_tokens_mask
    start = next((n for n, flag in enumerate(special) if not flag), len(ids))
    end = next((n for n in range(len(ids), start, -1) if not special[n - 1]), start)
    return tuple(ids[:start]), tuple(ids[end:])


def add_specials(backend: Backend, tokens: Iterable[AddedToken | str]) -> None:
    """Mark tokens as special; those that the vocabulary lacks get ids after its last."""
    backend.add_special_tokens(
        [
            token if isinstance(token, AddedToken) else AddedToken(token, special=True, normalized=False)
            for token in tokens
        ]
    )
