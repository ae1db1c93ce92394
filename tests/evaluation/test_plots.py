from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.evaluation.plots import plot_attention, plot_curves, read_metrics, token_label
from scratchlm.models import ModelConfig, build_model
from scratchlm.tokenizers import train_tokenizer

TEXT = "Jalāl al-Dīn\nMuḥammad Rūmī costs $5 or $6"


def write(path: Path, records: list[dict[str, object]], ending: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + ending)
    return path


def records(steps: int) -> list[dict[str, object]]:
    return [
        {"step": step, "loss": 4 / step, "learning_rate": 1e-3}
        | ({"validation_loss": 5 / step} if step % 10 == 0 else {})
        for step in range(1, steps + 1)
    ]


def drawn(path: Path) -> np.ndarray:
    image = matplotlib.image.imread(path)
    assert image.shape[0] > 150
    assert image.shape[1] > 300
    assert image[..., :3].std() > 0.01
    return image


@pytest.mark.parametrize("steps", [1, 5, 300])
def test_curves_are_drawn_however_few_the_records(tmp_path: Path, steps: int) -> None:
    out = plot_curves(write(tmp_path / "metrics.jsonl", records(steps)), tmp_path / "new" / "curves.png", floor=0.03)
    drawn(out)


def test_a_validation_curve_and_a_floor_change_the_picture(tmp_path: Path) -> None:
    with_both, plain = records(40), [{**record} for record in records(40)]
    for record in plain:
        record.pop("validation_loss", None)
    pictures = [
        drawn(plot_curves(write(tmp_path / f"{i}.jsonl", some), tmp_path / f"{i}.png", floor=floor))
        for i, (some, floor) in enumerate([(with_both, None), (plain, None), (plain, 0.05)])
    ]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])


def test_records_without_a_loss_or_with_infinite_ones_are_passed_over(tmp_path: Path) -> None:
    some = [*records(3), {"step": 4, "event": "saved"}, {"step": 5, "loss": float("nan")}]
    drawn(plot_curves(write(tmp_path / "metrics.jsonl", some), tmp_path / "curves.png"))


def test_a_last_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    assert len(read_metrics(write(tmp_path / "m.jsonl", records(3), ending='{"step": 4, "lo'))) == 3


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo\n{"step": 3, "loss": 1.0}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(path)


@pytest.mark.parametrize("content", ["", "\n\n", '{"step"'])
def test_a_log_without_records_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match="no records yet"):
        read_metrics(path)


def test_a_missing_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        plot_curves(tmp_path / "none.jsonl", tmp_path / "curves.png")


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        plot_curves(write(tmp_path / "m.jsonl", records(3)), tmp_path / "file" / "curves.png")


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_each_layer_has_a_picture_of_its_heads(tmp_path: Path, architecture: str) -> None:
    tokenizer = train_tokenizer("char", [TEXT])
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, architecture=architecture, context=32, width=12, layers=2, heads=3
    )  # type: ignore[arg-type]
    model = build_model(config)
    paths = plot_attention(model, tokenizer, TEXT, tmp_path)
    assert [path.name for path in paths] == ["attention-layer-1.png", "attention-layer-2.png"]
    for path in paths:
        drawn(path)
    assert model.training


def test_letters_outside_the_font_are_written_without_warnings(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    tokenizer = train_tokenizer("char", ["詩 is poetry"])
    model = build_model(ModelConfig(vocab_size=tokenizer.vocab_size, width=12, layers=1, heads=1))
    plot_attention(model, tokenizer, "詩 is", tmp_path)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_an_empty_text_is_told(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("char", [TEXT])
    model = build_model(ModelConfig(vocab_size=tokenizer.vocab_size, width=12, layers=1, heads=1))
    with pytest.raises(UserError, match="empty"):
        plot_attention(model, tokenizer, "", tmp_path)


def test_an_encoder_decoder_has_no_maps_of_one_text(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("char", [TEXT])
    config = ModelConfig(vocab_size=tokenizer.vocab_size, architecture="seq2seq", width=12, layers=1, heads=1)
    with pytest.raises(UserError, match="decoder or an encoder"):
        plot_attention(build_model(config), tokenizer, TEXT, tmp_path)


def test_labels_show_white_space_cut_long_words_and_spell_what_the_font_lacks() -> None:
    tokenizer = train_tokenizer("char", [" \nā詩"])
    assert [token_label(tokenizer, t) for t in tokenizer.encode(" \nā詩")] == ["␣", "↵", "ā", "U+8A69"]
    tokenizer = train_tokenizer("word", ["incomprehensibilities $x$"])
    assert [token_label(tokenizer, t) for t in tokenizer.encode("incomprehensibilities $x$")] == [
        "incomprehensi…",
        "$x$",
    ]
    tokenizer = train_tokenizer("bpe", ["a"], vocab_size=256)
    torch.manual_seed(0)
    assert all(token_label(tokenizer, t) and "\ufffd" not in token_label(tokenizer, t) for t in tokenizer.encode(" ā"))
