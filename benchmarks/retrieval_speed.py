"""Speed of the index: making it, searching it, and bringing it up after an edit.

    python benchmarks/retrieval_speed.py index [--json] [--documents N]
    python benchmarks/retrieval_speed.py search [--json] [--chunks N] [--bible FILE] [--cache FOLDER]
    python benchmarks/retrieval_speed.py edit [--json] [--documents N]

``index``: the 1,460 documents of CISI as text files, from the folder to an index that can be searched: ours in float32
and with int8, beside LangChain's text splitter, its ``Embeddings`` on ``transformers`` (32 texts padded to their
longest, cut at 256 tokens) and FAISS's ``IndexFlatIP``. They take turns on slices of the files, so that what disturbs
the machine disturbs all; the ratios are of the sums. Ours writes to disk, with full text; the peer keeps its vectors
in memory. nDCG@10 is of dense search, a document's score being that of its best chunk.

``search``: an index of 200,000 chunks, verses of the Bible (a file with one a line, after its number; none without
``--bible``) and sentences of the data set imdb's reviews. Their vectors are made with int8 once and kept in a folder,
so that the bench can go on with what there is. A search embeds the query, looks for 50 chunks by vector and 50 by
words, and fuses them by reciprocal rank. The queries are reviews' sentences that are not in the index. recall@10 is
that of the approximate index against all vectors compared.

``edit``: 1,000 files, of which one changes: the seconds of the second run as a share of those of the first.

CISI lies in ``../shared/data/cisi``, seen from the clone.
"""

from __future__ import annotations

import argparse
import csv
import html
import json
import math
import re
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed_speed import ABSTRACTS, peer, read_abstracts
from generate_speed import machine
from scratchlm.checkpoints.datasets import data_file
from scratchlm.errors import UserError
from scratchlm.opening import open_model
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.embeddings import Embeddings
from scratchlm.retrieval.folders import Folder
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.index_settings import unit
from scratchlm.retrieval.passages import Chunk, Document

SLICES, CHARACTERS, DEPTH, PART = 5, 1000, 50, 4000
Vectors = NDArray[np.float32]
Search = Callable[[str], list[int]]


def queries_and_judgements() -> tuple[dict[int, str], dict[int, set[int]]]:
    """CISI's queries by number, and the documents, from 1, that answer each."""
    text = (ABSTRACTS.parent / "CISI.QRY").read_text(encoding="latin-1")
    queries = {}
    for part in re.split(r"^\.I ", text, flags=re.MULTILINE)[1:]:
        words = re.search(r"^\.W\s*$(.*?)(?=^\.[A-Z]\s*$|\Z)", part, flags=re.MULTILINE | re.DOTALL)
        queries[int(part.split()[0])] = " ".join(words[1].split()) if words else ""
    judged: dict[int, set[int]] = defaultdict(set)
    for line in (ABSTRACTS.parent / "CISI.REL").read_text(encoding="latin-1").splitlines():
        query, document = map(int, line.split()[:2])
        judged[query].add(document)
    return queries, dict(judged)


def ndcg(search: Search) -> float:
    """nDCG@10, the mean over the judged queries."""
    queries, judged = queries_and_judgements()
    found = []
    for query, relevant in judged.items():
        gains = [1 / math.log2(rank + 2) for rank, one in enumerate(search(queries[query])[:10]) if one in relevant]
        found.append(sum(gains) / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(relevant)))))
    return sum(found) / len(found)


def write_files(folder: Path, texts: Sequence[str], first: int = 1) -> None:
    folder.mkdir()
    for number, text in enumerate(texts, first):
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")


class Peer:
    """LangChain's parts, as its users put them together."""

    def __init__(self, model: Path, dimensions: int) -> None:
        try:
            import faiss
            from langchain_core.embeddings import Embeddings as LangChainEmbeddings
            from langchain_text_splitters import RecursiveCharacterTextSplitter
        except ImportError as error:
            needed = "pip install langchain-core langchain-text-splitters faiss-cpu transformers"
            raise UserError(f"the peer is missing ({error}); run: {needed}") from error
        run = peer(model)

        class OnTransformers(LangChainEmbeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return run(texts).tolist()  # type: ignore[no-any-return]

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        self.embeddings = OnTransformers()
        self.splitter = RecursiveCharacterTextSplitter(chunk_size=CHARACTERS, chunk_overlap=0)
        self.vectors = faiss.IndexFlatIP(dimensions)
        self.sources: list[int] = []

    def add(self, folder: Path) -> None:
        from langchain_core.documents import Document as LangChainDocument

        files = sorted(folder.iterdir())
        documents = [LangChainDocument(one.read_text(encoding="utf-8"), metadata={"source": one.stem}) for one in files]
        parts = self.splitter.split_documents(documents)
        found = self.embeddings.embed_documents([part.page_content for part in parts])
        self.vectors.add(np.array(found, np.float32))
        self.sources += [int(part.metadata["source"]) for part in parts]

    def search(self, query: str) -> list[int]:
        _, rows = self.vectors.search(np.array([self.embeddings.embed_query(query)], np.float32), 40)
        return list(dict.fromkeys(self.sources[row] for row in rows[0]))


@dataclass
class Ours:
    index: Index
    embedder: Embedder

    def add(self, folder: Path) -> None:
        self.index.update(Folder(folder), partial=True)

    def search(self, query: str) -> list[int]:
        hits = self.index.dense(self.embedder.embed([query]).vectors[0], 40)
        return list(dict.fromkeys(int(hit.file.removesuffix(".txt")) for hit in hits))


def measure_index(name: str, count: int) -> dict[str, Any]:
    """Documents a second of all three, the ratios, and nDCG@10."""
    texts = read_abstracts(ABSTRACTS)[:count]
    opened = open_model(name)
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        embedders = {who: Embedder.open(opened, who, device="cpu") for who in ("fp32", "int8")}  # type: ignore[arg-type]
        contestants: dict[str, Peer | Ours] = {"peer": Peer(opened.located.path, embedders["fp32"].dimensions)}
        for who, embedder in embedders.items():
            contestants[who] = Ours(Index.create(place / who, embedder), embedder)
        for one in contestants.values():
            one.search(texts[0]) if isinstance(one, Ours) else one.embeddings.embed_query(texts[0])
        seconds = dict.fromkeys(contestants, 0.0)
        size = math.ceil(len(texts) / SLICES)
        for first in range(0, len(texts), size):
            write_files(place / f"files-{first}", texts[first : first + size], first + 1)
            for who, contestant in contestants.items():
                start = time.perf_counter()
                contestant.add(place / f"files-{first}")
                seconds[who] += time.perf_counter() - start
            so_far = ", ".join(f"{who} {spent:.1f} s" for who, spent in seconds.items())
            print(f"{min(first + size, len(texts)):,} of {len(texts):,} documents: {so_far}", file=sys.stderr)
        quality = {f"ndcg_{who}": ndcg(one.search) for who, one in contestants.items()}
        chunks = {
            who: len(one.sources) if isinstance(one, Peer) else len(one.index) for who, one in contestants.items()
        }
    return {
        "benchmark": "index",
        "ratio": seconds["peer"] / seconds["fp32"],
        "ratio_int8": seconds["peer"] / seconds["int8"],
        "ours": len(texts) / seconds["fp32"],
        **{who: len(texts) / spent for who, spent in seconds.items() if who != "fp32"},
        "unit": "documents/s",
        **quality,
        "chunks": chunks,
        "documents": len(texts),
        "machine": machine(),
    }


def measure_edit(name: str, count: int) -> dict[str, Any]:
    """The seconds of a run over all files, of one after an edit, and of one after nothing."""
    texts = read_abstracts(ABSTRACTS)[:count]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "files"
        write_files(folder, texts)
        index = Index.create(Path(made) / "store", Embedder.open(name, "fp32", device="cpu"))
        time.sleep(2.1)  # files that have just been written would be read again
        full = index.update(Folder(folder))
        (folder / "0500.txt").write_text(f"{texts[499]} This sentence was added later.", encoding="utf-8")
        edit = index.update(Folder(folder))
        nothing = index.update(Folder(folder))
    assert (len(full.added), len(edit.changed), len(edit.unchanged)) == (len(texts), 1, len(texts) - 1)
    return {
        "benchmark": "edit",
        "share": edit.seconds / full.seconds,
        "full_s": full.seconds,
        "edit_s": edit.seconds,
        "nothing_s": nothing.seconds,
        "read": edit.read,
        "documents": len(texts),
        "machine": machine(),
    }


def sentences(text: str) -> Iterator[str]:
    """Pieces of at least 60 characters, which end with a sentence."""
    held = ""
    for part in re.split(r"(?<=[.!?])\s+", text):
        held = f"{held} {part}".strip()
        if len(held) >= 60:
            yield held
            held = ""
    if held:
        yield held


def passages(bible: Path | None) -> Iterator[str]:
    if bible is not None:
        for line in bible.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield line.strip().partition(" ")[2]
    reviews = data_file("imdb")
    assert reviews is not None
    with reviews.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield from sentences(" ".join(html.unescape(re.sub(r"<br\s*/?>", " ", row["text"])).split()))


def vectors_of(texts: Sequence[str], embedder: Embedder, cache: Path) -> Vectors:
    """(n, C): those that the folder has, the rest computed and put there."""
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, len(texts), PART):
        file = cache / f"{first:06d}.npy"
        here = texts[first : first + PART]
        if not file.exists():
            part = embedder.embed(here).vectors
            with (cache / "partial").open("wb") as opened:
                np.save(opened, part)
            (cache / "partial").rename(file)
            print(f"{first + len(here):,} of {len(texts):,} texts embedded", file=sys.stderr)
        parts.append(np.load(file)[: len(here)])
    return np.concatenate(parts)


@dataclass
class Made:
    """An embedder that has the vectors already."""

    embedder: Embedder
    rows: dict[str, int]
    vectors: Vectors
    name: str = "made"
    precision: str = "int8"
    dimensions: int = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.dimensions, self.fingerprint = self.embedder.dimensions, self.embedder.fingerprint

    def embed(self, texts: list[str]) -> Embeddings:
        return Embeddings(self.vectors[[self.rows[text] for text in texts]], 0)


def lines(document: Document) -> list[Chunk]:
    chunks, start = [], 0
    for number, text in enumerate(document.text.split("\n"), 1):
        chunks.append(Chunk(start, start + len(text), text, number, number, None, None, (), len(text) // 4))
        start += len(text) + 1
    return chunks


def measure_search(name: str, count: int, bible: Path | None, cache: Path, asked: int = 300) -> dict[str, Any]:
    """Milliseconds of a search, recall, and the most memory."""
    every = passages(bible)
    texts = list(islice(every, count))
    queries = list(islice((text for text in every if text not in set(texts[-1000:])), asked))
    if len(texts) < count or len(queries) < asked:
        raise UserError(
            f"the Bible and the reviews give {len(texts):,} chunks and {len(queries)} queries; ask for fewer"
        )
    embedder = Embedder.open(name, "int8", device="cpu")
    made = Made(embedder, {text: row for row, text in enumerate(texts)}, vectors_of(texts, embedder, cache))
    with tempfile.TemporaryDirectory() as place:
        index = Index.create(Path(place) / "store", made)
        step = 100
        documents = (
            Document(
                f"{first // 10_000}/{first}.txt", "\n".join(texts[first : first + step]), "text", f"{first}", 1, 1.0
            )
            for first in range(0, count, step)
        )
        report = index.update(documents, cut=lines)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        stored = sum(one.stat().st_size for one in Path(place).rglob("*") if one.is_file()) / 2**20
        print(f"{report.chunks:,} chunks in {report.seconds:.0f} s, {memory:.2f} GiB", file=sys.stderr)
        spent: dict[str, list[float]] = defaultdict(list)
        recalls = []
        unique = unit(made.vectors)
        for number, query in enumerate(queries):
            marks = [time.perf_counter()]
            vector = embedder.embed([query]).vectors[0]
            marks.append(time.perf_counter())
            dense = index.dense(vector, DEPTH)
            marks.append(time.perf_counter())
            words = index.full_text(query, DEPTH)
            scores: dict[str, float] = defaultdict(float)
            for ranking in (dense, words):
                for rank, hit in enumerate(ranking, 1):
                    scores[hit.id] += 1 / (60 + rank)
            sorted(scores, key=scores.__getitem__, reverse=True)[:10]
            marks.append(time.perf_counter())
            if number >= 20:  # the first ones read the files
                for stage, before, after in zip(("embed", "dense", "words"), marks, marks[1:], strict=False):
                    spent[stage].append((after - before) * 1e3)
                spent["all"].append((marks[-1] - marks[0]) * 1e3)
            exact = unique @ (vector / np.linalg.norm(vector))
            tenth = np.partition(exact, -10)[-10]
            ten = index.dense(vector, 10)
            recalls.append(sum(hit.score >= tenth - 1e-6 for hit in ten) / 10)
        edit = Document("0/0.txt", "\n".join([*texts[1:step], texts[0]]), "text", "changed", 1, 2.0)
        edited = index.update([edit], cut=lines, partial=True)
        approximate = index.statistics()["approximate"]
    stages = {f"{stage}_p50_ms": float(np.median(one)) for stage, one in spent.items() if stage != "all"}
    return {
        "benchmark": "search",
        "p50_ms": float(np.percentile(spent["all"], 50)),
        "p99_ms": float(np.percentile(spent["all"], 99)),
        **stages,
        "recall_at_10": float(np.mean(recalls)),
        "approximate": approximate,
        "chunks": report.chunks,
        "index_s": report.seconds,
        "edit_s": edited.seconds,
        "memory_gib": memory,
        "store_mib": stored,
        "queries": len(queries),
        "bible": bible is not None,
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["index", "search", "edit"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--documents", type=int, help="of CISI (index: 1460, edit: 1000)")
    parser.add_argument("--chunks", type=int, default=200_000, help="to search (200,000)")
    parser.add_argument("--bible", type=Path, help="a file with a verse a line, after its number")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "scratchlm-retrieval-speed")
    options = parser.parse_args()
    try:
        if options.what == "index":
            result = measure_index(options.model, options.documents or 1460)
        elif options.what == "edit":
            result = measure_edit(options.model, options.documents or 1000)
        else:
            result = measure_search(options.model, options.chunks, options.bible, options.cache)
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:>14}  {f'{value:.4g}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
