"""Chapter "Retrieval": documents become an index, which is searched and asked; every answer says where it comes from.

    scratchlm models pull all-minilm-l6-v2
    python examples/retrieval.py [FOLDER]

Without a folder two small documents are written into a temporary one. Nothing is fetched by the script itself.
"""

import sys
import tempfile
from pathlib import Path

from scratchlm.retrieval import Embedder
from scratchlm.retrieval.answers import Answerer
from scratchlm.retrieval.folders import Folder
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.search import Searcher

BRIDGE = """# The Halden bridge

The bridge spans the river Orla. It was opened on 3 May 1931, and Karl Osterberg designed it.
Some 18,000 vehicles cross it each day.
"""
TOWER = """# The Brevik tower

The lighthouse of Brevik is 31 metres high. Its lamp was lit for the first time in 1874.
"""
QUESTIONS = ("Who designed the bridge?", "How high is the lighthouse of Brevik?", "Who owns the ferry?")

with tempfile.TemporaryDirectory() as place:
    documents = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(place) / "documents"
    if len(sys.argv) == 1:
        documents.mkdir()
        (documents / "bridge.md").write_text(BRIDGE, encoding="utf-8")
        (documents / "tower.md").write_text(TOWER, encoding="utf-8")

    embedder = Embedder.open("all-minilm-l6-v2")
    index = Index.create(Path(place) / "index", embedder)
    report = index.update(Folder(documents))
    print(f"{len(report.added)} documents, {report.chunks} chunks")

    searcher = Searcher(index, embedder)
    for hit in searcher.search("traffic over the river", k=1).hits:
        print(f"{hit.score:.2f}  {hit.place()}")

    answerer = Answerer(searcher, embedder)
    for question in QUESTIONS:
        answer = answerer.ask(question)
        cited = [one.place() for sentence in answer.sentences for one in sentence.citations]
        print(f"{question} {answer.text} ({', '.join(cited) or 'no source'})")
