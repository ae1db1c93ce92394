"""Measures of searches and answers: against ir-measures, and against values worked out by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from scratchlm.errors import UserError
from scratchlm.evaluation.retrieval_files import check_known, read_qrels, read_queries, read_run, write_run
from scratchlm.evaluation.retrieval_metrics import (
    answer_f1,
    citation_scores,
    contains_answer,
    exact_match,
    measure_by_query,
    measure_run,
    ndcg,
    ranked,
    refusal_scores,
)

QRELS = {"1": {"a": 1, "b": 0, "c": 2}, "2": {"d": 1}}
RUN = {"1": {"b": 3.0, "c": 2.0, "a": 1.0}, "2": {"x": 1.0}}


def test_values_worked_out_by_hand() -> None:
    # 2 / log2(3) + 1 / log2(4), of at best 2 / log2(2) + 1 / log2(3)
    assert ndcg(["b", "c", "a"], QRELS["1"], 10) == pytest.approx((2 / 1.5849625 + 0.5) / (2 + 1 / 1.5849625))
    means = measure_run(QRELS, RUN, ("recall@2", "mrr", "map", "precision@2"))
    expected = {"recall@2": 0.25, "mrr": 0.25, "map": (1 / 2 + 2 / 3) / 4, "precision@2": 0.25}
    assert means == pytest.approx(expected)
    assert measure_by_query(QRELS, {"1": RUN["1"]}, "map")["2"] == 0.0


def test_as_ir_measures_has_them() -> None:
    ir = pytest.importorskip("ir_measures", reason="ir-measures is not installed: pip install 'scratchlm[dev]'")
    draw = random.Random(3)
    qrels = {
        str(q): {f"d{n}": draw.choice([0, 0, 1, 2]) for n in draw.sample(range(60), 12)} | {"sure": 1}
        for q in range(25)
    }
    run = {q: {f"d{n}": draw.randrange(12) / 4 for n in draw.sample(range(60), 40)} for q in qrels}  # with equal scores
    pairs = {
        "ndcg@10": ir.nDCG @ 10,
        "ndcg": ir.nDCG,
        "recall@10": ir.R @ 10,
        "mrr": ir.RR,
        "map": ir.AP,
        "precision@5": ir.P @ 5,
    }
    theirs = ir.calc_aggregate(list(pairs.values()), qrels, run)
    ours = measure_run(qrels, run, list(pairs))
    assert ours == pytest.approx({name: theirs[measure] for name, measure in pairs.items()}, abs=1e-9)
    # Of equal scores, which the run above has, its RR@10 counts them another way.
    run = {q: {name: draw.random() for name in scores} for q, scores in run.items()}
    theirs = ir.calc_aggregate([ir.RR @ 10], qrels, run)
    assert measure_run(qrels, run, ("mrr@10",))["mrr@10"] == pytest.approx(theirs[ir.RR @ 10])


def test_equal_scores_have_one_order() -> None:
    assert ranked({"a": 1.0, "c": 1.0, "b": 2.0}) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1", "inside"),
    [
        ("The Halden Bridge.", ["halden bridge"], 1, 1, 1),
        ("It was the Halden bridge", ["Halden bridge"], 0, 2 / 3, 1),
        ("In 1912", ["1913"], 0, 0, 0),
        ("", [""], 1, 1, 0),
        ("1912a", ["1912"], 0, 0, 0),
    ],
)
def test_answers_as_squad_has_them(answer: str, expected: list[str], exact: float, f1: float, inside: float) -> None:
    assert exact_match(answer, expected) == exact
    assert answer_f1(answer, expected) == pytest.approx(f1)
    assert contains_answer(answer, expected) == inside


def test_citations_and_refusals() -> None:
    assert citation_scores({"a", "b"}, {"b"}) == (0.5, 1.0)
    assert citation_scores(set(), {"b"}) == (0.0, 0.0)
    assert citation_scores(set(), set()) == (1.0, 1.0)
    found = refusal_scores([True, False, True, False], [False, False, True, True])
    assert found == {"refused_unanswerable": 0.5, "refused_answerable": 0.5, "accuracy": 0.5}
    assert refusal_scores([True, False], [False, True])["accuracy"] == 1.0


def test_trec_and_beir_files(tmp_path: Path) -> None:
    trec, beir, queries = tmp_path / "qrels.txt", tmp_path / "test.tsv", tmp_path / "queries.jsonl"
    trec.write_text("1 0 a 1\n1 0 b 0\n\n2\t0\td\t2\n")
    beir.write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n1\tb\t0\n2\td\t2\n")
    assert read_qrels(trec) == read_qrels(beir) == {"1": {"a": 1, "b": 0}, "2": {"d": 2}}
    queries.write_text('{"_id": "1", "text": "one"}\n{"_id": 2, "title": "Two", "text": "more"}\n')
    assert read_queries(queries) == {"1": "one", "2": "Two more"}
    queries.write_text("1\twhat?\n")
    assert read_queries(queries) == {"1": "what?"}
    write_run(tmp_path / "run", RUN)
    assert read_run(tmp_path / "run") == RUN


def test_judgements_of_what_is_not_there() -> None:
    with pytest.raises(UserError, match="query 2"):
        check_known(QRELS, {"1"})
    with pytest.raises(UserError, match="judge d,"):
        check_known(QRELS, {"1", "2"}, {"a", "b", "c"})
    check_known(QRELS, {"1", "2"}, {"a", "b", "c", "d"})


BAD = [
    (read_qrels, "", "no judgements"),
    (read_qrels, "1 a\n", "2 columns"),
    (read_qrels, "1 0 a 1 x\n", "5 columns"),
    (read_qrels, "1 0 a high\n", "no number"),
    (read_qrels, "1 0 a nan\n", "no number"),
    (read_qrels, "1 0 a 0.5\n", "whole numbers"),
    (read_qrels, "1 0 a 1\n1 0 a 0\n", "once more"),
    (read_run, "", "no findings"),
    (read_run, "1 0 a 1\n", "4 columns"),
    (read_run, "1 Q0 a 1 inf x\n", "no number"),
    (read_run, "1 Q0 a 1 2 x\n1 Q0 a 2 1 x\n", "once more"),
    (read_queries, "", "is empty"),
    (read_queries, "what is it\n", "no tab"),
    (read_queries, '{"_id": "1"\n', "no JSON"),
    (read_queries, '{"_id": "1"}\n', "no text"),
    (read_queries, '{"_id": true, "text": "a"}\n', "must be texts"),
    (read_queries, "1\ta\n1\tb\n", "once more"),
    (read_queries, "\ta\n", "no id"),
]


@pytest.mark.parametrize(("read", "text", "says"), BAD)
def test_bad_files_are_told_in_one_line(read: object, text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        read(path)  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_qrels(tmp_path / "missing")
    (tmp_path / "latin").write_bytes(b"1 0 \xe9 1\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_qrels(tmp_path / "latin")
    with pytest.raises(UserError, match="cannot be written"):
        write_run(tmp_path / "no" / "run", RUN)


@pytest.mark.parametrize("measure", ["bleu", "ndcg@0", "ndcg@x", "ndcg@", ""])
def test_measures_that_there_are_not(measure: str) -> None:
    with pytest.raises(UserError, match="no measure"):
        measure_by_query(QRELS, RUN, measure)


def test_nothing_to_measure() -> None:
    with pytest.raises(UserError, match="no judgements"):
        measure_run({}, RUN)
    with pytest.raises(UserError, match="none of the queries"):
        measure_run(QRELS, {"9": {"a": 1.0}})
    with pytest.raises(UserError, match="finite"):
        measure_run(QRELS, {"1": {"a": float("nan")}})
    with pytest.raises(UserError, match="as many"):
        refusal_scores([], [])
