"""The model card: what a run's folder says about itself to a person who finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scratchlm import __version__
from scratchlm.checkpoints import RunFolder
from scratchlm.models.config import TAUGHT
from scratchlm.training.loop import FitResult
from scratchlm.training.progress import clock

if TYPE_CHECKING:
    from scratchlm.training.finetune import Tuning
    from scratchlm.training.pretrain import Plan

_USE = {
    "decoder": "scratchlm generate {run} --prompt TEXT",
    "encoder": 'scratchlm fill {run} --text "... [MASK] ..."',
    "seq2seq": "scratchlm generate {run} --prompt TEXT",
}
_KINDS = {"decoder": "decoder-only", "encoder": "encoder-only", "seq2seq": "encoder-decoder"}


def model_card(run: RunFolder, plan: Plan, parameters: int, result: FitResult) -> str:
    """The card as Markdown."""
    model, train = plan.model, plan.train
    name = run.path.resolve().name
    rows = [
        ("architecture", f"{_KINDS[model.architecture]}, preset `{plan.preset}`"),
        ("parameters", f"{parameters:,}"),
        ("shape", f"{model.layers} layers, {model.width} wide, {model.heads} heads, context {model.context}"),
        ("tokenizer", f"{plan.tokenizer.kind}, {plan.tokenizer.vocab_size:,} tokens"),
        ("data", f"{plan.data}: " + ", ".join(f"{n:,} {key.replace('_', ' ')}" for key, n in plan.sizes.items())),
        ("training", f"{result.steps:,} of {train.steps:,} steps of {train.batch_size * train.accumulation} rows"),
        ("optimizer", f"{train.optimizer}, peak learning rate {train.learning_rate:g}, {train.schedule} schedule"),
        *_course(result),
    ]
    table = _table(rows)
    return f"""---
library_name: scratchlm
tags: [{_KINDS[model.architecture]}, {plan.preset}]
---

# {name}

A {_KINDS[model.architecture]} language model trained from scratch with scratchlm {__version__}.

{table}

The weights in `model.safetensors` are the {"best by validation loss" if result.best_loss is not None else "last ones"}.
All settings are in `settings.yaml`, the course of the training in `metrics.jsonl`.

## Use

    {_USE[model.architecture].format(run=name)}
    scratchlm eval {name}
    scratchlm plot {name}

## Limits

It has seen the text above and nothing else: it repeats what that text says, right or wrong, and knows no more.
"""


def tuned_card(tuning: Tuning, result: FitResult) -> str:
    """The card of a model that was tuned, or of the adapter that was trained for it, as Markdown."""
    question, model, train = tuning.question, tuning.model.config, tuning.config
    name, adapter = tuning.run.path.resolve().name, question.method != "full"
    trained, held_out = tuning.trained_parameters, 0 if tuning.held_out is None else tuning.held_out.count
    rows = [
        ("base", f"`{question.model}`"),
        ("architecture", _KINDS[model.architecture]),
        ("method", question.method),
        ("trained", f"{trained:,} of {tuning.parameters:,} parameters ({trained / tuning.parameters:.2%})"),
        ("data", f"{question.data}: {tuning.train.count:,} rows to learn from, {held_out:,} held out"),
        ("task", tuning.splits.train.task),
        ("training", f"{result.steps:,} of {train.steps:,} steps of {train.batch_size * train.accumulation} rows"),
        ("optimizer", f"{train.optimizer}, peak learning rate {train.learning_rate:g}, {train.schedule} schedule"),
        *_course(result),
    ]
    use = "predict {run} --text TEXT" if model.head in TAUGHT else "generate {run} --prompt TEXT"
    use = "embed {run} --text TEXT" if model.head == "none" else use
    files = "`adapter_model.safetensors` is a PEFT adapter" if adapter else "The weights are in `model.safetensors`"
    front = f"library_name: {'peft' if adapter else 'scratchlm'}\nbase_model: {question.model}"
    return f"""---
{front}
tags: [{_KINDS[model.architecture]}, {tuning.goal.verb.split()[-1]}]
---

# {name}

{question.model}, tuned with scratchlm {__version__} ({tuning.goal.verb}).

{_table(rows)}

{files}; what was measured before and after is in `report.json`, all settings in `settings.yaml`, the course of the
training in `metrics.jsonl`.

## Use

    scratchlm {use.format(run=name)}
    scratchlm plot {name}

## Limits

It has what its base can do, and what the rows above taught it, right or wrong. Its figures are of rows like these.
"""


def how_it_ended(card: str) -> str | None:
    """What the card of a run says of its end: ``finished``, ``patience`` or ``interrupted``; None for other texts."""
    rows = (line.split("|") for line in card.splitlines())
    return next((row[2].strip() for row in rows if len(row) == 4 and row[1].strip() == "ended"), None)


def _course(result: FitResult) -> list[tuple[str, str]]:
    """How a training went."""
    rows = [
        ("ended", result.stopped),
        ("time", f"{clock(result.seconds)} in training steps"),
        ("loss of the last step", f"{result.loss:.4f} nats a label"),
    ]
    if result.best_loss is not None:
        rows.append(("best validation loss", f"{result.best_loss:.4f} nats a label, at step {result.best_step:,}"))
    return rows


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows)])
