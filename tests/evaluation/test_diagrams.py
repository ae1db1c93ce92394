from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scratchlm.evaluation.diagrams import _example, draw_architecture, draw_attention_head, parameter_count
from scratchlm.evaluation.sheet import Sheet
from scratchlm.models import PRESETS, ModelConfig, build_model, model_preset


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is drawn, in order."""
    seen: list[str] = []
    draw = Sheet.text

    def record(self: Sheet, x: float, y: float, text: str, **style: Any) -> None:
        seen.append(text)
        draw(self, x, y, text, **style)

    monkeypatch.setattr(Sheet, "text", record)
    return seen


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("draw", [draw_architecture, draw_attention_head])
def test_each_preset_gives_a_small_and_not_empty_picture(name: str, draw: Any, tmp_path: Path) -> None:
    path = draw(model_preset(name, 48), tmp_path / "new folder" / "figure.png")
    picture = Image.open(path).convert("L")
    darkest, lightest = picture.getextrema()
    assert picture.width > 500
    assert darkest < 80
    assert lightest == 255
    assert path.stat().st_size < 120_000


def test_the_numbers_in_the_drawing_are_the_configs(words: list[str], tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=77, width=96, layers=3, heads=6, ffn_width=200, context=40)
    draw_architecture(config, tmp_path / "a.png")
    text = "\n".join(words)
    for expected in ("77 → 96", "96 → 200 → 96, GELU", "6 heads of 16", "× 3", "B × T × 77", "context 40"):
        assert expected in text
    assert f"{sum(p.numel() for p in build_model(config).parameters()):,} parameters" in text


def test_pre_norm_draws_the_norm_before_attention_and_post_norm_after_it(words: list[str], tmp_path: Path) -> None:
    orders = {}
    for placement in ("pre", "post"):
        words.clear()
        draw_architecture(ModelConfig(vocab_size=9, norm_placement=placement), tmp_path / "a.png")
        parts = [word for word in words if word in ("LayerNorm", "Causal self-attention", "Feed-forward")]
        orders[placement] = parts
    assert orders["pre"] == ["LayerNorm", "Causal self-attention", "LayerNorm", "Feed-forward"]
    assert orders["post"] == ["Causal self-attention", "LayerNorm", "Feed-forward", "LayerNorm"]


def test_only_an_encoder_decoder_shows_cross_attention_and_only_a_decoder_a_causal_mask(
    words: list[str], tmp_path: Path
) -> None:
    shown = {}
    for name in ("tinybert", "tinygpt", "transformer"):
        words.clear()
        draw_architecture(model_preset(name, 48), tmp_path / "a.png")
        draw_attention_head(model_preset(name, 48), tmp_path / "b.png")
        shown[name] = {word for word in words if word in ("Cross-attention", "Causal self-attention", "Causal mask")}
    assert shown["tinybert"] == set()
    assert shown["tinygpt"] == {"Causal self-attention", "Causal mask"}
    assert shown["transformer"] == {"Cross-attention", "Causal self-attention", "Causal mask"}


def test_rotary_models_have_no_position_table_in_the_drawing(words: list[str], tmp_path: Path) -> None:
    draw_architecture(model_preset("modern", 48), tmp_path / "a.png")
    assert "Positions" not in words
    assert "rotary positions turn Q and K" in words


def test_shared_embeddings_count_once() -> None:
    tied, untied = (ModelConfig(vocab_size=50, tied_embeddings=tied, head_bias=False) for tied in (True, False))
    assert parameter_count(untied) - parameter_count(tied) == 50 * 128


def test_the_example_heads_matrices_follow_the_steps() -> None:
    config = model_preset("tinygpt", 48)
    scores, scaled, masked, shares = _example(5, config, causal=True)
    torch.testing.assert_close(scaled * 32**0.5, scores)
    assert masked.isinf().sum() == 10
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(5))
    assert shares.triu(1).abs().max() == 0


def test_the_suffix_chooses_the_format(tmp_path: Path) -> None:
    path = draw_architecture(model_preset("tinygpt", 48), tmp_path / "a.svg")
    assert "<svg" in path.read_text(encoding="utf-8")
