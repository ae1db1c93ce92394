"""Tokenising a large text with a trained BPE: speed and peak memory, beside the library's own batch encoder.

    python benchmarks/tokenize_stream.py --size-mb 1000

The text is Tiny Shakespeare again and again with its lines shuffled and one word in fifty replaced by a new one, so
that pieces keep appearing that were never seen. Prints one JSON object: ``ours`` and ``peer`` in MB a second
(``encode_batch_fast`` over line-aligned chunks of 64 KB of the same text, in the same process), ``ratio``, and the
peak resident memory: this process's and, as an upper bound, that of the processes it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from scratchlm.data import corpus_text, learn_tokenizer, prepare_stream, resolve_source
from scratchlm.data.split import iter_texts
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.parallel import MOST_WORKERS, available_cores

SEED_TEXT = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
PEER_CHARACTERS = 8_000_000


def write_text(path: Path, size: int) -> None:
    """About ``size`` bytes of varied text, the same every time."""
    seed = SEED_TEXT.read_text(encoding="utf-8") if SEED_TEXT.is_file() else corpus_text("rumi-life") * 100
    draw = random.Random(0)
    lines = seed.splitlines()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while file.tell() < size:
            draw.shuffle(lines)
            words = "\n".join(lines).split(" ")
            for place in draw.choices(range(len(words)), k=len(words) // 50):
                words[place] = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
            file.write(" ".join(words) + "\n")


def peer_speed(tokenizer: Tokenizer, text: str, folder: Path) -> float:
    """MB a second of the library's batch encoder, opened from the saved tokenizer.json."""
    from tokenizers import Tokenizer as Library

    tokenizer.save(folder)
    library = Library.from_file(str(folder / "tokenizer.json"))
    chunks, start = [], 0
    while start < len(text):
        end = text.find("\n", start + 65_536) + 1 or len(text)
        chunks.append(text[start:end])
        start = end
    began = time.perf_counter()
    for first in range(0, len(chunks), 16):
        for one in library.encode_batch_fast(chunks[first : first + 16], add_special_tokens=False):
            len(one.ids)
    return len(text.encode()) / 1e6 / (time.perf_counter() - began)


def measure(size_mb: float, vocab_size: int, folder: Path) -> dict[str, object]:
    path = folder / "text.txt"
    write_text(path, int(size_mb * 1e6))
    source = resolve_source(path)
    notes: list[str] = []
    began = time.perf_counter()
    characters = source.characters
    scanned = time.perf_counter()
    tokenizer = learn_tokenizer(source, "bpe", validation_fraction=0.1, vocab_size=vocab_size, note=notes.append)
    learnt = time.perf_counter()

    def progress(done: int, total: int) -> None:
        print(f"\r{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end="", file=sys.stderr, flush=True)

    stream = prepare_stream(source, tokenizer, folder / "ids", validation_fraction=0.1, context=256, progress=progress)
    tokenised = time.perf_counter()
    print(file=sys.stderr)
    kib = 1024 if sys.platform == "darwin" else 1  # what ru_maxrss counts in differs
    own, largest = (resource.getrusage(who).ru_maxrss / kib for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    workers = min(available_cores(), MOST_WORKERS) if largest else 0
    sample, taken = [], 0
    for text in iter_texts(source):
        sample.append(text)
        taken += len(text)
        if taken >= PEER_CHARACTERS:
            break
    peer = peer_speed(tokenizer, "".join(sample), folder / "tokenizer")
    ours = path.stat().st_size / 1e6 / (tokenised - learnt)
    held_out = 0 if stream.validation is None else stream.validation.size
    return {
        "ratio": round(ours / peer, 2),
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "unit": "MB/s",
        "text_mb": round(path.stat().st_size / 1e6, 1),
        "characters": characters,
        "tokens": stream.train.size + held_out,
        "vocabulary": tokenizer.vocab_size,
        "dtype": stream.train.dtype.name,
        "seconds": {
            "check": round(scanned - began, 1),
            "learn": round(learnt - scanned, 1),
            "tokenise": round(tokenised - learnt, 1),
        },
        "peak_rss_mib": round((own + workers * largest) / 1024),
        "peak_rss_parts_mib": {"this process": round(own / 1024), "each of the others at most": round(largest / 1024)},
        "notes": notes,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size-mb", type=float, default=20.0)
    parser.add_argument("--vocab-size", type=int, default=8192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.size_mb, options.vocab_size, Path(folder))))


if __name__ == "__main__":
    main()
