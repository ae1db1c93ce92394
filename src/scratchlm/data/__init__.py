"""Data: named corpora and files, streams of ids, windows, masks and pairs; records, examples and their packing."""

from scratchlm.data.batch import IGNORE, Batch
from scratchlm.data.corpora import corpus_names, corpus_text
from scratchlm.data.dates import date_pairs
from scratchlm.data.examples import Examples, encode_records
from scratchlm.data.files import Document, Source, resolve_source
from scratchlm.data.masking import mask_tokens
from scratchlm.data.packing import Plan
from scratchlm.data.pairs import PairTable, encode_pairs
from scratchlm.data.rated_pairs import Pairing, pairs_from_ratings
from scratchlm.data.record_rows import ALIGNED
from scratchlm.data.records import Records, Splits, join_validation, read_records, split_records
from scratchlm.data.split import iter_texts
from scratchlm.data.stream import TokenStream, open_stream, prepare_stream
from scratchlm.data.vocabulary import learn_tokenizer
from scratchlm.data.windows import every_block, every_window, sample_blocks, sample_windows

__all__ = [
    "ALIGNED",
    "IGNORE",
    "Batch",
    "Document",
    "Examples",
    "PairTable",
    "Pairing",
    "Plan",
    "Records",
    "Source",
    "Splits",
    "TokenStream",
    "corpus_names",
    "corpus_text",
    "date_pairs",
    "encode_pairs",
    "encode_records",
    "every_block",
    "every_window",
    "iter_texts",
    "join_validation",
    "learn_tokenizer",
    "mask_tokens",
    "open_stream",
    "pairs_from_ratings",
    "prepare_stream",
    "read_records",
    "resolve_source",
    "sample_blocks",
    "sample_windows",
    "split_records",
]
