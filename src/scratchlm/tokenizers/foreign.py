"""Tokenizers of published models, from the files in their folders.

What the files mean is decided as ``transformers`` does: tokenizer.json says most of it, but the class named in
tokenizer_config.json overrules some of its settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordPiece

from scratchlm.errors import UserError
from scratchlm.reading import read_text
from scratchlm.tokenizers.parts import Parts, add_specials, careful, kind_of, state_of
from scratchlm.tokenizers.pretokenizers import pre_tokenizer

ROLE_NAMES = ("bos", "eos", "unk", "pad", "mask", "cls", "sep")
_LONGEST = 1_000_000
"""A model_max_length above this means "not known"."""
_BERT: dict[str, str] = {"unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]", "cls": "[CLS]", "sep": "[SEP]"}
_ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"}
_DEFAULTS: dict[str, dict[str, str]] = {
    "gpt2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
    "bert": _BERT,
    "distilbert": _BERT,
    "electra": _BERT,
    "roberta": _ROBERTA,
    "llama": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "qwen2": {"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
}
"""Family -> the tokens that its class in ``transformers`` assumes where the files name none."""


def read_folder(folder: Path) -> Parts:
    """The tokenizer in a model's folder.

    Raises:
        UserError: there is none, a file is damaged, or it is of a kind that is not supported.
    """
    config = read_json(folder / "tokenizer_config.json")
    tokens = read_json(folder / "special_tokens_map.json") | {k: v for k, v in config.items() if k.endswith("_token")}
    family = _family(folder, config)
    stated = {role: token for role in ROLE_NAMES if (token := _content(tokens.get(f"{role}_token"))) is not None}
    roles = _DEFAULTS.get(family, {}) | stated
    backend = _backend(folder, config, family, roles)
    known = backend.get_vocab(with_added_tokens=True)
    roles = {role: token for role, token in roles.items() if token in known or role in stated}
    _add_tokens(backend, config, tokens, roles)
    if "tokenizer.json" in _names(folder):
        careful(lambda: _overrule(backend, config, family, roles), str(folder / "tokenizer_config.json"))
    elif family == "roberta":
        ids = {role: backend.token_to_id(roles[role]) for role in ("cls", "sep")}
        backend.post_processor = processors.RobertaProcessing(
            (roles["sep"], ids["sep"]), (roles["cls"], ids["cls"]), add_prefix_space=False
        )
    elif family == "bert":
        backend.post_processor = processors.BertProcessing(
            *((roles[role], backend.token_to_id(roles[role])) for role in ("sep", "cls"))
        )
    kind = kind_of(backend)
    if kind == "bpe":
        roles.pop("unk", None)  # byte-level BPE has no use for it: what plays this role is another token's second job
    length = config.get("model_max_length")
    return Parts(
        backend,
        kind,
        roles,
        end_ids=_end_ids(folder, backend),
        chat_template=_chat_template(folder, config),
        max_length=int(length) if isinstance(length, int | float) and 0 < length <= _LONGEST else None,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        UserError: the file is no JSON object.
    """
    try:
        values = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({str(error)[:80]}); fetch it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; fetch it again")
    return values


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _family(folder: Path, config: Mapping[str, Any]) -> str:
    name = config.get("tokenizer_class")
    if isinstance(name, str) and not name.startswith("PreTrainedTokenizer"):
        return name.removesuffix("Fast").removesuffix("Tokenizer").lower()
    model = read_json(folder / "config.json").get("model_type")
    has_class = isinstance(name, str)  # PreTrainedTokenizerFast: no class with settings of its own
    return model if isinstance(model, str) and not has_class else ""


def _content(token: Any) -> str | None:
    """A token is written as a string, or as an object with its ways of matching."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def _token(value: Any, special: bool = True) -> AddedToken | None:
    content = _content(value)
    if content is None:
        return None
    # RoBERTa's mask takes the space before it in, unless its own flags say otherwise.
    flags = value if isinstance(value, dict) else {"lstrip": content == "<mask>"}
    ways = {name: bool(flags.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(content, normalized=bool(flags.get("normalized", False)), special=special, **ways)


def _backend(folder: Path, config: Mapping[str, Any], family: str, roles: Mapping[str, str]) -> Backend:
    names = _names(folder)
    if "tokenizer.json" in names:
        path = folder / "tokenizer.json"
        backend = careful(lambda: Backend.from_str(read_text(path)), str(path))
        backend.no_truncation()
        backend.no_padding()
        return backend
    if {"vocab.json", "merges.txt"} <= names:
        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        return careful(lambda: _bpe(vocabulary, merges, family), f"{vocabulary} with {merges.name}")
    if "vocab.txt" in names:
        path = folder / "vocab.txt"
        return careful(lambda: _wordpiece(path, config, roles), str(path))
    if "tokenizer.model" in names:
        raise UserError(
            f"{folder} has its tokenizer as tokenizer.model alone; open it once with transformers.AutoTokenizer and "
            "save it again, which writes tokenizer.json"
        )
    raise UserError(f"{folder} has no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor vocab.txt")


def _bpe(vocabulary: Path, merges: Path, family: str) -> Backend:
    vocab = read_json(vocabulary)
    lines = read_text(merges).split("\n")
    # The first line tells the version; the last is empty; a merge is two symbols, a line like "# #" among them.
    pairs = [
        tuple(line.split(" ")) for n, line in enumerate(lines) if line.strip() and not (n == 0 and "version" in line)
    ]
    backend = Backend(BPE(vocab, pairs, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    if family == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizer("qwen2" if family == "qwen2" else "gpt-2")
    backend.decoder = decoders.ByteLevel()
    return backend


def _wordpiece(path: Path, config: Mapping[str, Any], roles: Mapping[str, str]) -> Backend:
    words = read_text(path).split("\n")
    if words and not words[-1]:
        words.pop()
    vocab = {word.rstrip("\r"): number for number, word in enumerate(words)}
    backend = Backend(WordPiece(vocab, unk_token=roles.get("unk", "[UNK]")))
    backend.normalizer = _bert_normalizer(config)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    for role in ("cls", "sep"):
        if roles.get(role, _BERT[role]) not in vocab:
            raise UserError(f"{path} lacks {roles.get(role, _BERT[role])!r}; it is no BERT vocabulary, fetch it again")
    return backend


def _bert_normalizer(config: Mapping[str, Any]) -> normalizers.BertNormalizer:
    accents = config.get("strip_accents")
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=accents if isinstance(accents, bool) else None,
        lowercase=bool(config.get("do_lower_case", True)),
    )


def _add_tokens(
    backend: Backend, config: Mapping[str, Any], tokens: Mapping[str, Any], roles: Mapping[str, str]
) -> None:
    """Mark as special what the settings call so and the vocabulary file does not."""
    marked = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder")
    wanted: list[AddedToken] = []
    plain: list[AddedToken] = []
    for _, value in sorted(listed.items(), key=lambda item: _number(item[0])) if isinstance(listed, dict) else ():
        token = _token(value, isinstance(value, dict) and bool(value.get("special", False)))
        if token is not None and token.content not in marked:
            (wanted if token.special else plain).append(token)
            marked.add(token.content)
    extra = tokens.get("additional_special_tokens") or config.get("additional_special_tokens") or []
    for value in [
        *(tokens.get(f"{role}_token", roles[role]) for role in roles),
        *(extra if isinstance(extra, list) else []),
    ]:
        token = _token(value)
        if token is not None and token.content not in marked:
            wanted.append(token)
            marked.add(token.content)
    if wanted:
        add_specials(backend, wanted)
    if plain:
        backend.add_tokens(plain)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _overrule(backend: Backend, config: Mapping[str, Any], family: str, roles: Mapping[str, str]) -> None:
    """The settings of tokenizer_config.json that win over tokenizer.json."""
    if family in ("bert", "distilbert", "electra") and state_of(backend.normalizer).get("type") == "BertNormalizer":
        made = _bert_normalizer(config)
        made.clean_text = state_of(backend.normalizer)["clean_text"]
        backend.normalizer = made
    cutter = state_of(backend.pre_tokenizer)
    space = bool(config.get("add_prefix_space", False))
    if cutter.get("type") == "ByteLevel" and cutter["add_prefix_space"] != space:
        cutter["add_prefix_space"] = space
        del cutter["type"]
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(**cutter)
    if family in ("llama", "codellama", "gemma"):
        before = [roles["bos"]] if config.get("add_bos_token", True) and "bos" in roles else []
        after = [roles["eos"]] if config.get("add_eos_token", False) and "eos" in roles else []
        backend.post_processor = template(backend, before, after)


def template(backend: Backend, before: list[str], after: list[str]) -> processors.TemplateProcessing:
    """A post-processor that puts special tokens around each text."""
    pair = [*before, "$B:1", *after]
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(part if part == "$B:1" else f"{part}:1" for part in pair)],
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys([*before, *after])],
    )


def _end_ids(folder: Path, backend: Backend) -> frozenset[int]:
    """The ids that the model's settings name as ends of a text."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        found.update(i for i in values if isinstance(i, int) and not isinstance(i, bool))
    return frozenset(i for i in found if backend.id_to_token(i) is not None if i >= 0)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """From chat_template.jinja, or from the settings, where several may stand under names."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({str(error)[:80]}); fetch it again") from error
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None
