"""``scratchlm rag-eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Json, print_json
from scratchlm.cli.stores import (
    Count,
    DenseWeight,
    Feedback,
    Fusion,
    Mode,
    Rerank,
    StoreOption,
    check_count,
    search_settings,
    searcher,
)
from scratchlm.errors import UserError


def rag_eval(
    store: StoreOption,
    queries: Annotated[
        Path, typer.Option(metavar="FILE", help="Queries: an id, a tab and a text a line; or BEIR's JSONL.")
    ],
    qrels: Annotated[
        Path, typer.Option(metavar="FILE", help="Which documents answer them, in TREC's or BEIR's format.")
    ],
    k: Count = 100,
    mode: Mode = "hybrid",
    fusion: Fusion = "weighted",
    dense_weight: DenseWeight = None,
    feedback: Feedback = None,
    rerank: Rerank = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what was found to a file, in TREC's format.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Measure a search by judged queries: nDCG, recall, MRR and MAP.

    The qrels name documents by their file's path, or by its name without the ending.
    """
    from scratchlm.cli.counting import Counting
    from scratchlm.evaluation.retrieval_files import check_known, read_qrels, read_queries, write_run
    from scratchlm.evaluation.retrieval_metrics import USUAL, measure_run
    from scratchlm.retrieval.index import Index
    from scratchlm.retrieval.judging import document_names, documents_of

    check_count(k)
    if run is not None and run.is_dir():
        raise UserError(f"--run {run} is a folder; give a file to write to")
    if run is not None and not run.parent.is_dir():
        raise UserError(f"--run: the folder {run.parent} does not exist; make it, or choose another file")
    asked, judged = read_queries(queries), read_qrels(qrels)
    check_known(judged, asked)
    names = document_names(one.path for one in Index.open(store).files())
    check_known(judged, asked, set(names.values()) | set(names))
    settings = search_settings(mode, fusion, dense_weight, feedback, candidates=max(k, 100), join=False)
    finder = searcher(store, settings, rerank)
    found: dict[str, dict[str, float]] = {}
    spent: list[float] = []
    with Counting("queries", len(judged)) as progress:
        for done, query in enumerate(judged, 1):
            result = finder.search(asked[query], k)
            found[query] = documents_of(result.hits, names, set(judged[query]))
            spent.append(result.timings["total"])
            progress(done)
    if run is not None:
        write_run(run, found)
    figures = measure_run(judged, found, [one for one in USUAL if int(one.partition("@")[2] or 0) <= k])
    middle = sorted(spent)[len(spent) // 2]
    if json:
        print_json({"store": store, "queries": len(judged), "mode": mode, **figures, "p50_ms": middle})
        return
    print(f"{store}: {len(judged):,} judged queries, {mode}")
    for name, value in figures.items():
        print(f"{name:12} {value:.3f}")
    print(f"{'half within':12} {middle:.0f} ms")
