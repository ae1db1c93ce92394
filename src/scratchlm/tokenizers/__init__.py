"""Tokenizers: characters, words, byte-level BPE and WordPiece, all saved as a tokenizer.json that others can open."""

from scratchlm.tokenizers.decoding import StreamDecoder
from scratchlm.tokenizers.tokenizer import Tokenizer
from scratchlm.tokenizers.training import KINDS, train_tokenizer
from scratchlm.tokenizers.unknown import UnknownTextError

__all__ = ["KINDS", "StreamDecoder", "Tokenizer", "UnknownTextError", "train_tokenizer"]
