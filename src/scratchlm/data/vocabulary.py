"""A tokenizer made from a source's training part, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from scratchlm.data.files import Source
from scratchlm.data.split import iter_texts, passages
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.tokenizers.parts import Kind
from scratchlm.tokenizers.segments import safe_cut
from scratchlm.tokenizers.tokenizer import Unknown

SAMPLE_CHARACTERS = 64_000_000
"""A trained vocabulary hardly changes with more text than this, while the trainer's memory grows."""
_PIECE = 1 << 16


def learn_tokenizer(
    source: Source,
    kind: Kind,
    *,
    validation_fraction: float,
    vocab_size: int | None = None,
    special_tokens: Sequence[str] = (),
    unknown: Unknown = "error",
    sample_characters: int = SAMPLE_CHARACTERS,
    note: Callable[[str], None] | None = None,
) -> Tokenizer:
    """Learn a tokenizer from what the model will be trained on, never from validation text.

    Characters and words are collected from all of it. BPE and WordPiece see at most ``sample_characters``, taken in
    pieces of 64 K spread evenly over the text; ``note`` is told when that leaves something out.

    Raises:
        UserError: a file cannot be read, or see :func:`scratchlm.tokenizers.train_tokenizer`.
    """
    # A text may have no white space at all, and characters need none to be told apart.
    cut = len if kind == "char" else safe_cut
    texts: _Sample | Iterator[str] = iter_texts(source, validation_fraction=validation_fraction, cut=cut)
    if kind in ("bpe", "wordpiece"):
        texts = _Sample(source, validation_fraction, sample_characters)
        if note and texts.total > sample_characters:
            note(
                f"the vocabulary is made from {sample_characters / 1e6:,.0f} of {texts.total / 1e6:,.0f} million "
                f"characters, in pieces spread evenly over the text"
            )
    return train_tokenizer(kind, texts, vocab_size=vocab_size, special_tokens=special_tokens, unknown=unknown)


class _Sample:
    """Evenly spread pieces of the training text; it can be gone over more than once."""

    def __init__(self, source: Source, validation_fraction: float, limit: int) -> None:
        self._source = source
        self._fraction = validation_fraction
        self._limit = limit
        parts = passages(source, validation_fraction)
        self.total = sum(passage.end - passage.start for passage in parts if passage.part == "train")

    def __iter__(self) -> Iterator[str]:
        seen = kept = 0
        for text in iter_texts(self._source, validation_fraction=self._fraction):
            while text:
                cut = (safe_cut(text[:_PIECE]) or _PIECE) if len(text) > _PIECE else len(text)
                piece, text = text[:cut], text[cut:]
                seen += len(piece)
                # Taken whenever the share taken so far is behind the share that fits.
                if self.total <= self._limit or (kept + len(piece)) * self.total <= self._limit * seen:
                    kept += len(piece)
                    yield piece
