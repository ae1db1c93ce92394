"""What the index's tests work with: an embedder without a model, and documents cut at empty lines."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from zlib import crc32

import numpy as np

from scratchlm.retrieval.embeddings import Embeddings
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.passages import Chunk, Document


@dataclass
class Words:
    """Embeds a text as the sum of its words' random vectors."""

    name: str = "words"
    dimensions: int = 16
    precision: str = "fp32"
    fingerprint: str = "words-1"
    seconds: float = 0.0
    """That each text takes."""
    texts: list[str] = field(default_factory=list)
    """All that were embedded."""

    def embed(self, texts: Iterable[str]) -> Embeddings:
        rows = [self.vector(text) for text in texts]
        self.texts += texts
        time.sleep(self.seconds * len(rows))
        return Embeddings(np.array(rows, np.float32).reshape(-1, self.dimensions), 0)

    def vector(self, text: str) -> np.ndarray:
        words = re.findall(r"\w+", text.lower()) or [""]
        return sum(np.random.default_rng(crc32(one.encode())).normal(size=self.dimensions) for one in words)


def document(path: str, text: str, modified: float = 1_700_000_000.0, **more: object) -> Document:
    data = text.encode("utf-8", "replace")
    given = {"kind": "text"} | more
    return Document(path, text, digest=sha256(data).hexdigest(), size=len(data), modified=modified, **given)


def paragraphs(document: Document) -> list[Chunk]:
    """A chunk for each; a line that begins with # is the heading of those below."""
    chunks, headings = [], ()
    for found in re.finditer(r"\S(?:.*?\S)?(?=\s*(?:\n\n|\Z))", document.text, re.DOTALL):
        if found[0].startswith("# "):
            headings = (found[0][2:],)
            continue
        lines = document.line(found.start()), document.line(found.end() - 1)
        pages = document.page(found.start()), document.page(found.end() - 1)
        chunks.append(Chunk(found.start(), found.end(), found[0], *lines, *pages, headings, len(found[0].split())))
    return chunks


def contents(index: Index) -> dict[str, list[str]]:
    """The chunks of every file, in their order; fails where one is twice."""
    hits = [hit for part in index.all_chunks() for hit in part]
    assert len({hit.id for hit in hits}) == len({(hit.file, hit.start) for hit in hits}) == len(hits) == len(index)
    found: dict[str, list[str]] = {}
    for hit in sorted(hits, key=lambda hit: (hit.file, hit.start)):
        found.setdefault(hit.file, []).append(hit.text)
    return found


def vectors_are_right(index: Index, embedder: Words) -> None:
    hits = [hit for part in index.all_chunks() for hit in part]
    found = index.vectors([hit.id for hit in hits])
    expected = np.array([embedder.vector(hit.embedded) for hit in hits])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
