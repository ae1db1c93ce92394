"""Texts and words as token ids, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from scratchlm.tokenizers import Tokenizer

Part = tuple[Sequence[int], Sequence[int]]
"""Ids and targets."""


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, nothing added: all at once where the tokenizer has no faster way of its own.

    Raises:
        UserError: something is not in the vocabulary.
    """
    if not tokenizer.foreign or tokenizer.safe_cut("a b") is not None:
        return [tokenizer.encode(text) for text in texts]
    return [one.ids for one in tokenizer.backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def encode_words(tokenizer: Tokenizer, sentences: Iterable[Sequence[str]]) -> Iterator[list[list[int]]]:
    """The sub-tokens of each word of each sentence, as those of words with single spaces between them."""
    whole = list(sentences)
    spaced = tokenizer.kind == "bpe"  # the others mark a word's start themselves, or not at all
    forms = [[f" {word}" if spaced and n else word for n, word in enumerate(words)] for words in whole]
    distinct = list(dict.fromkeys(word for words in forms for word in words))
    known = dict(zip(distinct, encode_texts(tokenizer, distinct), strict=True))
    return ([known[word] for word in words] for words in forms)
