"""Tokenizers out of the metadata of GGUF files.

Three of llama.cpp's kinds: "gpt2" (byte-level BPE), "llama" (SentencePiece's BPE, which it works from scores) and
"bert" (WordPiece). The keys are those of the GGUF specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, get_args

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordPiece

from scratchlm.errors import UserError
from scratchlm.tokenizers.foreign import template
from scratchlm.tokenizers.parts import Kind, Parts, careful
from scratchlm.tokenizers.pretokenizers import NORMALISED, WHOLE_WORDS, pre_tokenizer
from scratchlm.tokenizers.tokenizer import Tokenizer

PREFIX = "tokenizer.ggml."
WHOLE_FILE = "tokenizer.huggingface.json"
OWN_KIND, OWN_UNKNOWN = "scratchlm.tokenizer_kind", "scratchlm.tokenizer_unknown"
"""Of tokenizers made here, which are opened from the whole file."""
ROLE_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "cls": "cls_token_id",
    "sep": "seperator_token_id",  # the specification's spelling
}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


class TokenType(IntEnum):
    """What an entry of the vocabulary is; the numbers are GGUF's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describe.

    Raises:
        UserError: there is none, it is damaged, or of a kind that is not supported.
    """
    make = _own if OWN_KIND in metadata else lambda found: Tokenizer.from_parts(_parts(_Keys(found)))
    return careful(lambda: make(metadata), "the file's tokenizer")


def _own(metadata: Mapping[str, Any]) -> Tokenizer:
    keys = _Keys(metadata)
    kind, unknown = metadata[OWN_KIND], metadata.get(OWN_UNKNOWN)
    if kind not in get_args(Kind) or unknown not in ("error", "token"):
        raise UserError(f"{OWN_KIND} is {str(kind)[:40]!r}, which this version does not know")
    backend = Backend.from_str(str(metadata.get(WHOLE_FILE)))
    ids = {role: keys.get(name, int) for role, name in ROLE_KEYS.items()}
    roles = {role: backend.id_to_token(i) for role, i in ids.items() if i is not None and i >= 0}
    if roles.get("bos") == roles.get("eos"):
        roles.pop("bos", None)  # written because llama.cpp wants one
    known = {role: token for role, token in roles.items() if token is not None}
    return Tokenizer(backend, kind, unknown=unknown, roles=known, chat_template=keys.chat_template)


class _Keys:
    """The tokenizer's keys, each checked for its type when it is asked for."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        value = self._metadata.get(PREFIX + name)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"{PREFIX}{name} is {str(value)[:40]!r}, not of the type {kind.__name__}; fetch it again")
        return value

    def strings(self, name: str) -> list[str]:
        value = self._metadata.get(PREFIX + name)
        if not isinstance(value, list) or not value:
            raise UserError(f"{PREFIX}{name} is missing, so the file has no tokenizer that can be used; fetch it again")
        return value

    def numbers(self, name: str, count: int) -> list[Any] | None:
        value = self._metadata.get(PREFIX + name)
        if value is None:
            return None
        numbers: list[Any] = value.tolist() if hasattr(value, "tolist") else []
        if len(numbers) != count:
            raise UserError(f"{PREFIX}{name} has {len(numbers):,} entries for {count:,} tokens; fetch the file again")
        return numbers

    @property
    def chat_template(self) -> str | None:
        value = self._metadata.get("tokenizer.chat_template")
        return value if isinstance(value, str) else None


def _parts(keys: _Keys) -> Parts:
    model = keys.get("model", str)
    if model not in ("gpt2", "llama", "bert"):
        raise UserError(f"{PREFIX}model is {model!r}, which is not supported; gpt2, llama and bert are")
    tokens = keys.strings("tokens")
    types = keys.numbers("token_type", len(tokens)) or [TokenType.NORMAL] * len(tokens)
    kind: Kind
    if model == "gpt2":
        backend, kind = _byte_level(keys, tokens), "bpe"
    elif model == "llama":
        backend, kind = _sentencepiece(keys, tokens, types), "spm"
    else:
        tokens = [_wordpiece_name(token, n == TokenType.CONTROL) for token, n in zip(tokens, types, strict=True)]
        backend, kind = _wordpiece(keys, tokens), "wordpiece"
    ids = {name: keys.get(name, int) for name in {*ROLE_KEYS.values(), *_END_KEYS}}
    for name, number in ids.items():
        if number is not None and not 0 <= number < len(tokens):
            raise UserError(f"{PREFIX}{name} is {number}, the vocabulary has {len(tokens):,} tokens; fetch it again")
    special = {number for number, type_ in enumerate(types) if type_ in (TokenType.CONTROL, TokenType.UNKNOWN)}
    special |= {number for name, number in ids.items() if number is not None and name != "unknown_token_id"}
    backend.add_special_tokens([_added(tokens[number], True) for number in sorted(special)])
    own = [n for n, type_ in enumerate(types) if type_ == TokenType.USER_DEFINED and n not in special]
    backend.add_tokens([_added(tokens[number], False) for number in own])
    roles = {role: tokens[number] for role, name in ROLE_KEYS.items() if (number := ids[name]) is not None}
    if kind == "bpe":
        roles.pop("unk", None)  # byte-level BPE has no use for it
    before, after = _around(keys, model, roles)
    if before or after:
        backend.post_processor = template(backend, before, after)
    ends = frozenset(number for name in _END_KEYS if (number := ids[name]) is not None)
    return Parts(backend, kind, roles, end_ids=ends, chat_template=keys.chat_template)


def _added(token: str, special: bool) -> AddedToken:
    return AddedToken(token, special=special, normalized=False)


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    numbered = {token: number for number, token in enumerate(tokens)}
    if len(numbered) < len(tokens):
        twice = next(token for number, token in enumerate(tokens) if numbered[token] != number)
        raise UserError(f"the token {twice[:40]!r} occurs twice in the vocabulary; fetch the file again")
    return numbered


def _around(keys: _Keys, model: str, roles: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The special tokens before and after a text, with llama.cpp's defaults."""
    if model == "bert":
        cls, sep = roles.get("cls", roles.get("bos")), roles.get("sep", roles.get("eos"))
        return [cls] if cls else [], [sep] if sep else []
    start = model == "llama" or keys.get("pre", str, "default") in WHOLE_WORDS
    before = keys.get("add_bos_token", bool, start) and "bos" in roles
    after = keys.get("add_eos_token", bool, False) and "eos" in roles
    return [roles["bos"]] if before else [], [roles["eos"]] if after else []


def _byte_level(keys: _Keys, tokens: list[str]) -> Backend:
    merges: list[tuple[str, str]] = []
    for merge in keys.strings("merges"):
        cut = merge.find(" ", 1)  # a symbol may begin with a space, in old files
        if cut < 0:
            raise UserError(f"the merge {merge[:40]!r} is not two symbols; fetch the file again")
        merges.append((merge[:cut], merge[cut + 1 :]))
    name = keys.get("pre", str, "default")
    backend = Backend(BPE(_numbered(tokens), merges, fuse_unk=False, ignore_merges=name in WHOLE_WORDS))
    if name in NORMALISED:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizer(name)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(keys: _Keys, tokens: list[str], types: list[int]) -> Backend:
    """llama.cpp joins, again and again, the two neighbours whose union is the token of the highest score, the leftmost
    of equals. BPE does the same when the ways to make each token are its merges, in the order of the scores."""
    scores = keys.numbers("scores", len(tokens))
    if scores is None:
        raise UserError(f"{PREFIX}scores is missing, by which tokens are joined; fetch the file again")
    vocabulary = _numbered(tokens)
    joinable = {
        token for token, type_ in zip(tokens, types, strict=True)
        if type_ in (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
    }  # fmt: skip
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for token in joinable:
        if len(token) > _LONGEST_TOKEN:
            raise UserError(f"the token {token[:40]!r}... has {len(token):,} characters; fetch the file again")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[vocabulary[token]], vocabulary[left], vocabulary[right], (left, right)))
    ranked.sort()
    unknown = keys.get("unknown_token_id", int)
    spelled = {f"<0x{byte:02X}>" for byte in range(256)} <= vocabulary.keys()
    backend = Backend(
        BPE(
            vocabulary,
            [pair for *_, pair in ranked],
            unk_token=tokens[unknown] if unknown is not None and 0 <= unknown < len(tokens) else None,
            fuse_unk=True,
            byte_fallback=spelled,
        )
    )
    space = keys.get("add_space_prefix", bool, True)
    steps = [normalizers.Prepend("\u2581")] if space else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    drop = [decoders.Strip(" ", 1, 0)] if space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *drop]
    )
    return backend


_LONGEST_TOKEN = 512


def _wordpiece_name(token: str, special: bool) -> str:
    """GGUF marks the tokens that begin a word; BERT marks those that go on with one."""
    if special or (token.startswith("[") and token.endswith("]")):
        return token
    return token[1:] if token.startswith("\u2581") else f"##{token}"


def _wordpiece(keys: _Keys, tokens: list[str]) -> Backend:
    vocabulary = _numbered(tokens)
    unknown = keys.get("unknown_token_id", int)
    name = tokens[unknown] if unknown is not None and 0 <= unknown < len(tokens) else "[UNK]"
    backend = Backend(WordPiece(vocabulary, unk_token=name))
    # llama.cpp lowercases and strips accents, always; a vocabulary with capitals was made for text as it is.
    cased = any(token != token.lower() for token in tokens if not token.startswith("["))
    backend.normalizer = normalizers.BertNormalizer(lowercase=not cased, strip_accents=not cased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend
