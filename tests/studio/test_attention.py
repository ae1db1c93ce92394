"""The page of attention, and what it asks for."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from scratchlm.evaluation.looking import logit_lens, read_attention
from scratchlm.exporting import export_model
from scratchlm.opening import open_model
from scratchlm.serving.server import Server
from scratchlm.serving.studio import finding
from scratchlm.serving.studio.settings import StudioSettings

from ..serving.conftest import serving
from .conftest import findings, home

TEXT = "The bee sat."


def ask(studio: Server, path: str, model: str, text: str = TEXT, status: int = 200) -> Any:
    answer = httpx.post(f"{home(studio)}studio/api/attention/{path}", json={"model": model, "text": text}, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["chat", "encoder"])
def test_the_maps_are_those_of_the_textbook_path(studio: Server, models: Path, name: str) -> None:
    found = ask(studio, "maps", name)
    opened = open_model(models / name)
    looks = read_attention(opened.model, opened.tokenizer, TEXT, add_special=True)
    assert [one["id"] for one in found["tokens"]] == looks.ids
    assert found["causal"] == (name == "chat")
    numbers = np.frombuffer(base64.b64decode(found["maps"]), "<u2") / found["whole"]
    size = len(looks.ids)
    maps = numbers.reshape(found["layers"], found["heads"], size, size)
    for mine, expected in zip(maps, looks.maps, strict=True):
        np.testing.assert_allclose(mine, expected.numpy(), atol=2e-5)
    if name == "encoder":
        assert [found["tokens"][at]["text"] for at in (0, -1)] == ["[CLS]", "[SEP]"]


def test_the_lens_tells_what_each_layer_would_say(studio: Server, models: Path) -> None:
    found = ask(studio, "lens", "chat")
    opened = open_model(models / "chat")
    lens = logit_lens(opened.model, opened.tokenizer, TEXT, add_special=True)
    assert found["next"]
    assert len(found["layers"]) == opened.config.layers + 1
    for mine, expected in zip(found["layers"], lens.layers, strict=True):
        assert [[one["id"] for one in guess["best"]] for guess in mine] == [
            [token for token, _ in guess.best] for guess in expected
        ]
        assert [guess["rank"] for guess in mine] == [guess.rank for guess in expected]
        assert [guess["probability"] for guess in mine] == pytest.approx([guess.probability for guess in expected])
    assert {guess["rank"] for guess in found["layers"][-1]} == {1}


def test_what_cannot_be_looked_into_is_told(studio: Server, runs: Path) -> None:
    assert "says no words" in ask(studio, "lens", "encoder", status=400)
    assert "text is empty" in ask(studio, "maps", "chat", "", status=400)
    assert "at most 20000" in ask(studio, "maps", "chat", "a" * 20_001, status=400)
    for name in ("nobody", "../runs", "", "runs/.."):
        assert "no model" in ask(studio, "maps", name, status=404)
    assert studio.settings.studio is not None
    root = studio.settings.studio.runs
    root.mkdir(exist_ok=True)
    (root / "translating").symlink_to(runs / "dates")
    assert "encoder-decoder" in ask(studio, "maps", "runs/translating", "1.2.1999", status=400)
    (root / "translating").unlink()


def test_a_long_text_is_read_at_its_beginning(studio: Server) -> None:
    maps, lens = (ask(studio, path, "chat", "tea " * 100) for path in ("maps", "lens"))
    assert (len(maps["tokens"]), len(lens["tokens"])) == (128, 64)
    assert maps["total"] == lens["total"] == 400


def test_a_file_whose_weights_have_no_room_is_not_read(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(models / "chat", "gguf", tmp_path / "chat.gguf")
    settings = StudioSettings(runs=tmp_path / "runs", home=tmp_path / "made")
    with serving(f"file={tmp_path / 'chat.gguf'}", studio=settings) as server:
        assert ask(server, "maps", "file")["layers"] == 2
        monkeypatch.setattr(finding.psutil, "virtual_memory", lambda: type("Free", (), {"available": 10}))
        assert "looking into file takes" in ask(server, "maps", "file", status=400)


def test_the_page_shows_heads_and_layers(studio: Server, visit: Callable[..., Page]) -> None:
    page = visit(studio, "attention?model=chat", told_of="400")
    page.get_by_label("Text", exact=True).fill(TEXT)
    page.get_by_role("button", name="Look").click()
    heads = page.get_by_role("list", name="Heads of layer 1").get_by_role("button")
    expect(heads).to_have_count(4)
    expect(heads.first).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Layer 1 of 2").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("list", name="Heads of layer 2").get_by_role("button", name="Head 3").click()
    section = page.get_by_role("region", name="Where head 3 of layer 2 looks")
    tokens = section.get_by_role("group")
    tokens.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    found = ask(studio, "maps", "chat")
    size = len(found["tokens"])
    row = np.frombuffer(base64.b64decode(found["maps"]), "<u2").reshape(2, 4, size, size)[1, 2, 4] / found["whole"]
    detail = section.locator(".detail")
    expect(detail).to_contain_text("Token 5, b, looks at")
    share = 100 * float(row.max())
    expect(detail).to_contain_text(f"{share:.0f} %")
    assert findings(page) == []
    page.get_by_role("tab", name="What layers would say").click()
    grid = page.get_by_role("grid", name="What each layer would say at each token")
    expect(grid.get_by_role("row")).to_have_count(4)  # the tokens, both layers, the embeddings
    lens = ask(studio, "lens", "chat")
    grid.get_by_role("gridcell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    chosen = page.get_by_role("region", name="The chosen field")
    expect(chosen.get_by_role("heading")).to_have_text("After token 2, h, layer 1")
    guess = lens["layers"][1][1]
    expect(chosen.get_by_role("row")).to_have_count(5)
    expect(chosen.get_by_role("row").first).to_contain_text(f"{100 * guess['best'][0]['probability']:.1f} %")
    expect(chosen).to_contain_text(f"here it is number {guess['rank']:,}")
    assert findings(page) == []
    assert "view=lens" in page.url
    page.get_by_label("Read by").select_option("encoder")
    page.get_by_role("button", name="Look").click()
    expect(page.get_by_role("alert")).to_contain_text("says no words")
    page.get_by_role("tab", name="Where heads look").click()
    expect(page.get_by_role("list", name="Heads of layer 1")).to_contain_text("many tokens")


@pytest.mark.parametrize(("theme", "width"), [("dark", 1280), ("light", 380), ("dark", 380)])
def test_what_it_shows_fits_and_is_accessible(
    studio: Server, visit: Callable[..., Page], theme: str, width: int
) -> None:
    page = visit(studio, "attention?model=chat", theme=theme, width=width)
    page.get_by_role("button", name="Look").click()
    for tab, shown in (
        ("Where heads look", "Heads of layer 1"),
        ("What layers would say", "What each layer would say"),
    ):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_label(shown).first).to_be_visible()
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
