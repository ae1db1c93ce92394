"""Brings an index up in a process of its own, which its test kills: STORE DOCUMENTS SECONDS-A-TEXT."""

from __future__ import annotations

import sys

from tests.retrieval.index_parts import Words, document, paragraphs

from scratchlm.retrieval import updating
from scratchlm.retrieval.index import Index


def documents(count: int) -> list:
    """Of several chunks each; some chunks are the same in many."""
    return [
        document(f"{n % 7}/{n}.txt", "\n\n".join([f"text {n} part {part}" for part in range(1 + n % 5)] + ["the same"]))
        for n in range(count)
    ]


if __name__ == "__main__":
    store, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    updating.BATCH = 16
    embedder = Words(seconds=seconds)
    index = Index.open(store, embedder) if Index.exists(store) else Index.create(store, embedder)
    print("begun", flush=True)
    index.update(documents(count), lambda done: print(done, flush=True), cut=paragraphs)
    print("done", flush=True)
