"""A tokenizer as the metadata of a GGUF file, for llama.cpp to tokenise by and for us to open again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from scratchlm.errors import UserError
from scratchlm.tokenizers.decoding import byte_alphabet
from scratchlm.tokenizers.gguf_vocabulary import OWN_KIND, OWN_UNKNOWN, PREFIX, ROLE_KEYS, WHOLE_FILE, TokenType
from scratchlm.tokenizers.parts import steps_of
from scratchlm.tokenizers.pretokenizers import name_of
from scratchlm.tokenizers.tokenizer import Tokenizer

END = "<|endoftext|>"


def with_end(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, with a token that ends a text.

    llama.cpp takes token 11 for the end where none is named; so where there is none, one is added after the last.
    """
    if tokenizer.eos_ids:
        return tokenizer
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return Tokenizer(
        backend,
        tokenizer.kind,
        unknown=tokenizer.unknown,
        roles=tokenizer.roles | {"eos": END},
        chat_template=tokenizer.chat_template,
        max_length=tokenizer.max_length,
        foreign=tokenizer.foreign,
    )


def gguf_entries(tokenizer: Tokenizer, size: int, chat_template: str | None = None) -> dict[str, Any]:
    """Key -> value. The vocabulary is filled up to ``size`` tokens, as many as the model has.

    Byte-level BPE goes as "gpt2", SentencePiece's BPE as "llama". A character vocabulary goes as a "gpt2" one whose
    merges do nothing but put the bytes of a character together.

    Raises:
        UserError: llama.cpp has no such tokenizer, or the model has fewer tokens than it.
    """
    if tokenizer.vocab_size > size:
        raise UserError(f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model {size:,}; they are not a pair")
    if tokenizer.kind == "bpe":
        entries = _byte_level(tokenizer)
    elif tokenizer.kind == "spm":
        entries = _sentencepiece(tokenizer)
    elif tokenizer.kind == "char":
        entries = _characters(tokenizer)
    else:
        why = {"word": "drops the spaces between words", "wordpiece": "is BERT's, which is for encoders there"}
        raise UserError(
            f"a {tokenizer.kind} tokenizer {why[tokenizer.kind]}, which llama.cpp cannot do for a decoder; "
            "train with --set tokenizer=bpe or tokenizer=char"
        )
    tokens: list[str] = entries[f"{PREFIX}tokens"]
    types: list[int] = entries[f"{PREFIX}token_type"]
    for number in range(len(tokens), size):
        tokens.append(f"[PAD{number}]")
        types.append(TokenType.UNUSED)
    if f"{PREFIX}scores" in entries:
        entries[f"{PREFIX}scores"] += [-1e9] * (size - len(entries[f"{PREFIX}scores"]))
    entries |= _special(tokenizer)
    template = tokenizer.chat_template if chat_template is None else chat_template
    if template is not None:
        entries["tokenizer.chat_template"] = template
    if not tokenizer.foreign:
        entries |= {OWN_KIND: tokenizer.kind, OWN_UNKNOWN: tokenizer.unknown, WHOLE_FILE: tokenizer.backend.to_str()}
    return entries


def _special(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {role: tokenizer.id_of(token) for role, token in tokenizer.roles.items() if role in ROLE_KEYS}
    entries: dict[str, Any] = {f"{PREFIX}{ROLE_KEYS[role]}": i for role, i in ids.items() if i is not None}
    ends = sorted(tokenizer.eos_ids)
    eos = tokenizer.eos_id if tokenizer.eos_id is not None else ends[0]
    entries[f"{PREFIX}eos_token_id"] = eos
    others = [i for i in ends if i != eos]
    if others:
        entries[f"{PREFIX}eot_token_id"] = others[0]
    bos = entries.setdefault(f"{PREFIX}bos_token_id", eos)  # llama.cpp would take token 11 (or 1)
    before, after = tokenizer.prefix_ids, tokenizer.suffix_ids
    if before not in ((), (bos,)) or after not in ((), (eos,)):
        raise UserError("the tokenizer puts other tokens around a text than its start and end, which GGUF cannot say")
    entries[f"{PREFIX}add_bos_token"] = bool(before)
    entries[f"{PREFIX}add_eos_token"] = bool(after)
    return entries


def _listed(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """All tokens in order, gaps filled, and their types."""
    named = {i: token for token, i in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.backend.get_added_tokens_decoder()
    tokens: list[str] = []
    types: list[int] = []
    for number in range(tokenizer.vocab_size):
        tokens.append(named.get(number, f"[PAD{number}]"))
        if number not in named:
            types.append(TokenType.UNUSED)
        elif number in added:
            types.append(TokenType.CONTROL if number in tokenizer.special_ids else TokenType.USER_DEFINED)
        else:
            types.append(TokenType.NORMAL)
    return tokens, types


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.backend.to_str())["model"]
    if model.get("type") != "BPE":
        raise UserError(
            f"the tokenizer's model is {model.get('type')}, of which llama.cpp has no such form; it has BPE"
        )
    return model


def _pairs(model: dict[str, Any]) -> list[Sequence[str]]:
    return [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]


def _byte_level(tokenizer: Tokenizer) -> dict[str, Any]:
    model = _model(tokenizer)
    name = name_of(tokenizer.backend.pre_tokenizer)
    if name is None:
        raise UserError("the tokenizer cuts text in a way that llama.cpp has no name for; export it another way")
    normalised = [step["type"] for step in steps_of(tokenizer.backend.normalizer)]
    if normalised not in ([], ["NFC"]):
        raise UserError(
            f"the tokenizer changes text by {normalised[0]}, which llama.cpp does not; export it another way"
        )
    if name == "llama-bpe" and not model.get("ignore_merges"):
        name = "smaug-bpe"  # the same pattern, without taking whole words first
    tokens, types = _listed(tokenizer)
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": name,
        f"{PREFIX}tokens": tokens,
        f"{PREFIX}token_type": types,
        f"{PREFIX}merges": [" ".join(pair) for pair in _pairs(model)],
    }


def _sentencepiece(tokenizer: Tokenizer) -> dict[str, Any]:
    model = _model(tokenizer)
    steps = {step["type"]: step for step in steps_of(tokenizer.backend.normalizer)}
    cutter = steps_of(tokenizer.backend.pre_tokenizer)
    if cutter or "Replace" not in steps or set(steps) - {"Prepend", "Replace"}:
        raise UserError("the tokenizer changes or cuts text in a way that llama.cpp does not; export it another way")
    tokens, types = _listed(tokenizer)
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(_pairs(model)):
        ranks.setdefault("".join(pair), rank)
    for number, token in enumerate(tokens):
        if types[number] == TokenType.NORMAL and len(token) == 6 and token.startswith("<0x"):
            types[number] = TokenType.BYTE
    unknown = tokenizer.unk_id
    if unknown is not None:
        types[unknown] = TokenType.UNKNOWN
    return {
        f"{PREFIX}model": "llama",
        f"{PREFIX}tokens": tokens,
        f"{PREFIX}token_type": types,
        # Only a score's rank among those of tokens that can be joined from others matters.
        f"{PREFIX}scores": [float(-ranks.get(token, 0)) for token in tokens],
        f"{PREFIX}add_space_prefix": "Prepend" in steps,
    }


def _characters(tokenizer: Tokenizer) -> dict[str, Any]:
    spelled = {byte: character for character, byte in byte_alphabet().items()}
    tokens, types = _listed(tokenizer)
    merges: dict[str, None] = {}
    for number, (token, type_) in enumerate(zip(tokens, types, strict=True)):
        if type_ != TokenType.NORMAL:
            continue
        content = [spelled[byte] for byte in token.encode()]
        tokens[number] = "".join(content)
        for end in range(1, len(content)):
            merges["".join(content[:end]) + " " + content[end]] = None
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": "gpt-2",
        f"{PREFIX}tokens": tokens,
        f"{PREFIX}token_type": types,
        # llama.cpp does not take an empty list; no text holds these two, which no token joins.
        f"{PREFIX}merges": list(merges) or [f"{spelled[0xFE]} {spelled[0xFF]}"],
    }
