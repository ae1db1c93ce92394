"""Every verb does what it says, in text and in JSON."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from .conftest import SMALL, Command

FIGURES = {"cross_entropy", "perplexity", "accuracy", "bits_per_character"}
DISTINCT = {"distinct_1", "distinct_2"}


def test_train_prints_one_object_and_nothing_else(command: Command, tmp_path: Path) -> None:
    outcome = command("train", "tinygpt", "--data", "rumi", "--out", str(tmp_path / "run"), *SMALL, "--json")
    assert outcome.status == 0
    assert outcome.json.keys() >= FIGURES | DISTINCT
    assert outcome.json["fit"]["steps"] == 6
    assert "step 6/6" in outcome.err


def test_train_names_the_command_that_uses_the_run(command: Command, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    outcome = command("train", "tinybert", "--out", run, *SMALL)
    assert f'scratchlm fill {run} --text "... [MASK] ..."' in outcome.err
    assert "Accuracy" in outcome.out


def test_the_command_line_overrides_the_file_of_settings(command: Command, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("steps: 50\nbatch_size: 2\ncontext: 16\n")
    arguments = ["--config", str(tmp_path / "settings.yaml"), *SMALL, "--set", "batch_size=3"]
    assert command("train", "tinygpt", "--out", str(tmp_path / "run"), *arguments).status == 0
    settings = (tmp_path / "run" / "settings.yaml").read_text()
    assert "steps: 6" in settings
    assert "batch_size: 3" in settings
    assert json.loads((tmp_path / "run" / "scratchlm.json").read_text())["model"]["context"] == 16


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(command: Command, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "gpt", tmp_path / "gpt")
    before = (tmp_path / "gpt" / "model.safetensors").read_bytes()
    assert command("train", "tinygpt", "--out", str(tmp_path / "gpt"), "--resume").status == 0
    assert (tmp_path / "gpt" / "model.safetensors").read_bytes() == before


def test_a_text_can_be_trained_on_and_the_rest_of_it_held_out(command: Command, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Rumi was a poet. He wrote in Persian, long ago.\n" * 60, encoding="utf-8")
    arguments = [*SMALL, "--set", "validation_fraction=0.2", "--json"]
    found = command(
        "train", "tinygpt", "--data", str(tmp_path / "book.txt"), "--out", str(tmp_path / "r"), *arguments
    ).json
    assert found["measured_on"] == "validation"
    assert found["cross_entropy"] == found["validation"]["cross_entropy"] != found["training"]["cross_entropy"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gpt", FIGURES | DISTINCT),
        ("bert", FIGURES - {"bits_per_character"}),
        ("dates", FIGURES | {"exact_match"}),
    ],
)
def test_eval_prints_the_figures_that_apply(command: Command, runs: Path, name: str, keys: set[str]) -> None:
    found = command("eval", str(runs / name), "--max-tokens", "100", "--max-pairs", "5", "--json").json
    assert found.keys() >= keys
    assert found["perplexity"] == pytest.approx(math.exp(found["cross_entropy"]))
    assert ("distinct_1" in found) == (name == "gpt")


def test_eval_measures_another_text(command: Command, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("Rumi was a mystic", encoding="utf-8")
    found = command("eval", str(runs / "gpt"), "--data", str(tmp_path / "other.txt"), "--json").json
    assert (found["measured_on"], found["tokens"]) == ("text", 16)
    table = command("eval", str(runs / "gpt"), "--data", str(tmp_path / "other.txt")).out
    assert "other.txt" in "".join(table.split())  # a long path is wrapped
    assert "floor" in table


def test_eval_needs_only_the_run_even_when_its_text_is_gone(command: Command, tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("Rumi was a poet. He wrote in Persian, long ago.\n" * 20, encoding="utf-8")
    assert command("train", "tinygpt", "--data", str(text), "--out", str(tmp_path / "run"), *SMALL).status == 0
    text.unlink()
    assert command("eval", str(tmp_path / "run"), "--json").json["tokens"] > 0


def test_eval_looks_at_as_much_as_it_is_told(command: Command, runs: Path) -> None:
    found = command("eval", str(runs / "gpt"), "--max-tokens", "65", "--json").json
    assert found["tokens"] == 64
    assert command("eval", str(runs / "dates"), "--max-pairs", "3", "--json").json["pairs"] == 3
    assert command("eval", str(runs / "gpt"), "--windows", "apart", "--json").json["windows"] == "apart"


def test_generate_streams_prompt_and_text(command: Command, runs: Path) -> None:
    outcome = command("generate", str(runs / "gpt"), "--prompt", "Rumi", "--max-new-tokens", "20", "--seed", "1")
    assert outcome.out.startswith("Rumi")
    assert len(outcome.out) == len("Rumi") + 20 + len("\n")
    assert outcome.err == ""


def test_generate_repeats_itself_with_a_seed_and_gives_the_seed_it_drew(command: Command, runs: Path) -> None:
    arguments = ["generate", str(runs / "gpt"), "--prompt", "Rumi", "--max-new-tokens", "30", "--json"]
    drawn = command(*arguments).json
    again = command(*arguments, "--seed", str(drawn["seed"])).json
    assert again == drawn


def test_generate_writes_several_samples(command: Command, runs: Path) -> None:
    arguments = ["generate", str(runs / "gpt"), "--prompt", "Rumi", "--max-new-tokens", "9", "--samples", "3"]
    found = command(*arguments, "--json").json
    assert len({sample["text"] for sample in found["samples"]}) == 3
    assert {sample["finish_reason"] for sample in found["samples"]} == {"length"}
    assert command(*arguments).out.count("--- ") == 3


def test_generate_ends_at_any_of_the_stop_strings(command: Command, runs: Path) -> None:
    arguments = ["--max-new-tokens", "400", "--stop", "a", "--stop", "i", "--seed", "0", "--json"]
    (sample,) = command("generate", str(runs / "gpt"), "--prompt", "Rumi", *arguments).json["samples"]
    assert sample["finish_reason"] == "stop"
    assert not set("ai") & set(sample["completion"])


def test_the_encoder_decoder_answers_without_the_prompt_and_always_the_same(command: Command, runs: Path) -> None:
    outcomes = {command("generate", str(runs / "dates"), "--prompt", "3 March 1987").out for _ in range(3)}
    (out,) = outcomes
    assert not out.startswith("3 March")


def test_fill_shows_the_filled_text_and_the_candidates(command: Command, runs: Path) -> None:
    text = "Rumi was [MASK] on 30 [MASK] 1207, most"
    found = command("fill", str(runs / "bert"), "--text", text, "--top-k", "3", "--json").json
    best = [gap[0]["token"] for gap in found["masks"]]
    assert [len(gap) for gap in found["masks"]] == [3, 3]
    assert found["filled"] == f"Rumi was {best[0]} on 30 {best[1]} 1207, most"
    shown = command("fill", str(runs / "bert"), "--text", text).out.splitlines()
    assert shown[0] == found["filled"]
    assert [line.split(":")[0] for line in shown[1:]] == ["gap 1", "gap 2"]


def test_plot_draws_curves_and_attention_maps(command: Command, runs: Path, tmp_path: Path) -> None:
    outcome = command("plot", str(runs / "gpt"), "--text", "Rumi was", "--out", str(tmp_path / "pictures"))
    files = [Path(line) for line in outcome.out.splitlines()]
    assert [file.name for file in files] == ["curves.png", "attention-layer-1.png"]
    lens = command("plot", str(runs / "gpt"), "--text", "Rumi was", "--lens", "--out", str(tmp_path / "more")).out
    assert [Path(line).name for line in lens.splitlines()] == [
        *("curves.png", "logit-lens.png", "attention-layer-1.png")
    ]
    files += map(Path, lens.splitlines())
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_plot_draws_a_presets_architecture(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = command("plot", "tinygpt", "--vocab-size", "48", "--json").json
    assert [Path(file).name for file in found["files"]] == ["tinygpt.png", "tinygpt-head.png"]
    assert all((tmp_path / file).stat().st_size > 1000 for file in found["files"])


def test_bench_runs_the_program_in_the_clone(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "textbook.py").touch()
    (folder / "generate_speed.py").write_text("import json, sys\nprint(json.dumps({'arguments': sys.argv[1:]}))\n")
    monkeypatch.setattr("scratchlm.cli.bench.__file__", str(tmp_path / "a" / "b" / "c" / "d" / "bench.py"))
    monkeypatch.chdir(folder)
    assert command("bench", "generate-tinygpt", "--json").json == {"arguments": ["--json"]}
    (folder / "generate_speed.py").write_text("import sys\nsys.exit(3)\n")
    outcome = command("bench", "generate-tinygpt")
    assert (outcome.status, outcome.err.startswith("error: generate_speed.py ended with status 3")) == (2, True)
