"""The published models that packages carry, against transformers with the same (dequantised) weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scratchlm import kernels
from scratchlm.checkpoints.catalogue import Located, find_pulled
from scratchlm.checkpoints.huggingface import save_huggingface
from scratchlm.generation.build import build_engine
from scratchlm.generation.engine import Request
from scratchlm.generation.native import NativeCache, NativeModel, Segment
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.weights import GGUFWeights
from scratchlm.language_model import LanguageModel
from scratchlm.models import Decoder
from scratchlm.opening import open_model

transformers = pytest.importorskip("transformers")

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a small boat that",
    "def fibonacci(n):\n",
    "Q: What is 12 times 7?\nA:",
    "The three primary colours are",
    "Dear Sir or Madam,\n\nI am writing to",
    "In 1969, people first walked on",
    "List five fruits:\n1.",
    "To make tea, first",
    "La lune est",
    "import torch\n\nclass Model(",
    "Photosynthesis is the process by which",
    "She opened the door and",
    "The opposite of hot is",
    "SELECT name FROM",
    "Water boils at",
    "The best way to learn a language is",
    "Rumi was a poet who",
    "1, 1, 2, 3, 5, 8,",
    "<html>\n<head>",
]


@pytest.fixture(scope="module")
def smollm2() -> Located:
    found = find_pulled("smollm2-135m-instruct")
    if found is None or found.kind != "gguf":
        pytest.skip("the model is not here; fetch it with: scratchlm models pull smollm2-135m-instruct")
    return found


@pytest.fixture(scope="module")
def reference(smollm2: Located, tmp_path_factory: pytest.TempPathFactory) -> object:
    folder: Path = tmp_path_factory.mktemp("smollm2")
    save_huggingface(open_model(smollm2).model, folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.slow
@torch.inference_mode()
def test_smollm2s_greedy_tokens_and_logits_are_those_of_the_dequantised_reference(
    smollm2: Located, reference: torch.nn.Module
) -> None:
    opened = open_model(smollm2)
    assert isinstance(opened.model, Decoder)
    engine = build_engine(opened.model, rows=8)
    prompts = [opened.tokenizer.encode(prompt) for prompt in PROMPTS]
    tickets = engine.run([Request(ids, 200, SamplingConfig(greedy=True)) for ids in prompts])
    for ids, ticket in zip(prompts, tickets, strict=True):
        new = [token.id for token in ticket.tokens]
        assert len(new) == 200
        text = torch.tensor([[*ids, *new]])
        logits = reference(text).logits[0]
        # What the reference says after each of our tokens is the next of ours: by induction its own text is the same.
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == new
        torch.testing.assert_close(opened.model(text)[0], logits, atol=1e-3, rtol=0)


@pytest.mark.slow
@torch.inference_mode()
def test_the_engine_in_four_bits_keeps_smollm2s_logits_close(smollm2: Located, reference: torch.nn.Module) -> None:
    if not kernels.available():
        pytest.skip("no C compiler here")
    opened = open_model(smollm2, weights=False)
    assert opened.file is not None
    weights = GGUFWeights(opened.file)
    model = NativeModel(weights, "int4")
    assert 90e6 < model.bytes < 105e6  # the file's own size: nothing is kept in float32
    ids = opened.tokenizer.encode("\n".join(PROMPTS))
    logits = model.logits([Segment(0, ids, 0, wanted="all")], NativeCache(model.config, 1, len(ids)))
    expected = reference(torch.tensor([ids])).logits[0]
    assert float((logits - expected).norm() / expected.norm()) < 0.03
    assert float((logits.argmax(-1) == expected.argmax(-1)).float().mean()) > 0.9


@pytest.mark.slow
def test_smollm2_chooses_four_bits_and_answers_in_a_chat(smollm2: Located) -> None:
    if not kernels.available():
        pytest.skip("no C compiler here")
    model = LanguageModel(open_model(smollm2, weights=False))
    answer = model.chat(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        max_new_tokens=30,
        sampling=SamplingConfig(greedy=True),
    )
    assert model.engine().backend.precision == "int4"
    assert "Paris" in answer.completion
    assert "<|im_end|>" not in answer.completion
