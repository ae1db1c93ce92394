"""Runs before and after and side by side: rows, tables of two widths, and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from scratchlm.errors import UserError
from scratchlm.evaluation.comparison import comparison_rows, comparison_table, plot_comparison
from scratchlm.evaluation.report import to_json

TEXT_KEYS = ("bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum")


def texts(perplexity: float, share: float) -> dict[str, Any]:
    shares = {key: share + 0.001 * number for number, key in enumerate(TEXT_KEYS)}
    counts = {"rows": 1060, "tokens": 21_345, "prompts": 200}
    return {"perplexity": perplexity, "cross_entropy": 1.0, "accuracy": 0.3, **shares, "exact_match": 0.0, **counts}


def run(method: str, before: dict[str, Any], after: dict[str, Any], **more: Any) -> dict[str, Any]:
    effort = {
        "trained_parameters": 4_884_480,
        "parameters": 134_515_008,
        "peak_memory_bytes": 1_500_000_000,
        "seconds": 3700.4,
        "rows_per_second": 5.234,
        "saved_bytes": 19_600_000,
    }
    return {"name": f"runs/{method}", "method": method, "before": before, "after": after, **effort, **more}


START, NF4 = texts(167.25, 0.05), texts(180.5, 0.04)
THREE = [
    run("full", START, texts(31.2, 0.2), trained_parameters=134_515_008, saved_bytes=538_000_000),
    run("lora", START, texts(33.9, 0.19)),
    run("qlora", NF4, texts(35.125, 0.18)),
]
LABELS = run(
    "full", {"accuracy": 0.5, "macro_f1": 0.33, "micro_f1": 0.5, "rows": 853}, {"accuracy": 0.8125, "rows": 853}
)


def printed(reports: list[dict[str, Any]], width: int = 80, **options: Any) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(comparison_table(reports, **options))
    return console.export_text()


def test_one_run_has_a_row_before_and_one_after() -> None:
    before, after = comparison_rows([THREE[1]])
    assert (before["row"], after["row"]) == ("before", "after lora")
    assert (before["when"], after["when"]) == ("before", "after")
    assert before["perplexity"] == 167.25
    assert after["rouge_lsum"] == pytest.approx(0.198)
    assert after["seconds"] == 3700.4
    assert "seconds" not in before
    assert (after["rows"], after["tokens"], after["prompts"]) == (1060, 21_345, 200)


def test_runs_that_begin_alike_share_a_row() -> None:
    assert [row["row"] for row in comparison_rows(THREE[:2])] == ["before", "full", "lora"]
    rows = comparison_rows(THREE)
    assert [row["row"] for row in rows] == ["before full, lora", "before qlora", "full", "lora", "qlora"]
    assert [row["name"] for row in rows][:3] == [None, "runs/qlora", "runs/full"]


def test_runs_of_one_method_are_told_apart() -> None:
    two = [THREE[1], {**THREE[1], "name": "runs/rank-4"}]
    assert [row["row"] for row in comparison_rows(two)] == ["before", "runs/lora", "runs/rank-4"]
    assert [row["row"] for row in comparison_rows([THREE[1]] * 2)] == ["before", "runs/lora (1)", "runs/lora (2)"]


def test_rows_are_ready_for_programs() -> None:
    rows = json.loads(to_json({"rows": comparison_rows(THREE)}))["rows"]
    assert rows[2]["saved_bytes"] == 538_000_000
    assert rows[3]["parameters"] == 134_515_008


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_cuts_no_figure(width: int) -> None:
    shown = printed(THREE, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for wanted in ("167.2", "31.20", "33.90", "35.12", "0.208", "134,515,008", "538.0 MB", "1.5 GB", "1:01:40", "5.23"):
        assert wanted in shown, wanted
    assert "1,060 held-out rows, 21,345 tokens predicted, 200 prompts continued" in shown
    lines = [line for line in shown.splitlines() if line.strip().startswith("lora ")]
    assert len(lines) == 2  # one of figures, one of effort: no name is broken up
    assert len(lines[0].split()) == 1 + 11


def test_the_tutorials_rows_stand_below_texts_and_say_what_they_are_of() -> None:
    shown = printed(THREE[:1])
    assert "50.13 0.707 0.710 0.708 0.706 0.704 0.675 0.636 0.674 0.674" in shown
    assert "65.46 0.663 0.666 0.664 0.661 0.659 0.747 0.674 0.747 0.747" in shown
    assert "GPT-2" in shown
    assert "GPT-2" not in printed(THREE[:1], tutorial=False)
    assert "GPT-2" not in printed([LABELS])


def test_labels_and_entities_have_columns_of_their_own() -> None:
    shown = printed([LABELS])
    assert all(word in shown for word in ("accuracy", "macro", "micro", "0.812", "0.330", "853 held-out rows"))
    assert "PPL" not in shown
    assert "–" in shown  # what was not measured
    tags = run(
        "full",
        {},
        {"accuracy": 0.95, "entity": {"precision": 0.6, "recall": 0.4, "f1": 0.48}, "rows": 240, "words": 4600},
    )
    shown = printed([tags])
    assert all(word in shown for word in ("entity", "0.600", "0.400", "0.480", "240 held-out rows, 4,600 words"))
    assert "before" not in shown


def test_without_held_out_rows_there_is_what_it_took() -> None:
    shown = printed([run("lora", {}, {})])
    assert "4,884,480" in shown
    assert "PPL" not in shown


@pytest.mark.parametrize("perplexity", [float("inf"), 7.5e12, 12345.6, None])
def test_an_odd_perplexity_is_shown_and_drawn(perplexity: float | None, tmp_path: Path) -> None:
    one = [run("lora", texts(31.0, 0.1) | {"perplexity": perplexity}, texts(30.0, 0.1))]
    assert max(map(len, printed(one).splitlines())) <= 80
    assert plot_comparison(one, tmp_path / "odd.png").exists()


@pytest.mark.parametrize(
    "reports", [THREE, THREE[:1], [LABELS], [run("lora", {}, {})], [THREE[1]] * 2, [{**THREE[1], "method": "dora"}]]
)
def test_the_picture_has_something_in_it(reports: list[dict[str, Any]], tmp_path: Path) -> None:
    path = plot_comparison(reports, tmp_path / "new" / "picture.png")
    with Image.open(path) as picture:
        assert picture.width == 1440
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


def test_bars_have_a_colour_for_each_method(tmp_path: Path) -> None:
    with Image.open(plot_comparison(THREE, tmp_path / "three.png")) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert {(0x1F, 0x5F, 0xA8), (0xD9, 0x66, 0x1F), (0x2A, 0x8C, 0x82), (0x8A, 0x8F, 0x98)} <= colours


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        plot_comparison(THREE, tmp_path / "file" / "picture.png")
