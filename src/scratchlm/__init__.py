"""scratchlm: the whole life of a language model in one small library."""

__version__ = "0.1.0"
