"""The page of tokens, and what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from scratchlm.opening import open_model, open_tokenizer
from scratchlm.serving.server import Server

from .conftest import findings, home


def cut(studio: Server, text: str, *names: str, special: bool = False, status: int = 200) -> Any:
    asked = {"text": text, "models": names, "special": special}
    answer = httpx.post(f"{home(studio)}studio/api/tokens/cut", json=asked)
    assert answer.status_code == status
    return answer.json()["cuts"] if status == 200 else answer.json()["error"]


@pytest.mark.parametrize("text", ["", "Größe 你好 🙂\n\ttea", "a honey bee", "<|im_start|>", "\x00\x7f"])
def test_the_tokens_are_those_that_the_model_reads(studio: Server, models: Path, text: str) -> None:
    for found in cut(studio, text, "chat", "encoder"):
        tokenizer = open_tokenizer(models / found["model"])
        assert [one["id"] for one in found["tokens"]] == tokenizer.encode(text)
        assert [one["spelled"] for one in found["tokens"]] == [tokenizer.token(one["id"]) for one in found["tokens"]]
        assert found["exact"] == (tokenizer.decode(tokenizer.encode(text)) == text)
    content = b"".join(
        bytes.fromhex(one["bytes"]) if "bytes" in one else one["text"].encode()
        for one in cut(studio, text, "chat")[0]["tokens"]
    )
    assert content.decode() == text


def test_special_tokens_are_text_unless_asked_for(studio: Server) -> None:
    (plain,) = cut(studio, "<|im_start|>", "chat")
    (special,) = cut(studio, "<|im_start|>", "chat", special=True)
    assert not any(one.get("special") for one in plain["tokens"])
    assert [one["text"] for one in special["tokens"] if one.get("special")] == ["<|im_start|>"]
    (around,) = cut(studio, "tea", "encoder", special=True)
    assert [around["tokens"][at]["text"] for at in (0, -1)] == ["[CLS]", "[SEP]"]


def test_what_one_cannot_cut_is_told_beside_the_others(studio: Server, runs: Path) -> None:
    assert studio.settings.studio is not None
    root = studio.settings.studio.runs
    root.mkdir(exist_ok=True)
    (root / "letters").symlink_to(runs / "gpt")
    refused, good = cut(studio, "€", "runs/letters", "chat")
    assert "'€'" in refused["error"]
    assert len(good["tokens"]) == 3
    (root / "letters").unlink()


def test_only_what_is_offered_can_be_named(studio: Server, models: Path) -> None:
    for name in (str(models / "chat"), "nobody", "../runs", "runs/..", ""):
        assert "no model" in cut(studio, "a", name, status=404)["message"]
    assert "at most 20000" in cut(studio, "a" * 20_001, "chat", status=400)["message"]
    assert "at least 1" in cut(studio, "a", status=400)["message"]


def test_a_tokenizer_is_opened_without_weights(models: Path, runs: Path, tmp_path: Path) -> None:
    for folder in (models / "chat", models / "encoder", runs / "gpt"):
        copied = tmp_path / folder.name
        copied.mkdir()
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                (copied / path.name).write_bytes(path.read_bytes())
        assert open_tokenizer(copied).fingerprint == open_model(folder).tokenizer.fingerprint


def test_the_page_shows_how_each_cuts(studio: Server, visit: Callable[..., Page]) -> None:
    page = visit(studio, "tokens?model=chat&model=encoder")
    page.get_by_label("Text", exact=True).fill("Tea für 2")
    words = page.get_by_role("group", name="Tokens by encoder")
    letters = page.get_by_role("group", name="Tokens by chat")
    expect(letters.locator(".token")).to_have_text(["T", "e", "a", " ", "f", "‹c3›", "‹bc›", "r", " ", "2"])
    expect(words.locator(".token").first).to_have_text("tea")
    row = page.get_by_role("row", name="chat")
    expect(row).to_contain_text("exactly")
    expect(row.get_by_role("cell").nth(2)).to_have_text("10")
    expect(page.get_by_role("row", name="encoder")).to_contain_text("changed")
    letters.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_text("Token 6: number")).to_contain_text("the bytes c3: a part of a character")
    assert findings(page) == []
    page.get_by_label("Show tokens as").select_option("ids")
    expect(letters.locator(".token").first).to_have_text(
        str(studio.models.served["chat"].loaded.tokenizer.encode("T")[0])
    )
    page.get_by_role("checkbox", name="encoder").uncheck()
    expect(words).to_have_count(0)
    assert "model=chat" in page.url
    assert "encoder" not in page.url
