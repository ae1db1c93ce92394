"""Tokenizers: characters, words, byte-level BPE and WordPiece, trained here or opened from published models' files."""

from scratchlm.tokenizers.chat import Chat, render_chat
from scratchlm.tokenizers.decoding import StreamDecoder
from scratchlm.tokenizers.gguf_entries import gguf_entries, with_end
from scratchlm.tokenizers.gguf_vocabulary import tokenizer_from_gguf
from scratchlm.tokenizers.tokenizer import Tokenizer
from scratchlm.tokenizers.training import KINDS, train_tokenizer
from scratchlm.tokenizers.unknown import UnknownTextError

__all__ = [
    "KINDS",
    "Chat",
    "StreamDecoder",
    "Tokenizer",
    "UnknownTextError",
    "gguf_entries",
    "render_chat",
    "tokenizer_from_gguf",
    "train_tokenizer",
    "with_end",
]
