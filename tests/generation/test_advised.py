"""How answers are drawn where nobody says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import scratchlm
from scratchlm.adapters import LoraSettings, add_lora
from scratchlm.adapters.peft_format import save_adapter
from scratchlm.checkpoints.catalogue import Located, entry_of
from scratchlm.errors import UserError
from scratchlm.generation.advised import FILE, advised_sampling, chat_sampling
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.opening import open_model

from ..serving.conftest import write_chat_model

ASK = [{"role": "user", "content": "What is it?"}]


def advising(folder: Path, **advice: Any) -> Path:
    write_chat_model(folder)
    (folder / FILE).write_text(json.dumps(advice), encoding="utf-8")
    return folder


def test_a_folder_says_it(tmp_path: Path) -> None:
    folder = advising(tmp_path / "m", temperature=0.3, top_k=7, eos_token_id=5, do_sample=True, min_p=None)
    assert advised_sampling(folder) == {"temperature": 0.3, "top_k": 7}
    assert chat_sampling(folder, top_k=None, top_p=0.5, seed=2) == SamplingConfig(
        temperature=0.3, top_k=7, top_p=0.5, seed=2
    )
    assert chat_sampling(folder, temperature=0).is_greedy


def test_an_adapter_is_drawn_from_as_its_base_is(tmp_path: Path) -> None:
    folder = advising(tmp_path / "m", temperature=0.3)
    opened = open_model(folder)
    add_lora(opened.model, LoraSettings(rank=2))
    save_adapter(opened.model, tmp_path / "adapter", str(folder))
    assert advised_sampling(tmp_path / "adapter") == {"temperature": 0.3}
    (folder / FILE).write_text('{"top_p": 2}', encoding="utf-8")
    with pytest.raises(UserError, match="top_p is 2"):  # what is wrong is told, not passed over
        advised_sampling(tmp_path / "adapter")
    folder.rename(tmp_path / "elsewhere")
    assert advised_sampling(tmp_path / "adapter") == {}


def test_the_catalogue_says_it_for_models_without_a_file(tmp_path: Path) -> None:
    entry = entry_of("smollm2-135m-instruct")
    assert entry is not None
    advice = {"temperature": 0.2, "top_p": 0.9}
    assert advised_sampling(Located("gguf", tmp_path / "x.gguf", "x", entry)) == advice
    assert advised_sampling(Located("gguf", entry.folder / "x.gguf", "x")) == advice
    assert advised_sampling(Located("gguf", tmp_path / "x.gguf", "x")) == {}


@pytest.mark.parametrize(
    ("advice", "said"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"top_k": "many"}, "top_k is 'many', which is no number"),
    ],
)
def test_advice_that_cannot_be_followed_names_its_file(tmp_path: Path, advice: dict[str, Any], said: str) -> None:
    folder = advising(tmp_path / "m", **advice)
    with pytest.raises(UserError, match=f"{FILE}: .*{said}.*; mend the file, or remove it"):
        advised_sampling(folder)


def test_a_chat_is_drawn_as_advised_unless_told(tmp_path: Path) -> None:
    plain = scratchlm.load(write_chat_model(tmp_path / "plain"))
    assert chat_sampling(tmp_path / "plain") == SamplingConfig(temperature=0.8, top_p=0.95)
    greedy = plain.chat(ASK, max_new_tokens=12, sampling=SamplingConfig(greedy=True)).completion
    advised = scratchlm.load(advising(tmp_path / "advised", top_k=1))
    assert {advised.chat(ASK, max_new_tokens=12).completion for _ in range(3)} == {greedy}
    told = {advised.chat(ASK, max_new_tokens=12, sampling=SamplingConfig(seed=n)).completion for n in range(3)}
    assert len(told) == 3
