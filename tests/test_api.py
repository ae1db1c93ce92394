"""The Python API: train, load, and what a model can do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

import scratchlm
from scratchlm.generation.generate import generate
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.training import Reporter

SMALL = {"layers": 1, "width": 16, "heads": 2, "batch_size": 4, "steps": 6}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> scratchlm.LanguageModel:
    return scratchlm.train("tinygpt", "rumi", tmp_path_factory.mktemp("api") / "run", quiet=True, **SMALL)


def test_a_loaded_model_does_what_the_trained_one_does(decoder: scratchlm.LanguageModel) -> None:
    loaded = scratchlm.load(decoder.run.path)
    assert loaded.fit is None
    assert loaded.evaluate() == decoder.evaluate()
    options = {"max_new_tokens": 50, "seed": 3, "top_p": 0.9}
    assert [t.text for t in loaded.generate("Rumi", **options)] == [t.text for t in decoder.generate("Rumi", **options)]


def test_generate_hands_its_dials_on(decoder: scratchlm.LanguageModel) -> None:
    greedy = {decoder.generate("Rumi", greedy=True, seed=seed)[0].text for seed in range(3)}
    cold = {decoder.generate("Rumi", temperature=0.0, seed=seed)[0].text for seed in range(3)}
    single = {decoder.generate("Rumi", top_k=1, seed=seed)[0].text for seed in range(3)}
    drawn = {decoder.generate("Rumi", seed=seed)[0].text for seed in range(3)}
    assert greedy == cold == single
    assert len(drawn) == 3


def test_weights_that_were_changed_in_place_are_not_answered_from_the_cache(decoder: scratchlm.LanguageModel) -> None:
    loaded = scratchlm.load(decoder.run.path)
    before = loaded.generate("Rumi", greedy=True, max_new_tokens=20)[0].text
    assert loaded.model is not None
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    changed = loaded.generate("Rumi", greedy=True, max_new_tokens=20)[0].text
    fresh = generate(loaded.model, loaded.tokenizer, "Rumi", max_new_tokens=20, sampling=SamplingConfig(greedy=True))
    assert changed == fresh[0].text != before


def test_settings_are_checked_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(scratchlm.UserError, match="did you mean 'steps'"):
        scratchlm.train("tinygpt", "rumi", tmp_path / "run", stepz=3)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_a_training_stops_the_program_that_called_it_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    class Interrupting(Reporter):
        def step(self, done: int, *_: float) -> None:
            if done == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scratchlm.api.Reporter", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            scratchlm.train("tinygpt", "rumi", tmp_path / "run", quiet=True, **SMALL)
    resumed = scratchlm.train("tinygpt", "rumi", tmp_path / "run", quiet=True, resume=True)
    assert resumed.fit is not None
    assert resumed.fit.steps == 6


def test_evaluation_of_another_text_leaves_the_run_as_it_is(decoder: scratchlm.LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Rumi was a mystic", encoding="utf-8")
    before = sorted(path.name for path in decoder.run.path.rglob("*"))
    assert decoder.evaluate(tmp_path / "text.txt")["tokens"] == 16
    assert sorted(path.name for path in decoder.run.path.rglob("*")) == before


def test_the_curves_show_the_floor_of_a_decoder_that_holds_nothing_out(
    decoder: scratchlm.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scratchlm import api
    from scratchlm.evaluation import plots

    seen: dict[str, object] = {}
    monkeypatch.setattr(plots, "plot_curves", lambda *_, **options: seen.update(options))
    api.plot(decoder.run.path, tmp_path)
    assert seen["floor"] == pytest.approx(0.0346, abs=1e-4)


def test_the_package_has_no_other_names() -> None:
    assert set(dir(scratchlm)) == {"LanguageModel", "UserError", "__version__", "align", "finetune", "load", "train"}
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        scratchlm.lode  # noqa: B018
