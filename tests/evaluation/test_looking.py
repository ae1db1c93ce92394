"""Looking into models while they read a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.evaluation.looking import logit_lens, read_attention
from scratchlm.evaluation.plots import plot_lens
from scratchlm.models import Model, ModelConfig, build_model
from scratchlm.opening import open_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

from ..cli.library import DOCUMENTS, write_encoder

TEXT = "a honey bee dances"


def made(**changes: Any) -> tuple[Model, Tokenizer]:
    torch.manual_seed(0)
    tokenizer = train_tokenizer("char", [TEXT])
    shape: dict[str, Any] = {"context": 32, "width": 12, "layers": 2, "heads": 3, "dropout": 0.1, "init_std": 0.5}
    return build_model(ModelConfig(tokenizer.vocab_size, **(shape | changes))), tokenizer


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_the_last_layer_says_what_the_model_says(architecture: str) -> None:
    model, tokenizer = made(architecture=architecture, **({"head": "mlm"} if architecture == "encoder" else {}))
    lens = logit_lens(model, tokenizer, TEXT, top=3)
    assert lens.ids == tokenizer.encode(TEXT)
    assert lens.next == (architecture == "decoder")
    assert len(lens.layers) == 3
    assert model.training  # as it was, and without dropout meanwhile
    with torch.no_grad():
        shares = model.eval()(torch.tensor([lens.ids]))[0].softmax(-1)
    for guess, expected in zip(lens.layers[-1], shares, strict=True):
        values, tokens = expected.topk(3)
        assert [token for token, _ in guess.best] == tokens.tolist()
        torch.testing.assert_close(torch.tensor([value for _, value in guess.best]), values)
        assert guess.rank == 1
        assert guess.probability == guess.best[0][1]
    for layer in lens.layers:
        for at, guess in enumerate(layer):
            said = lens.layers[-1][at].best[0][0]
            place = [token for token, _ in guess.best].index(said) + 1 if guess.rank <= 3 else None
            assert place in (None, guess.rank)
            assert guess.rank == 1 or guess.probability <= guess.best[0][1]
    assert any(guess.rank > 1 for guess in lens.layers[0])


def test_attention_is_that_of_the_tokens_that_were_read() -> None:
    model, tokenizer = made()
    looks = read_attention(model, tokenizer, TEXT, most=7)
    assert (len(looks.ids), looks.total, looks.causal) == (7, len(TEXT), True)
    expected = model.eval().attention_maps(torch.tensor([looks.ids]))  # type: ignore[operator]
    torch.testing.assert_close(torch.stack(list(looks.maps)), torch.stack([one[0] for one in expected]))
    assert len(read_attention(*made(context=5), TEXT).ids) == 5


def test_a_mask_is_the_models_own_and_the_tokens_around_a_text_come_when_asked(tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder", DOCUMENTS.values())
    opened = open_model(tmp_path / "encoder")
    looks = read_attention(opened.model, opened.tokenizer, "the [MASK] dance", add_special=True)
    assert [opened.tokenizer.token(one) for one in looks.ids] == ["[CLS]", "the", "[MASK]", "dance", "[SEP]"]
    assert len(read_attention(opened.model, opened.tokenizer, "the [MASK] dance").ids) == 3
    with pytest.raises(UserError, match="says no words"):
        logit_lens(opened.model, opened.tokenizer, "the dance")


@pytest.mark.parametrize("look", [read_attention, logit_lens])
def test_what_cannot_be_looked_into_is_told(look: Any) -> None:
    with pytest.raises(UserError, match="empty"):
        look(*made(), "")
    with pytest.raises(UserError, match="encoder-decoder"):
        look(*made(architecture="seq2seq"), TEXT)
    with pytest.raises(UserError, match="top of a logit lens is 0"):
        logit_lens(*made(), TEXT, top=0)


def test_a_lens_is_drawn_with_a_row_for_each_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scratchlm.evaluation import plots

    seen: list[Any] = []
    save = plots.save_figure

    def keep(figure: Any, *place: Any, **how: Any) -> Path:
        seen.append(figure)
        return save(figure, *place, **how)

    monkeypatch.setattr(plots, "save_figure", keep)
    model, tokenizer = made(context=64)
    path = plot_lens(model, tokenizer, TEXT * 2, tmp_path / "lens.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    panel = seen[0].axes[0]
    assert [one.get_text() for one in panel.get_yticklabels()] == ["embeddings", "layer 1", "layer 2"]
    lens = logit_lens(model, tokenizer, TEXT * 2, top=1, most=24)
    drawn = [one.get_text() for one in panel.texts]
    said = [plots.token_label(tokenizer, guess.best[0][0]) for layer in lens.layers for guess in layer]
    assert drawn == said
    assert "(the first 24 of 36 tokens)" in seen[0].get_suptitle()
