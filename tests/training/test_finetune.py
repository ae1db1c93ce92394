"""Fine-tuning from rows in a file to a run that opens again: what moves, what is learned, and what is left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import scratchlm
from scratchlm.adapters import FrozenLinear, trainable
from scratchlm.checkpoints import RunFolder
from scratchlm.data import IGNORE
from scratchlm.models import Model, evaluating
from scratchlm.opening import open_model
from scratchlm.training import Question, Reporter, TuneResult, Tuning
from scratchlm.training import finetune as tune
from scratchlm.training.finetune import prepare
from scratchlm.training.loop import FitResult

from .tuned_models import rows, save_model, sentence, settings, write_rows

QUIET = Reporter(quiet=True)
FAMILIES = ("gpt2", "llama", "bert")
CASES = [("gpt2", "lm"), ("gpt2", "prompt"), ("llama", "chat"), ("bert", "classify"), ("llama", "classify")]
CASES += [("bert", "tag"), ("gpt2", "tag")]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models by family, and a file of rows by task."""
    folder = tmp_path_factory.mktemp("bases")
    for family in FAMILIES:
        save_model(folder / family, family)
    for task in ("lm", "prompt", "chat", "classify", "tag"):
        write_rows(folder / f"{task}.jsonl", rows(task))
        write_rows(folder / f"{task}-held.jsonl", rows(task, 9, first=500))
    return folder


def question(bases: Path, family: str, task: str, method: Any = "full", **more: Any) -> Question:
    return Question(str(bases / family), str(bases / f"{task}.jsonl"), None, method, **more)


def copies(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, and the numbers of weights in few bits."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return kept | {name: buffer.clone() for name, buffer in model.named_buffers()}


def followed(asked: Question, out: Path, **changes: Any) -> tuple[TuneResult, dict[str, Tensor], set[str]]:
    """A tuning, its model's tensors before it, and the names of those that are trained."""
    before: dict[str, Tensor] = {}
    names: set[str] = set()

    def look(tuning: Tuning, fit: FitResult | None) -> None:
        if fit is None:
            before.update(copies(tuning.model))
            names.update(trainable(tuning.model))

    result = tune(asked, out, settings=settings(**changes), reporter=QUIET, measure=look)
    return result, before, names


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def some_logits(model: Model) -> Tensor:
    ids = torch.arange(1, 13).view(2, 6)
    with torch.no_grad(), evaluating(model):
        states = model.hidden(ids)
        return states if model.head is None else model.logits(states)


# -- what moves, and what is left ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_every_trained_tensor_moves_no_other_does_and_the_run_opens_as_the_model_in_memory(
    family: str, task: str, method: str, bases: Path, tmp_path: Path
) -> None:
    result, before, trained = followed(question(bases, family, task, method, validation="0"), tmp_path / "run")
    model = result.tuning.model
    still = {name for name, tensor in copies(model).items() if torch.equal(tensor, before[name])}
    assert trained
    assert still == before.keys() - trained
    if method == "full":
        assert trained == dict(model.named_parameters()).keys()
    else:
        assert all(".adapters." in name for name in trained)
        assert any(isinstance(module, FrozenLinear) for module in model.modules()) == (method == "qlora")
    losses = [record["loss"] for record in metrics(tmp_path / "run")]
    assert sum(losses[-3:]) < sum(losses[:3])

    opened = open_model(tmp_path / "run")
    assert opened.config == model.config
    close = {"atol": 0.0 if method == "full" else 1e-5, "rtol": 0.0}
    torch.testing.assert_close(some_logits(opened.model), some_logits(model), **close)
    assert all(isinstance(module, nn.Linear) for module in opened.model.modules() if hasattr(module, "in_features"))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {"dora": True, "targets": "c_attn,mlp.c_proj"}),
        ("llama", {"rslora": True, "targets": "peft", "lora_layers": "1", "lora_dropout": 0.1}),
        ("gpt2", {"lora_bias": "all", "rank": 1}),
        ("llama", {"train_modules": "lm_head,embed_tokens", "alpha": 4}),
    ],
)
def test_each_option_of_lora_trains_what_it_says_and_opens_again(
    family: str, options: dict[str, Any], bases: Path, tmp_path: Path
) -> None:
    asked = question(bases, family, "lm", "lora", validation="0")
    result, before, trained = followed(asked, tmp_path / "run", **options)
    model = result.tuning.model
    assert {name for name, tensor in copies(model).items() if not torch.equal(tensor, before[name])} == trained
    if "lora_layers" in options:
        assert all(name.startswith("blocks.1.") for name in trained)
    torch.testing.assert_close(some_logits(open_model(tmp_path / "run").model), some_logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bits", ["nf4", "int8", "int4"])
def test_a_tuned_model_on_weights_in_few_bits_opens_as_those_weights_with_the_adapter_merged(
    bits: str, bases: Path, tmp_path: Path
) -> None:
    asked = question(bases, "llama", "prompt", "qlora", validation="0")
    result, _, _ = followed(asked, tmp_path / "run", base_bits=bits)
    assert RunFolder(tmp_path / "run").description()["finetune"]["quantised"] == bits
    opened = open_model(tmp_path / "run").model
    torch.testing.assert_close(some_logits(opened), some_logits(result.tuning.model), atol=1e-5, rtol=0)


def test_a_tuned_model_is_used_like_any_other(bases: Path, tmp_path: Path) -> None:
    for family, task, method in (("llama", "chat", "lora"), ("bert", "classify", "qlora"), ("bert", "tag", "full")):
        scratchlm.finetune(
            str(bases / family),
            bases / f"{task}.jsonl",
            tmp_path / task,
            method=method,
            quiet=True,
            eval_prompts=2,
            eval_new_tokens=4,
            **settings(),
        )
    chat = scratchlm.load(tmp_path / "chat", device="cpu")
    assert chat.tokenizer.chat_template is not None
    assert len(chat.generate(sentence(1), max_new_tokens=3)) == 1
    (kind,) = scratchlm.load(tmp_path / "classify", device="cpu").predict([sentence(1)])
    assert set(kind.probabilities) == {"bad", "fair", "good"}
    (tags,) = scratchlm.load(tmp_path / "tag", device="cpu").predict([sentence(1)])
    assert {word.label for word in tags.words} <= {"O", "B-thing", "I-thing"}
    for task in ("chat", "classify", "tag"):
        report = json.loads((tmp_path / task / "report.json").read_text())
        assert report["after"]["cross_entropy" if task == "chat" else "accuracy"] >= 0
        assert report["before"].keys() == report["after"].keys()


# -- the same numbers, however a step is laid out --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("family", "task"), [("gpt2", "prompt"), ("llama", "chat"), ("bert", "classify")])
def test_eight_rows_at_once_equal_eight_passes_of_one(
    family: str, task: str, method: str, bases: Path, tmp_path: Path
) -> None:
    """Whatever makes up a step: rows, accumulated passes, the tokens of a pass, packed rows or padded ones."""
    base = tmp_path / "still"
    save_model(base, family, dropout=0.0)
    ways: dict[str, dict[str, Any]] = {
        "8x1": {"batch_size": 8},
        "1x8": {"batch_size": 1, "accumulation": 8},
        "narrow": {"batch_size": 8, "pass_tokens": 1},
        "padded": {"batch_size": 8, "layout": "pack", "pass_tokens": 100_000},
    }
    found = {}
    for way, options in ways.items():
        asked = Question(str(base), str(bases / f"{task}.jsonl"), None, method, validation="3")  # type: ignore[arg-type]
        torch.manual_seed(0)
        tune(asked, tmp_path / way, settings=settings(eval_every=2, epsilon=1e-4, **options), reporter=QUIET)
        found[way] = [(r["loss"], r.get("validation_loss", 0.0), r["gradient_norm"]) for r in metrics(tmp_path / way)]
    assert len(found["8x1"]) == 6
    for way in ways:
        torch.testing.assert_close(found[way], found["8x1"], atol=2e-5, rtol=0)


def loss_of_rows(model: Any, tuning: Tuning, numbers: list[int]) -> Tensor:
    """The summed loss of examples, each alone, written down as in a textbook."""
    total = torch.zeros(())
    for number in numbers:
        ids, targets = tuning.train[number]
        logits = model.logits(model.hidden(torch.from_numpy(ids.astype("int64"))[None]))[0]
        total = total + F.cross_entropy(
            logits, torch.from_numpy(targets.astype("int64")), ignore_index=IGNORE, reduction="sum"
        )
    return total


@pytest.mark.parametrize("layout", ["pack", "length", "auto"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("family", "task"), [*CASES, ("llama", "lm")])
def test_a_packed_step_has_the_loss_and_the_gradients_of_its_rows_one_by_one(
    family: str, task: str, method: str, layout: str, bases: Path, tmp_path: Path
) -> None:
    asked = question(bases, family, task, method)
    run = RunFolder(tmp_path / "run")
    tuning = prepare(asked, run, settings(batch_size=9, pass_tokens=60, layout=layout, dora=True), QUIET)
    model: Any = tuning.model.eval()
    with torch.no_grad():
        for parameter in trainable(model).values():  # B is zero at first, and A has no gradient then
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    work = tuning.task.train.step(1)
    assert any(batch.documents is not None for batch in work)
    losses = [tuning.task.loss(model, batch) for batch in work]
    packed = torch.stack([loss for loss, _ in losses]).sum()
    packed.backward()
    gradients = {name: parameter.grad for name, parameter in trainable(model).items()}
    model.zero_grad(set_to_none=True)

    numbers = tuning.task.train.indices(1).tolist()
    alone = loss_of_rows(model, tuning, numbers)
    alone.backward()
    assert sum(int(labels) for _, labels in losses) == tuning.task.train.sizes(1)[0] > 0
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-5)
    for name, parameter in trainable(model).items():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("task", ["prompt", "chat"])
def test_rows_that_begin_alike_teach_the_same_in_fewer_tokens(
    task: str, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "the sea is wide and cold"
    given = rows(task)
    for row in given:
        if task == "chat":
            row["messages"].insert(0, {"role": "system", "content": told})
        else:
            row["prompt"] = f"{told} {row['prompt']}"
    write_rows(tmp_path / "alike.jsonl", given)
    asked = Question(str(bases / "llama"), str(tmp_path / "alike.jsonl"), None, "full")
    changes = settings(batch_size=8, steps=4, max_length=48, pass_tokens=400, eval_prompts=0)
    shared = tune(asked, tmp_path / "shared", settings=changes, reporter=QUIET).tuning
    assert any(batch.opened is not None for batch in shared.task.train.step(0))
    usual = {name: value for name, value in changes.items() if name != "pass_tokens"}
    assert prepare(asked, RunFolder(tmp_path / "usual"), usual, QUIET).task.train.tokens > 256
    module = sys.modules["scratchlm.training.finetune"]  # its package has a function of that name
    monkeypatch.setattr(module, "usual_beginning", lambda _examples: 0)
    whole = tune(asked, tmp_path / "whole", settings=changes, reporter=QUIET).tuning
    tokens = [sum(batch.ids.numel() for batch in one.task.train.step(0)) for one in (shared, whole)]
    assert tokens[0] < 0.8 * tokens[1]
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(shared.model.state_dict()[name], weight, atol=1e-5, rtol=1e-4)


# -- presets, and tuning what is tuned -------------------------------------------------------------------------------


def test_a_preset_is_made_anew_with_a_vocabulary_of_the_rows(bases: Path, tmp_path: Path) -> None:
    shape = {"width": 16, "layers": 1, "heads": 2}
    for preset, task in (("tinybert", "classify"), ("tinybert", "tag"), ("tinygpt", "lm"), ("modern", "classify")):
        out = tmp_path / f"{preset}-{task}"
        given = {"depth": 1} if preset == "modern" else shape
        asked = Question(preset, str(bases / f"{task}.jsonl"), None, "full")
        result = tune(asked, out, settings=settings(max_length=32, **given), reporter=QUIET)
        opened = open_model(out)
        assert opened.config == result.tuning.model.config
        assert opened.config.context == 32
        assert opened.config.labels == result.tuning.train.labels
        torch.testing.assert_close(some_logits(opened.model), some_logits(result.tuning.model), atol=1e-5, rtol=0)
        assert opened.tokenizer.fingerprint == result.tuning.tokenizer.fingerprint


def test_a_preset_takes_larger_steps_than_a_model_that_has_learned(bases: Path, tmp_path: Path) -> None:
    def rate(model: str, **given: Any) -> float:
        asked = Question(model, str(bases / "lm.jsonl"), None, "full")
        small = {"steps": 1, "max_length": 32, "eval_prompts": 0}
        found = tune(asked, tmp_path / Path(model).name, settings=small | given, reporter=QUIET)
        return found.tuning.config.learning_rate

    assert rate("tinygpt", width=16, layers=1, heads=2) == 1e-3
    assert rate(str(bases / "llama")) == 5e-5


@pytest.mark.parametrize("first", ["lora", "qlora", "full"])
@pytest.mark.parametrize("second", ["lora", "qlora", "full"])
def test_what_was_tuned_is_tuned_further(first: str, second: str, bases: Path, tmp_path: Path) -> None:
    """From where it was left: the second's first loss is the first's last, and not what it began with."""
    for task, family in (("lm", "llama"), ("classify", "bert")):
        one, two = tmp_path / f"{task}-1", tmp_path / f"{task}-2"
        followed(question(bases, family, task, first, validation="0"), one, epochs=8, learning_rate=4e-3)
        asked = Question(str(one), str(bases / f"{task}.jsonl"), None, second, validation="0")  # type: ignore[arg-type]
        result, _, _ = followed(asked, two, learning_rate=1e-6)
        began, left, again = metrics(one)[:6], metrics(one)[-6:], metrics(two)[:6]
        start, before, after = (sum(r["loss"] for r in part) / 6 for part in (began, left, again))
        assert before < start - 0.05
        assert after < start - 0.7 * (start - before)
        opened = open_model(two)
        torch.testing.assert_close(some_logits(opened.model), some_logits(result.tuning.model), atol=1e-5, rtol=0)
