"""Twenty steps of ``finetune`` and of transformers' and PEFT's own tools on the same rows: the same losses; and
adapters that, once trained, give the same logits in either.

Ours packs rows and theirs pads them; ours draws an order of the rows, and theirs is handed that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratchlm.adapters import save_adapter, trainable
from scratchlm.data import IGNORE
from scratchlm.models import evaluating
from scratchlm.opening import open_model
from scratchlm.training import Question, Reporter, TuneResult, Tuning
from scratchlm.training import finetune as tune
from scratchlm.training.loop import FitResult

from ..training.tuned_models import rows, tokenizer, write_rows

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")
peft = pytest.importorskip("peft", reason="the reference implementation is not installed")

STEPS, ROWS = 20, 4
GATED = {
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
}
GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 48, "bos_token_id": 0, "eos_token_id": 0}
NO_DROPOUT = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2 | NO_DROPOUT, "c_attn,c_proj"),
    "llama": ("LlamaForCausalLM", GATED, "all-linear"),
    "qwen2": ("Qwen2ForCausalLM", GATED | {"tie_word_embeddings": True}, "q_proj,v_proj,down_proj"),
}
SETTINGS: dict[str, Any] = {
    **{"steps": STEPS, "batch_size": ROWS, "learning_rate": 3e-3, "clip_norm": 0.5, "log_every": 1, "device": "cpu"},
    **{"rank": 4, "alpha": 8, "warmup_steps": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of theirs, and two files of rows."""
    folder = tmp_path_factory.mktemp("theirs")
    words = tokenizer("gpt2")
    for kind, (name, fields, _) in MODELS.items():
        torch.manual_seed(0)
        cls = getattr(transformers, name)
        model = cls(cls.config_class(vocab_size=words.vocab_size, **fields))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder / kind)
        words.save(folder / kind)
    write_rows(folder / "lm.jsonl", rows("lm", 48))
    write_rows(folder / "prompt.jsonl", rows("prompt", 48))
    return folder


def theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@dataclass
class Ours:
    """A tuning of ours, and what theirs needs to do the same."""

    result: TuneResult
    losses: list[float]
    norms: list[float]
    start: Path
    """Of an adapter: as it was before the first step."""

    @property
    def tuning(self) -> Tuning:
        return self.result.tuning

    def rows_of(self, step: int) -> list[tuple[list[int], list[int]]]:
        """The ids of a step's rows, and labels as theirs: each token's at its own place, not at the place before."""
        found = []
        for number in self.tuning.task.train.indices(step).tolist():
            ids, targets = self.tuning.train[number]
            found.append((ids.tolist(), [IGNORE, *targets[:-1].tolist()]))
        return found


def ours(folder: Path, kind: str, task: str, method: Any, out: Path, **changes: Any) -> Ours:
    def keep_start(tuning: Tuning, fit: FitResult | None) -> None:
        if fit is None and method == "lora":
            save_adapter(tuning.model, out / "start", str(folder / kind))

    class Listening(Reporter):
        def log(self, record: dict[str, Any]) -> None:
            records.append(record)

    records: list[dict[str, Any]] = []
    asked = Question(str(folder / kind), str(folder / f"{task}.jsonl"), None, method, "0")
    given = SETTINGS | {"targets": MODELS[kind][2]} | changes
    result = tune(asked, out / "run", settings=given, reporter=Listening(quiet=True), measure=keep_start)
    losses, norms = ([record[name] for record in records] for name in ("loss", "gradient_norm"))
    return Ours(result, losses, norms, out / "start")


def padded(some: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    longest = max(len(ids) for ids, _ in some)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in some]),
        "labels": torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in some]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in some]),
    }


def steps_of_theirs(model: Any, run: Ours, config: Any) -> Iterator[tuple[float, float]]:
    """The losses, and the gradients' norms, of a loop as people write it with transformers.

    Their linear schedule is ours but for its warm-up, whose first step has the rate 0 and teaches nothing; ours is one
    step ahead until the whole rate is reached, and has that for two steps.
    """
    model.train()
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.schedule == "linear":
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, config.warmup_steps, STEPS)
    else:
        schedule = transformers.get_constant_schedule(optimizer)
    if config.warmup_steps:
        optimizer.step()  # without gradients: nothing happens, but the schedule wants it so
        schedule.step()
    for step in range(STEPS):
        loss = model(**padded(run.rows_of(step))).loss
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trainable(model).values(), config.clip_norm)
        optimizer.step()
        if step + 1 != config.warmup_steps:
            schedule.step()
        optimizer.zero_grad()
        yield loss.item(), norm.item()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("kind", "task", "options"),
    [
        ("gpt2", "lm", {"schedule": "linear", "warmup_steps": 5}),
        ("gpt2", "prompt", {"schedule": "constant"}),
        ("llama", "lm", {"schedule": "linear"}),
        ("llama", "prompt", {"schedule": "linear", "warmup_steps": 1, "batch_size": 2, "accumulation": 2}),
        ("qwen2", "lm", {"schedule": "constant", "pass_tokens": 30}),
        ("qwen2", "prompt", {"schedule": "linear", "warmup_steps": 3}),
    ],
)
def test_twenty_steps_have_the_losses_of_transformers_and_peft(
    kind: str, task: str, options: dict[str, Any], method: str, folder: Path, tmp_path: Path
) -> None:
    run = ours(folder, kind, task, method, tmp_path, **options)
    model = theirs(folder / kind)
    if method == "lora":
        model = peft.PeftModel.from_pretrained(model, run.start, is_trainable=True)
    assert sum(p.numel() for p in trainable(model).values()) == run.tuning.trained_parameters
    losses, norms = zip(*steps_of_theirs(model, run, run.tuning.config), strict=True)
    assert len(run.losses) == STEPS
    torch.testing.assert_close(run.losses, list(losses), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(run.norms, list(norms), atol=0.0, rtol=1e-3)
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "options"), [("lora", {"weight_decay": 0.1}), ("lora", {"dora": True}), ("lora", {"rslora": True})]
)
def test_decay_and_the_kinds_of_lora_train_alike(
    method: str, options: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """Decay falls on matrices, which A and B are."""
    run = ours(folder, "llama", "prompt", method, tmp_path, schedule="constant", **options)
    model = peft.PeftModel.from_pretrained(theirs(folder / "llama"), run.start, is_trainable=True)
    losses = [loss for loss, _ in steps_of_theirs(model, run, run.tuning.config)]
    torch.testing.assert_close(run.losses, losses, atol=1e-4, rtol=0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_packed_rows_have_the_losses_of_the_trainer_on_padded_rows(method: str, folder: Path, tmp_path: Path) -> None:
    """transformers.Trainer itself, with nothing of it changed but the order of the rows."""
    run = ours(folder, "gpt2", "prompt", method, tmp_path, schedule="constant", layout="pack", pass_tokens=200)
    assert all(batch.documents is not None for batch in run.tuning.task.train.step(0))
    model = theirs(folder / "gpt2")
    if method == "lora":
        model = peft.PeftModel.from_pretrained(model, run.start, is_trainable=True)
    order = [row for step in range(STEPS) for row in run.rows_of(step)]
    assert len(order) == STEPS * ROWS  # no step of ours is shorter at an epoch's end

    class InOrder(transformers.Trainer):  # type: ignore[misc,name-defined]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        per_device_train_batch_size=ROWS,
        num_train_epochs=1,
        learning_rate=SETTINGS["learning_rate"],
        lr_scheduler_type="constant",
        max_grad_norm=SETTINGS["clip_norm"],
        weight_decay=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = InOrder(model=model, args=arguments, train_dataset=order, data_collator=padded)
    trainer.train()
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    torch.testing.assert_close(run.losses, losses, atol=1e-4, rtol=0.0)  # theirs are rounded to four digits


# -- adapters, once they are trained ---------------------------------------------------------------------------------


def logits_of_theirs(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(torch.arange(1, 41).view(2, 20)).logits
    return found


def logits_of_ours(model: Any) -> Tensor:
    with torch.no_grad(), evaluating(model):
        found: Tensor = model(torch.arange(1, 41).view(2, 20))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"dora": True, "lora_bias": "all"}, {"rslora": True, "targets": "peft"}])
@pytest.mark.parametrize("kind", MODELS)
def test_an_adapter_trained_here_gives_pefts_logits(
    kind: str, options: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    run = ours(folder, kind, "prompt", "lora", tmp_path, schedule="constant", **options)
    actual = logits_of_ours(run.tuning.model)
    assert not torch.allclose(actual, logits_of_theirs(theirs(folder / kind)), atol=0.05)
    model = peft.PeftModel.from_pretrained(theirs(folder / kind), run.tuning.run.path)
    torch.testing.assert_close(logits_of_theirs(model), actual, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(logits_of_ours(open_model(run.tuning.run.path).model), actual, atol=1e-5, rtol=0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MODELS)
def test_an_adapter_trained_with_peft_gives_its_logits_here_and_is_tuned_further(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    run = ours(folder, kind, "lm", "lora", tmp_path, schedule="constant")
    targets: Any = MODELS[kind][2]
    targets = targets if targets == "all-linear" else targets.split(",")
    config = peft.LoraConfig(r=3, lora_alpha=9, target_modules=targets, task_type="CAUSAL_LM")
    torch.manual_seed(4)
    model = peft.get_peft_model(theirs(folder / kind), config)
    losses = [loss for loss, _ in steps_of_theirs(model, run, run.tuning.config)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.2
    model.save_pretrained(tmp_path / "peft")
    opened = open_model(tmp_path / "peft")
    torch.testing.assert_close(logits_of_ours(opened.model), logits_of_theirs(model), atol=1e-5, rtol=0.0)
    asked = Question(str(tmp_path / "peft"), str(folder / "lm.jsonl"), None, "full", "0")
    further = tune(asked, tmp_path / "further", settings=SETTINGS, reporter=Reporter(quiet=True))
    assert further.fit.loss < losses[0]
