"""Tokenizers: characters, words, byte-level BPE and WordPiece, trained here or opened from published models' files."""

from scratchlm.tokenizers.decoding import StreamDecoder
from scratchlm.tokenizers.gguf_vocabulary import tokenizer_from_gguf
from scratchlm.tokenizers.tokenizer import Tokenizer
from scratchlm.tokenizers.training import KINDS, train_tokenizer
from scratchlm.tokenizers.unknown import UnknownTextError

__all__ = ["KINDS", "StreamDecoder", "Tokenizer", "UnknownTextError", "tokenizer_from_gguf", "train_tokenizer"]
