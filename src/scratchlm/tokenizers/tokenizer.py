"""The tokenizer: a Hugging Face ``tokenizers.Tokenizer`` underneath, our speed and our error messages on top."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from scratchlm.errors import UserError
from scratchlm.reading import read_text
from scratchlm.tokenizers.decoding import Pieces, StreamDecoder
from scratchlm.tokenizers.foreign import read_folder, read_json
from scratchlm.tokenizers.parts import (
    END_TOKENS,
    Kind,
    Parts,
    around,
    careful,
    cuts_at_spaces,
    simple_specials,
    state_of,
)
from scratchlm.tokenizers.segments import SegmentEncoder, safe_cut
from scratchlm.tokenizers.unknown import unknown_character, unknown_word

Unknown = Literal["error", "token"]
Ids = NDArray[np.unsignedinteger]

ROLES = {"pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]", "bos": "[BOS]", "eos": "[EOS]"}
"""How a special token of each role is spelled in the vocabularies made here. ``<|endoftext|>`` also plays ``eos``."""


class Tokenizer:
    """Text to ids and back.

    ``kind`` is "char", "word", "bpe", "wordpiece" or, for tokenizers made elsewhere, "spm" (SentencePiece's BPE).
    ``unknown`` says what becomes of text outside the vocabulary: "error" raises a :class:`UserError` that names it,
    "token" writes the unknown token. Decoding is exact for characters and BPE; words come back joined by single spaces.

    ``foreign`` tokenizers were made elsewhere: the backend alone decides their ids.
    """

    def __init__(
        self,
        backend: Backend,
        kind: Kind,
        *,
        unknown: Unknown,
        roles: Mapping[str, str],
        end_ids: Iterable[int] = (),
        chat_template: str | None = None,
        max_length: int | None = None,
        foreign: bool = False,
    ) -> None:
        self._backend = backend
        self.kind: Kind = kind
        self.unknown: Unknown = unknown
        self.roles = dict(roles)
        self.foreign = foreign
        self.chat_template = chat_template
        """The Jinja template that makes a text of messages; see :mod:`scratchlm.tokenizers.chat`."""
        self.max_length = max_length
        """The longest sequence that the model behind it takes, in tokens, where the tokenizer's files say it."""
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        added = backend.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(i for i, token in added.items() if token.special or not foreign)
        self.pad_id, self.unk_id, self.mask_id, self.bos_id, self.eos_id = (
            backend.token_to_id(roles[role]) if role in roles else None for role in ROLES
        )
        ends = {i for i in self.special_ids if foreign and added[i].content in END_TOKENS} | set(end_ids)
        self.eos_ids: frozenset[int] = frozenset(ends if self.eos_id is None else ends | {self.eos_id})
        """All ids that end a text, the end of a turn in a chat included."""
        # Special tokens spelled in ordinary text are ordinary text; encode() itself finds them where it should.
        backend.encode_special_tokens = True
        self._specials = {self.token(i): i for i in sorted(self.special_ids)}
        by_length = sorted(self._specials, key=len, reverse=True)
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, by_length)) + ")") if by_length else None
        self.dtype = smallest_dtype(self.vocab_size)
        """The smallest unsigned integer that holds every id: uint8, uint16 or uint32."""

    @classmethod
    def from_parts(cls, parts: Parts) -> Tokenizer:
        """A tokenizer made elsewhere."""
        return cls(
            parts.backend,
            parts.kind,
            unknown="token",
            roles=parts.roles,
            end_ids=parts.end_ids,
            chat_template=parts.chat_template,
            max_length=parts.max_length,
            foreign=True,
        )

    @classmethod
    def open(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a run or of a published model, from its files: tokenizer.json, or vocab.json and merges.txt,
        or vocab.txt, with the settings beside them.

        Raises:
            UserError: there is none, a file is damaged, or it is of a kind that is not supported.
        """
        folder = Path(folder)
        if "scratchlm_kind" in read_json(folder / "tokenizer_config.json"):
            return cls.load(folder)
        return cls.from_parts(read_folder(folder))

    @property
    def backend(self) -> Backend:
        """The library's tokenizer underneath. Not to be changed."""
        return self._backend

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What ``add_special`` puts before a text: [CLS], <s>, or nothing."""
        return self._around[0]

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """What ``add_special`` puts after a text: [SEP], </s>, or nothing."""
        return self._around[1]

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return around(self._backend) if self.foreign else ((), ())

    def encode(self, text: str, *, allow_special: bool = False, add_special: bool = False) -> list[int]:
        """The ids of ``text``.

        With ``allow_special``, "[MASK]" and its like become the special tokens; without it they are text like any
        other, so that a corpus cannot smuggle them in. With ``add_special`` the tokens that the model expects around a
        text are added.

        Raises:
            UserError: with ``unknown="error"``, something is not in the vocabulary; the line says what and where.
        """
        ids: list[int] = self.encode_array(text, allow_special=allow_special).tolist()
        return [*self.prefix_ids, *ids, *self.suffix_ids] if add_special else ids

    def encode_array(self, text: str, *, allow_special: bool = False) -> Ids:
        """As :meth:`encode`, as an array (tokens,) in :attr:`dtype`; fast on large texts."""
        if not (allow_special and self._special_pattern):
            return self._encode_plain(text, text, 0)
        if self._seeing_specials is not None:
            return self._encode_whole(self._seeing_specials, text, text, 0)
        parts, offset = [], 0
        for number, part in enumerate(self._special_pattern.split(text)):
            special = number % 2 == 1  # re.split with one group alternates text and match
            parts.append(
                np.array([self._specials[part]], self.dtype) if special else self._encode_plain(part, text, offset)
            )
            offset += len(part)
        return np.concatenate(parts)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of ``text``, special tokens found, and for each the (start, end) of the characters that it stands
        for. For tokenizers made elsewhere.

        Raises:
            ValueError: this one was made here.
        """
        if not self.foreign:
            raise ValueError("only tokenizers made elsewhere tell offsets")
        if self._seeing_specials is None:
            raise ValueError(f"a tokenizer of the kind {self.kind!r} encodes a text's parts as the whole")
        encoding = self._seeing_specials.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD.

        Published models often have a few ids more than their tokenizers, to fill up a round number; these are nothing.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        numbers = [int(i) for i in ids]
        if self.foreign:
            numbers = [i for i in numbers if i < self.vocab_size]
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.vocab_size:
            raise ValueError(f"ids go from 0 to {self.vocab_size - 1}, not from {min(numbers)} to {max(numbers)}")
        if skip_special:
            numbers = [i for i in numbers if i not in self.special_ids]
        return self._pieces.text(numbers)

    def stream(self, skip_special: bool = False) -> StreamDecoder:
        """A decoder for tokens that arrive one by one."""
        skipped: frozenset[int] = self.special_ids if skip_special else frozenset()
        return StreamDecoder(self._pieces, skipped, self.vocab_size if self.foreign else None)

    def bytes_of(self, token_id: int) -> bytes:
        """What an id adds to a text that has begun, as UTF-8 (of byte-level tokens perhaps a part of a character)."""
        return self._pieces.later[token_id].encode() if self._pieces.bytes is None else self._pieces.bytes[token_id]

    def token(self, token_id: int) -> str:
        """How the vocabulary spells an id (byte-level BPE writes a space as "Ġ"; use :meth:`decode` to show it).

        Raises:
            ValueError: no such id.
        """
        token: str | None = self._backend.id_to_token(int(token_id)) if token_id >= 0 else None
        if token is None:
            raise ValueError(f"there is no token {token_id}; ids go from 0 to {self.vocab_size - 1}")
        return token

    def id_of(self, token: str) -> int | None:
        """The id of a vocabulary entry, special tokens included; None if there is none."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def safe_cut(self, text: str) -> int | None:
        """The last offset at which ``text`` can be cut so that its parts encode as the whole; None: nowhere."""
        if self.foreign and not self._in_segments:
            return None
        return len(text) if self.kind == "char" else safe_cut(text)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over everything that decides the ids: equal for equal tokenizers, in every process."""
        return hashlib.sha256(f"{self.kind} {self.unknown} {self._backend.to_str()}".encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which ``transformers.AutoTokenizer`` opens as well."""
        config: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "scratchlm_kind": self.kind,
            "scratchlm_unknown": self.unknown,
        }
        config |= {f"{role}_token": token for role, token in self.roles.items()}
        if self.foreign:
            config |= {"scratchlm_foreign": True, "scratchlm_end_ids": sorted(self.eos_ids)}
            config["add_prefix_space"] = bool(state_of(self._backend.pre_tokenizer).get("add_prefix_space", False))
        if self.max_length is not None:
            config["model_max_length"] = self.max_length
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf-8", newline="\n")
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Open what :meth:`save` wrote.

        Raises:
            UserError: a file is missing, damaged, or was not written here.
        """
        vocabulary, settings = Path(folder) / "tokenizer.json", Path(folder) / "tokenizer_config.json"
        for path in (vocabulary, settings):
            if not path.is_file():
                raise UserError(f"{path} is missing; give a folder in which a run saved its tokenizer")
        try:
            config = json.loads(read_text(settings))
            kind, unknown = config["scratchlm_kind"], config["scratchlm_unknown"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{settings} is damaged or was not written by scratchlm; restore it or train again"
            ) from error
        backend = careful(lambda: Backend.from_str(read_text(vocabulary)), str(vocabulary))
        foreign = bool(config.get("scratchlm_foreign", False))
        names = {name.removesuffix("_token"): token for name, token in config.items() if name.endswith("_token")}
        return cls(
            backend,
            kind,
            unknown=unknown,
            roles={role: token for role, token in names.items() if isinstance(token, str)},
            end_ids=config.get("scratchlm_end_ids", ()),
            chat_template=config.get("chat_template"),
            max_length=config.get("model_max_length"),
            foreign=foreign,
        )

    # ---- encoding, one method per way of cutting text

    def _encode_plain(self, part: str, text: str, offset: int) -> Ids:
        """``part`` starts at ``offset`` of ``text``, which is needed to say where something unknown stands."""
        if self.kind == "char":
            return self._encode_characters(part, text, offset)
        if self.kind == "word":
            return self._encode_words(part, text, offset)
        if self.foreign and not self._in_segments:
            return self._encode_whole(self._backend, part, text, offset)
        try:
            ids = self._encode_segments(part)
        except (TypeError, UnicodeEncodeError):
            self._refuse_surrogates(part, text, offset)
            raise
        if self.unknown == "error" and self.unk_id is not None and bool((ids == self.unk_id).any()):
            self._refuse_wordpiece(part, text, offset)
        return ids

    def _encode_whole(self, backend: Backend, part: str, text: str, offset: int) -> Ids:
        try:
            return np.array(backend.encode_batch_fast([part], add_special_tokens=False)[0].ids, self.dtype)
        except (TypeError, UnicodeEncodeError):
            self._refuse_surrogates(part, text, offset)
            raise

    @cached_property
    def _in_segments(self) -> bool:
        return cuts_at_spaces(self._backend)

    @cached_property
    def _seeing_specials(self) -> Backend | None:
        """A second backend, which finds special tokens in a text, where :attr:`_special_pattern` would not do."""
        if not self.foreign or simple_specials(self._backend):
            return None
        backend = Backend.from_str(self._backend.to_str())
        backend.encode_special_tokens = False
        return backend

    def _encode_characters(self, part: str, text: str, offset: int) -> Ids:
        points = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        table = self._character_table
        ids = table[np.minimum(points, table.size - 1)]
        if ids.size and ids.min() < 0:
            if self.unknown == "error" or self.unk_id is None:
                place = offset + int(np.argmax(ids < 0))
                raise unknown_character(text, place, lambda c: self.id_of(c) is not None)
            ids = np.where(ids < 0, self.unk_id, ids)
        return ids.astype(self.dtype)

    def _encode_words(self, part: str, text: str, offset: int) -> Ids:
        words = part.split()
        numbers = self._words
        missing = -1 if self.unknown == "error" or self.unk_id is None else self.unk_id
        ids = np.fromiter((numbers.get(word, missing) for word in words), dtype=np.int64, count=len(words))
        if ids.size and ids.min() < 0:
            first = int(np.argmax(ids < 0))
            place = offset + next(m.start() for n, m in enumerate(re.finditer(r"\S+", part)) if n == first)
            raise unknown_word(text, place, words[first])
        return ids.astype(self.dtype)

    @cached_property
    def _words(self) -> dict[str, int]:
        return {word: i for word, i in self._backend.get_vocab().items() if i not in self.special_ids}

    @cached_property
    def _character_table(self) -> NDArray[np.int32]:
        """Code point -> id; -1 for what is unknown, as is the last entry, which stands for all higher code points."""
        points = {ord(c): i for c, i in self._backend.get_vocab().items() if i not in self.special_ids}
        table = np.full(max(points) + 2, -1, np.int32)
        table[list(points)] = list(points.values())
        return table

    @cached_property
    def _encode_segments(self) -> SegmentEncoder:
        def encode(pieces: list[str]) -> list[list[int]]:
            return [one.ids for one in self._backend.encode_batch_fast(pieces, add_special_tokens=False)]

        return SegmentEncoder(encode, self.dtype)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._backend, self.kind)

    def _refuse_surrogates(self, part: str, text: str, offset: int) -> None:
        """Half a UTF-16 pair (U+D800-U+DFFF) is no character; it comes from arguments that were not UTF-8."""
        for place, character in enumerate(part):
            if "\ud800" <= character <= "\udfff":
                raise unknown_character(text, offset + place, lambda _: False)

    def _refuse_wordpiece(self, part: str, text: str, offset: int) -> None:
        encoding = self._backend.encode(part, add_special_tokens=False)
        start, end = encoding.offsets[encoding.ids.index(self.unk_id)]
        known = self._backend.get_vocab()
        for place in range(start, end):
            if part[place] not in known:
                raise unknown_character(text, offset + place, lambda c: c in known)
        raise unknown_word(text, offset + start, part[start:end])


def smallest_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """uint8 up to 256 ids, uint16 up to 65,536, else uint32."""
    for kind in (np.uint8, np.uint16):
        if vocab_size - 1 <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.uint32)
