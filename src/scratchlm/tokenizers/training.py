"""Making vocabularies from text, in one pass over a stream, the same one every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import Tokenizer as Backend

from scratchlm.errors import UserError
from scratchlm.tokenizers.parts import Kind
from scratchlm.tokenizers.segments import WHITE_SPACE
from scratchlm.tokenizers.tokenizer import ROLES, Tokenizer, Unknown

KINDS: tuple[Kind, ...] = ("char", "word", "bpe", "wordpiece")
"""Those that can be trained here."""
DEFAULT_VOCAB_SIZE = 8192
"""For the trained kinds, where none is asked for."""
_LONGEST_WORD = 200
"""Characters; WordPiece takes a longer word for unknown rather than spend quadratic time on it."""


def train_tokenizer(
    kind: Kind,
    texts: Iterable[str],
    *,
    vocab_size: int | None = None,
    special_tokens: Sequence[str] = (),
    unknown: Unknown = "error",
) -> Tokenizer:
    """Learn a vocabulary. Special tokens come first, in the order given.

    - "char": every code point, sorted. "word": what ``str.split`` gives, sorted. ``vocab_size``, if given, is an upper
      bound: with ``unknown="token"`` the most frequent are kept, with "error" exceeding it is refused.
    - "bpe": byte-level (Radford et al. 2019), so no text is unknown. "wordpiece": Schuster & Nakajima 2012 as in BERT,
      case and accents kept. ``vocab_size`` defaults to 8,192; a small text may not fill it.

    ``texts`` are read one by one and not kept (WordPiece goes over them twice, so it keeps those of an iterator); none
    may end inside a word. "[UNK]" joins the special tokens with ``unknown="token"`` (except for "bpe") and always for
    "wordpiece".

    Raises:
        UserError: unknown kind, no text, or a vocabulary that does not fit ``vocab_size``.
    """
    if kind not in KINDS:
        raise UserError(f"there is no tokenizer {kind!r}; choose one of: {', '.join(KINDS)}")
    if unknown not in get_args(Unknown):
        raise UserError(f"unknown is {unknown!r}; choose error or token")
    specials = list(special_tokens)
    if len(set(specials)) < len(specials) or any(not token or token.split() != [token] for token in specials):
        raise ValueError(f"special tokens must be distinct and without spaces: {specials}")
    # Byte-level BPE spells everything, WordPiece cannot do without the token it looks for.
    needs_unknown = kind == "wordpiece" or (unknown == "token" and kind != "bpe")
    if needs_unknown and ROLES["unk"] not in specials:
        specials.append(ROLES["unk"])
    if kind in ("char", "word"):
        backend = _symbols(kind, texts, vocab_size, specials, unknown)
    elif kind == "bpe":
        backend = _bpe(texts, vocab_size or DEFAULT_VOCAB_SIZE, specials)
    else:
        backend = _wordpiece(texts, vocab_size or DEFAULT_VOCAB_SIZE, specials, unknown)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    roles = {role: token for role, token in ROLES.items() if token in specials}
    if "eos" not in roles and "<|endoftext|>" in specials:
        roles["eos"] = "<|endoftext|>"
    return Tokenizer(backend, kind, unknown=unknown, roles=roles)


def _symbols(
    kind: Kind, texts: Iterable[str], vocab_size: int | None, specials: list[str], unknown: Unknown
) -> Backend:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_characters(text) if kind == "char" else Counter(text.split()))
    for token in specials:
        # A word of the text that is spelled like a special token cannot be told from it, so it has no entry of its own.
        counts.pop(token, None)
    if not counts:
        raise UserError("there is no text to make a vocabulary from; give a text that is not empty")
    room = len(counts) if vocab_size is None else vocab_size - len(specials)
    if len(counts) > room and unknown == "error":
        noun = "characters" if kind == "char" else "words"
        raise UserError(
            f"the text has {len(counts):,} distinct {noun}, a vocabulary of {vocab_size:,} has room for "
            f"{max(room, 0):,}; leave out tokenizer_vocab_size, or keep the most frequent with --set unknown=token"
        )
    if room < 1:
        raise UserError(f"a vocabulary of {vocab_size} leaves no room beside {len(specials)} special tokens; raise it")
    kept = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:room]
    vocabulary = {symbol: i for i, symbol in enumerate(specials + sorted(kept))}
    backend = Backend(models.WordLevel(vocabulary, unk_token=ROLES["unk"]))
    if kind == "char":
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
    else:
        # What str.split takes for white space: Unicode's White_Space and U+001C-U+001F.
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\x{1C}-\x{1F}]+"), "removed")
    return backend


def _bpe(texts: Iterable[str], vocab_size: int, specials: list[str]) -> Backend:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _check_room(vocab_size, len(specials), len(alphabet), "bytes")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=specials,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(_not_empty(texts), trainer)
    return backend


def _wordpiece(texts: Iterable[str], vocab_size: int, specials: list[str], unknown: Unknown) -> Backend:
    if iter(texts) is texts:
        texts = list(texts)
    backend = _wordpiece_backend({token: i for i, token in enumerate(specials)})
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_characters(text))
    for space in WHITE_SPACE:
        counts.pop(space, None)
    alphabet = sorted(counts, key=lambda character: (-counts[character], character))
    if unknown == "token":
        # Rare characters must not crowd out the words: in a text with thousands of them, half of the room is theirs.
        alphabet = alphabet[: max(1, (vocab_size - len(specials)) // 4)]
    alphabet.sort()
    # Every character may also continue a word, so that a new word made of known characters is never unknown; and the
    # trainer, left alone, numbers the continuations in the order of a hash table, differently in every process.
    continuing = ["##" + character for character in alphabet if _continues(backend, character)]
    _check_room(vocab_size, len(specials), len(alphabet) + len(continuing), "characters")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=specials + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(_not_empty(texts), trainer)
    # A fresh one, because the trainer has marked the continuations as special.
    return _wordpiece_backend(backend.get_vocab())


def _wordpiece_backend(vocabulary: dict[str, int]) -> Backend:
    backend = Backend(models.WordPiece(vocabulary, unk_token=ROLES["unk"], max_input_chars_per_word=_LONGEST_WORD))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return backend


def _continues(backend: Backend, character: str) -> bool:
    """Whether a character can stand inside a word: punctuation and ideographs are words by themselves."""
    text = backend.normalizer.normalize_str("a" + character)
    return len(backend.pre_tokenizer.pre_tokenize_str(text)) == 1


def _check_room(vocab_size: int, specials: int, alphabet: int, what: str) -> None:
    if vocab_size < specials + alphabet:
        raise UserError(
            f"a vocabulary of {vocab_size:,} is too small: {alphabet:,} {what} and {specials} special tokens come "
            f"first; set tokenizer_vocab_size to at least {specials + alphabet:,}"
        )


def _characters(text: str) -> dict[str, int]:
    points, counts = np.unique(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32), return_counts=True)
    return {chr(point): count for point, count in zip(points.tolist(), counts.tolist(), strict=True)}


def _not_empty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise UserError("there is no text to make a vocabulary from; give a text that is not empty")
