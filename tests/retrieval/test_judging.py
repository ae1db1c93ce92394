"""From passages to the documents that judgements are of."""

from __future__ import annotations

from dataclasses import replace

from scratchlm.retrieval.judging import document_names, documents_of

from .test_search import hits_of


def test_a_file_goes_by_its_bare_name_unless_another_has_the_same() -> None:
    names = document_names(["a/one.md", "a/two.txt", "b/two.md", "three"])
    assert names == {"a/one.md": "one", "a/two.txt": "a/two.txt", "b/two.md": "b/two.md", "three": "three"}


def test_a_document_is_as_good_as_its_best_passage() -> None:
    files = ("a/one.md", "b.md", "a/one.md")
    hits = [
        replace(hit, file=file, score=score)
        for hit, file, score in zip(hits_of(["x", "y", "z"]), files, (0.2, 0.4, 0.9), strict=True)
    ]
    names = document_names(files[:2])
    assert documents_of(hits, names, set()) == {"one": 0.9, "b": 0.4}
    assert documents_of(hits, names, {"a/one.md"}) == {"a/one.md": 0.9, "b": 0.4}
