"""From the passages that a search finds to the documents that judgements are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from scratchlm.retrieval.passages import Hit


def document_names(paths: Iterable[str]) -> dict[str, str]:
    """For each file's path the name that judgements may have for it: the file's name without its ending, where no
    other file has the same; else the path."""
    every = list(paths)
    stems = Counter(PurePosixPath(path).stem for path in every)
    return {path: stem if stems[stem] == 1 else path for path in every for stem in [PurePosixPath(path).stem]}


def documents_of(hits: Iterable[Hit], names: Mapping[str, str], judged: Collection[str]) -> dict[str, float]:
    """The score of each document, which is that of its best passage. A document goes by its path where the judgements
    do."""
    found: dict[str, float] = {}
    for hit in hits:
        name = hit.file if hit.file in judged else names.get(hit.file, hit.file)
        found[name] = max(found.get(name, hit.score), hit.score)
    return found
