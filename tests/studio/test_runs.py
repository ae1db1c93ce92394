"""The page of runs, and what it asks for."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from playwright.sync_api import Page, expect

from scratchlm.api import load
from scratchlm.serving.server import Server

from .conftest import findings, home
from .runs_folder import record, write_report, write_run


@pytest.fixture
def root(studio: Server) -> Iterator[Path]:
    """The folder of runs, which is not there yet."""
    assert studio.settings.studio is not None
    yield studio.settings.studio.runs
    shutil.rmtree(studio.settings.studio.runs, ignore_errors=True)


def get(studio: Server, path: str, status: int = 200, **asked: Any) -> Any:
    answer = httpx.get(f"{home(studio)}studio/api/runs/{path}", params=asked, timeout=20)
    assert answer.status_code == status
    return answer.json()


def post(studio: Server, path: str, status: int = 200, **asked: Any) -> Any:
    answer = httpx.post(f"{home(studio)}studio/api/runs/{path}", json=asked, timeout=20)
    assert answer.status_code == status, answer.text
    return answer.json()


# -- what the page asks for -------------------------------------------------------------------------------------------


def test_no_runs_yet_is_told_with_the_way_to_make_one(studio: Server, root: Path, visit: Callable[..., Page]) -> None:
    assert not root.exists()
    assert get(studio, "") == {"folder": str(root), "runs": []}
    expect(visit(studio, "runs").get_by_text("There are no runs in")).to_contain_text("scratchlm train tinygpt")


def test_runs_are_found_in_folders_of_runs_and_a_damaged_one_hides_no_other(studio: Server, root: Path) -> None:
    write_run(root / "one")
    write_run(root / "methods" / "lora", finished=False)
    write_run(root / "broken").write_settings({})
    (root / "broken" / "scratchlm.json").write_text("{", encoding="utf-8")
    (root / "no-run").mkdir()
    (root / ".hidden").mkdir()
    rows = {row["name"]: row for row in get(studio, "")["runs"]}
    assert set(rows) == {"one", "methods/lora", "broken"}
    assert [rows[name]["state"] for name in ("one", "methods/lora", "broken")] == ["finished", "stopped", "damaged"]
    assert "scratchlm.json" in rows["broken"]["error"]
    assert rows["one"]["last"]["step"] == 200
    assert rows["one"]["steps"] == 200
    assert rows["one"]["last"]["validation_loss"] == pytest.approx(1.2 + 3 * 2.718281828459045**-2)


def test_a_run_trains_as_long_as_its_lock_is_held_and_it_logs(studio: Server, root: Path) -> None:
    run = write_run(root / "live", finished=False)
    (root / "live" / ".lock").touch()
    assert get(studio, "")["runs"][0]["state"] == "training"
    long_ago = time.time() - 3600
    for path in root.glob("live/*"):
        os.utime(path, (long_ago, long_ago))
    assert get(studio, "")["runs"][0]["state"] == "stopped"  # killed: nobody took the lock away
    run.append_metrics(record(210))
    assert get(studio, "")["runs"][0]["state"] == "training"


def test_how_a_run_ended_is_read_from_its_card(studio: Server, root: Path, runs: Path) -> None:
    shutil.copytree(runs / "gpt", root / "gpt")
    assert get(studio, "")["runs"][0]["state"] == "finished"
    card = root / "gpt" / "README.md"
    for end, state in (("patience", "finished"), ("interrupted", "stopped")):
        card.write_text(re.sub(r"\| ended \| \w+ \|", f"| ended | {end} |", card.read_text("utf-8")), encoding="utf-8")
        assert get(studio, "")["runs"][0]["state"] == state


def test_curves_are_the_logged_numbers_and_what_is_no_number_is_missing(studio: Server, root: Path) -> None:
    run = write_run(root / "a", 20)
    run.append_metrics(record(30) | {"gradient_norm": float("inf"), "kl": 0.5})
    with (root / "a" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 40, "lo')  # is being written
    found = get(studio, "curves", run="a")
    assert found["records"] == 3
    columns = found["columns"]
    assert columns["step"] == [10, 20, 30]
    assert columns["gradient_norm"] == [0.5, 0.5, None]
    assert columns["kl"] == [None, None, 0.5]
    assert columns["loss"] == [record(step)["loss"] for step in (10, 20, 30)]


def test_of_many_records_the_ends_and_the_validations_are_kept(studio: Server, root: Path) -> None:
    run = write_run(root / "long", 0)
    lines = [record(step) | ({"validation_loss": 2.0} if step % 997 == 0 else {}) for step in range(1, 10_001)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = get(studio, "curves", run="long")
    columns = found["columns"]
    assert found["records"] == 10_000
    assert 1500 <= len(columns["step"]) <= 1511
    assert (columns["step"][0], columns["step"][-1]) == (1, 10_000)
    assert sum(value is not None for value in columns["validation_loss"]) == 10


@pytest.mark.parametrize("name", ["", ".", "..", "../runs/a", "a/..", "/etc", "nope", "a\x00b", "b" * 300])
def test_only_runs_below_the_folder_can_be_named(studio: Server, root: Path, name: str) -> None:
    write_run(root / "a")
    for path in ("curves", "about"):
        assert "there is no run" in get(studio, path, 404, run=name)["error"]["message"]
    assert "there is no run" in post(studio, "serve", 404, run=name)["error"]["message"]


def test_about_a_run_is_what_its_folder_says(studio: Server, root: Path) -> None:
    run = write_run(root / "a", rate=0.02)
    write_report(run.path)
    rollout = {"rollout": 3, "prompt": "2 + 2 =", "completion": " 4", "reward": 1.0, "finished": True}
    (run.path / "samples.jsonl").write_text(json.dumps(rollout) + "\n" + '{"rollout": 4', encoding="utf-8")
    found = get(studio, "about", run="a")
    assert found["settings"]["batch_size"] == 8
    assert found["model"]["width"] == 8
    assert found["made_of"]["data.name"] == "rumi"
    assert found["report"]["after.perplexity"] == 4.25
    assert found["card"].startswith("# a")
    assert "--resume" in found["resume"]
    assert found["samples"] == [
        {"when": "before", "prompt": "Who?", "reference": "Ada.", "output": "Bob."},
        {"when": "rollout 3", "prompt": "2 + 2 =", "output": " 4", "reward": 1.0},
    ]


def test_a_run_without_weights_is_told_when_it_is_to_speak(studio: Server, root: Path) -> None:
    write_run(root / "young", finished=False)
    assert "\n" not in post(studio, "serve", 400, run="young")["error"]["message"]


def test_a_run_that_trained_on_is_read_anew(studio: Server, root: Path, runs: Path) -> None:
    shutil.copytree(runs / "gpt", root / "growing")
    asked = {"model": post(studio, "serve", run="growing")["model"], "prompt": "the", "temperature": 0, "max_tokens": 8}
    url = f"{studio.url}/completions"
    before = httpx.post(url, json=asked, timeout=20).json()["choices"][0]["text"]
    assert asked["model"] == "runs/growing"
    assert post(studio, "serve", run="growing")["model"] == "runs/growing"
    model = load(root / "growing")
    torch.nn.init.normal_(next(model.model.parameters()), std=3.0)
    assert model.run is not None
    model.run.save_weights(model.model)
    post(studio, "serve", run="growing")
    after = httpx.post(url, json=asked, timeout=20).json()["choices"][0]["text"]
    assert before != after == load(root / "growing").generate("the", max_new_tokens=8, greedy=True)[0].completion


def test_encoders_fill_and_translators_answer(studio: Server, root: Path, runs: Path) -> None:
    for name in ("bert", "dates", "gpt"):
        shutil.copytree(runs / name, root / name)
    text = "the [MASK] of"
    found = post(studio, "sample", run="bert", text=text)
    assert found["kind"] == "gaps"
    ours = load(root / "bert").fill(text)
    assert [(one["word"], pytest.approx(one["probability"])) for one in found["gaps"][0]] == ours[0]
    answer = post(studio, "sample", run="dates", text="3 May 2020", max_tokens=12)
    assert answer["text"] == load(root / "dates").generate("3 May 2020", max_new_tokens=12)[0].completion
    assert "[MASK]" in post(studio, "sample", 400, run="bert", text="the")["error"]["message"]
    assert "/v1/completions" in post(studio, "sample", 400, run="gpt", text="the")["error"]["message"]


# -- the page ---------------------------------------------------------------------------------------------------------


def test_curves_of_several_runs_lie_over_one_another_and_grow(
    studio: Server, root: Path, visit: Callable[..., Page]
) -> None:
    write_run(root / "slow")
    run = write_run(root / "fast", 100, rate=0.03, finished=False)
    (run.path / ".lock").touch()
    page = visit(studio, "runs?run=slow")
    picture = page.get_by_role("img", name="Loss (nats a label)")
    expect(picture).to_have_accessible_name(
        "Loss (nats a label). slow: from 3.715 to 1.406 at 200; slow, held out: from 3.02 to 1.606 at 200."
    )
    page.get_by_role("checkbox", name="fast").check()
    expect(picture).to_have_accessible_name(re.compile("slow: from .* fast: from 3.222 to 1.149 at 100"))
    assert picture.locator("canvas").evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)"
    )
    last = page.get_by_role("region", name="The last figures").get_by_role("row", name="fast")
    expect(last).to_contain_text("1.149")
    expect(page.get_by_text("training", exact=True)).to_be_visible()
    run.append_metrics(record(110, 0.03, loss=0.7512))
    expect(last).to_contain_text("0.7512", timeout=15_000)
    expect(picture).to_have_accessible_name(re.compile("0.7512 at 110"))
    assert "run=slow&run=fast" in page.url
    assert findings(page) == []
    page.get_by_label("Along").select_option("seconds")
    expect(picture).to_have_accessible_name(re.compile("0.7512 at 11;"))
    page.get_by_label("logarithmic").check()
    page.get_by_label("Smoothed by").fill("0.9")
    expect(picture).not_to_have_accessible_name(re.compile("0.7512 at 11;"))


def test_settings_side_by_side_show_what_differs(studio: Server, root: Path, visit: Callable[..., Page]) -> None:
    write_run(root / "a")
    write_report(write_run(root / "b", batch_size=16).path)
    page = visit(studio, "runs?run=a&run=b")
    page.get_by_role("tab", name="Curves").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Compare")).to_be_focused()
    trained = page.get_by_role("region", name="How it is trained")
    expect(trained.get_by_role("row")).to_have_count(2)
    expect(trained.get_by_role("row", name="batch_size")).to_contain_text("816")
    measured = page.get_by_role("region", name="What was measured")
    expect(measured.get_by_role("row", name="after.perplexity")).to_contain_text("–4.25")
    page.get_by_label("only what differs").uncheck()
    expect(trained.get_by_role("row", name="optimizer")).to_contain_text("adamw")
    assert findings(page) == []
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_text("A decoder.").first).to_be_visible()


def test_runs_write_side_by_side_and_show_what_they_kept(
    studio: Server, root: Path, runs: Path, visit: Callable[..., Page]
) -> None:
    for name in ("gpt", "bert"):
        shutil.copytree(runs / name, root / name)
    write_report(root / "gpt")
    page = visit(studio, "runs?run=gpt&run=bert&view=samples", told_of="400")
    page.get_by_label("A text to begin with").fill("the [MASK] of")
    page.get_by_label("Tokens at most").fill("12")
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_role("region", name="What bert says")).to_contain_text("Gap 1")
    expect(page.get_by_role("region", name="What gpt says").get_by_role("alert")).to_contain_text("[")
    page.get_by_label("A text to begin with").fill("the ")
    page.get_by_role("button", name="Write").click()
    written = load(root / "gpt").generate("the ", max_new_tokens=12, greedy=True)[0].text
    expect(page.get_by_role("region", name="What gpt says").locator("pre")).to_have_text(written)
    page.get_by_text("before: Who?").click()
    expect(page.get_by_text("Bob.")).to_be_visible()
    assert findings(page) == []
