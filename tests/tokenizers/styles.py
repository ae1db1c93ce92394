"""Tiny tokenizers in the styles of published models, written as their folders are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

TEXT = [
    "The quick brown fox jumps over the lazy dog. It's 1,234 o'clock, isn't it? They'll say so.\n\n",
    "def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(f(i))\n",
    "naïve café Ångström über straße; 漢字かな한국어 مرحبا мир Σίσυφος 🧑\u200d🌾 🎉\n",
    "    indented\t\ttabs and      spaces\r\nwindows lines 12345 67890 3.14\n",
] * 5
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _byte_level(pre: object, specials: list[str], size: int = 420) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    return backend


def _split(pattern: str) -> pre_tokenizers.Sequence:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2(folder: Path) -> None:
    backend = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    _write(folder, backend, "GPT2Tokenizer", eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def gpt2_files(folder: Path) -> None:
    backend = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    backend.model.save(str(folder))
    _config(folder, tokenizer_class="GPT2Tokenizer")


def roberta_files(folder: Path) -> None:
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), specials).model.save(str(folder))
    _config(folder, tokenizer_class="RobertaTokenizer", model_max_length=512)


def qwen2_files(folder: Path) -> None:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    _byte_level(_split(LLAMA3.replace("{1,3}", "")), specials).model.save(str(folder))
    marked = {
        str(n): {"content": token, "special": True, "lstrip": False, "rstrip": False, "normalized": False}
        for n, token in enumerate(specials)
    }
    _config(folder, tokenizer_class="Qwen2Tokenizer", added_tokens_decoder=marked, eos_token="<|im_end|>")


def smollm(folder: Path) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    pre = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend = _byte_level(pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    _write(
        folder, backend, "GPT2Tokenizer", eos_token="<|im_end|>", bos_token="<|im_start|>", unk_token="<|endoftext|>"
    )


def llama3(folder: Path) -> None:
    backend = _byte_level(_split(LLAMA3), ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    backend.model.ignore_merges = True
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair=None, special_tokens=[("<|begin_of_text|>", 0)]
    )
    _write(folder, backend, "PreTrainedTokenizerFast", eos_token="<|eot_id|>", bos_token="<|begin_of_text|>")


def qwen2(folder: Path) -> None:
    backend = _byte_level(_split(LLAMA3.replace("{1,3}", "")), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.normalizer = normalizers.NFC()
    backend.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    _write(folder, backend, "Qwen2Tokenizer", eos_token="<|im_end|>", pad_token="<|endoftext|>")


def bert(folder: Path) -> None:
    _write(folder, _wordpiece(True), "BertTokenizer", do_lower_case=True, model_max_length=128)


def bert_cased(folder: Path) -> None:
    # The settings overrule the vocabulary file, which says that text is lowercased.
    _write(folder, _wordpiece(True), "BertTokenizer", do_lower_case=False)


def bert_files(folder: Path) -> None:
    vocab = sorted(_wordpiece(True).get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(token for token, _ in vocab) + "\n", encoding="utf-8")
    _config(folder, tokenizer_class="BertTokenizer", do_lower_case=True)


def _wordpiece(lowercase: bool) -> Backend:
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.enable_truncation(16)  # as MiniLM's file does; it must not cut texts short
    backend.enable_padding(length=16)
    return backend


def llama2(folder: Path) -> None:
    _write(folder, sentencepiece(), "LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=True)


def sentencepiece() -> Backend:
    """SentencePiece's BPE with byte fallback, as in Llama 1 and 2 and Mistral."""
    specials = ["<unk>", "<s>", "</s>"]
    seed = Backend(models.BPE())
    seed.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    seed.pre_tokenizer = pre_tokenizers.Metaspace()
    seed.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    model = json.loads(seed.to_str())["model"]
    tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    vocab = {token: n for n, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in model["merges"]]
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return backend


def _write(folder: Path, backend: Backend, tokenizer_class: str, **config: object) -> None:
    backend.save(str(folder / "tokenizer.json"))
    _config(folder, tokenizer_class=tokenizer_class, **config)


def _config(folder: Path, **config: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


STYLES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        *(gpt2, gpt2_files, roberta_files, qwen2_files, smollm, llama3, qwen2),
        *(bert, bert_cased, bert_files, llama2),
    )
}
