"""The recipe: correct traces teach a model to call tools, then rewards teach it what the traces did not.

1. Tasks are made from the training templates, and solved; their traces become chats (:mod:`.traces`).
2. The model is fine-tuned on them by LoRA. What it says itself is learned, not what the tools say.
3. GRPO on other tasks of the same templates: the model calls the tools itself, and is rewarded for right answers.
4. Before, between and after, tasks of the validation templates are counted that the model solves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from scratchlm.agents.call_format import CallFormat, format_of
from scratchlm.agents.teaching.answers import check
from scratchlm.agents.teaching.policy import NUMBER, ToolGoal
from scratchlm.agents.teaching.rollouts import roll_out
from scratchlm.agents.teaching.task import Task
from scratchlm.agents.teaching.tasks import make_tasks, tools_of
from scratchlm.agents.teaching.traces import rows_of
from scratchlm.checkpoints.files import disk_errors, write_rows, write_text
from scratchlm.errors import UserError
from scratchlm.generation.build import build_engine
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder
from scratchlm.opening import open_model
from scratchlm.ranges import check_whole
from scratchlm.training import Question, Reporter
from scratchlm.training.distributed import choose_device
from scratchlm.training.finetune import finetune
from scratchlm.training.precision import fastest
from scratchlm.training.progress import clock
from scratchlm.training.settings import check_tuning
from scratchlm.training.tuning_config import upper_blocks

TUNED, ALIGNED, REPORT = "tuned", "aligned", "report.json"
"""The runs in the recipe's folder, and what is told of them."""
SHARES: Mapping[str, float] = {
    "arithmetic": 6.0, "tables": 2.6, "dates": 1.7, "units": 0.7, "documents": 0.8, "no_tool": 3.0,
}  # fmt: skip
"""Tasks of each family in the training, beside the others: more where more has to be understood, and where a trace is
short."""
_WHOLE = {"arithmetic": 4}
"""What is hard in a word problem is its expression: three in four of these traces end there."""
TUNING: Mapping[str, Any] = {
    "batch_size": 20, "learning_rate": 1.5e-3, "beta2": 0.99, "pass_tokens": 6000, "epochs": 1, "eval_prompts": 0,
}  # fmt: skip
"""A batch is one pass, in which the tools are read once for all rows that have the same."""
ALIGNING: Mapping[str, Any] = {
    "completions": 8, "batch_size": 48, "new_tokens": 280, "learning_rate": 2e-4, "pass_tokens": 6000,
    "eval_prompts": 0, "samples_every": 0,
}  # fmt: skip
_SLOTS, _NEW_TOKENS, _PROMPTS = 24, 300, 6


@dataclass(frozen=True)
class Teaching:
    """How much is taught.

    Raises:
        UserError: from ``__post_init__``, for a number out of range.
    """

    rows: int = 9600
    """Traces to learn from, each once."""
    rollouts: int = 8
    """Of the GRPO after it, six tasks with eight answers each; 0 for none."""
    tasks: int = 120
    """Of the validation templates, to measure by; 0 for none."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 16), ("rollouts", 0), ("tasks", 0), ("seed", 0)):
            check_whole(name, getattr(self, name), least)


def teach_tools(
    model: str,
    out: str | Path,
    teaching: Teaching | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Teach a chat model to call tools. Leaves the runs ``tuned`` and, with rollouts, ``aligned`` in the folder, and
    returns what ``report.json`` there says: the shares of right answers and the seconds of each part.

    Args:
        settings: of the fine-tuning, as ``finetune`` takes them, in place of the recipe's.
        resume: go on with what was begun.

    Raises:
        UserError: the model cannot be taught, or the folder is another's.
        KeyboardInterrupt: it was broken off; it has been saved and can be resumed.
    """
    teaching, report, folder = teaching or Teaching(), reporter or Reporter(), Path(out)
    opened = open_model(model, weights=False)
    if opened.config.architecture != "decoder":
        raise UserError(f"{model} is no decoder, and only a decoder can call tools; choose one")
    form, path = format_of(opened.tokenizer), folder / REPORT
    with disk_errors(str(folder), "choose another folder for --out"):
        held = folder.exists() and any(folder.iterdir())
    if held and not (path.exists() and resume):
        cure = "go on with --resume, or choose another folder" if path.exists() else "choose another folder for --out"
        raise UserError(
            f"{folder} {'has been taught into already' if path.exists() else 'already holds files'}; {cure}"
        )
    told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"model": model, **vars(teaching)}
    _same(told, {"model": model, **vars(teaching)}, folder)
    told.setdefault("precision", fastest(choose_device("auto")))  # told once: what goes on goes on as it began
    given = {
        **TUNING,
        "precision": told["precision"],
        "lora_layers": upper_blocks(opened.config.layers),
        **(settings or {}),
    }
    check_tuning(given, "lora")

    def measured(name: str, of: str) -> None:
        if name not in told and teaching.tasks:
            report.note(f"{name}: {teaching.tasks} tasks of the validation templates")
            told[name] = measure(of, make_tasks("validation", teaching.tasks, teaching.seed))
        _write(path, told)

    measured("before", model)
    rows = rows_of(make_tasks("train", teaching.rows, teaching.seed, SHARES), form, _WHOLE)
    held_out = rows_of(make_tasks("validation", 24, teaching.seed + 1), form)
    files = {name: folder / f"{name}.jsonl" for name in ("rows", "validation", "prompts")}
    _write_rows(files["rows"], rows)
    _write_rows(files["validation"], held_out)
    _run(
        told,
        "tuning",
        lambda: finetune(
            Question(model, str(files["rows"]), "chat", "lora", str(files["validation"])),
            folder / TUNED,
            settings=given,
            resume=resume,
            reporter=report,
        ),
    )
    measured("tuned", str(folder / TUNED))
    if teaching.rollouts:
        tasks = make_tasks("train", teaching.rollouts * _PROMPTS, teaching.seed + 1, SHARES)
        _write_rows(files["prompts"], [_asked(number, task, form) for number, task in enumerate(tasks)])
        aligning = {**ALIGNING, "steps": teaching.rollouts}
        goal = ToolGoal(report, aligning, tasks)
        question = Question(str(folder / TUNED), str(files["prompts"]), "rollout", "lora", "0")
        place = folder / ALIGNED
        _run(
            told,
            "aligning",
            lambda: finetune(question, place, settings=aligning, resume=resume, reporter=report, goal=goal),
        )
        measured("aligned", str(place))
    _write(path, told)
    return told


def show_teaching(told: Mapping[str, Any]) -> None:
    """What was right before, between and after, as a table."""
    stages = {name: told[name] for name in ("before", TUNED, ALIGNED) if name in told}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("right")
    columns = list(next(iter(stages.values()), {}))
    for name in columns:
        table.add_column("all" if name == "right" else name.replace("_", " "), justify="right")
    for stage, shares in stages.items():
        table.add_row(stage, *(f"{shares[name]:.1%}" for name in columns))
    if stages:
        Console().print(table)
    for name in ("tuning", "aligning"):
        if f"{name}_seconds" in told:
            took, used = (clock(told[f"{name}_{kind}"]) for kind in ("seconds", "processor_seconds"))
            print(f"{name} took {took}, of which {used} of one processor's time")


def measure(model: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """How many tasks a model solves, decoded greedily and freely: the share ``right`` and that of each family."""
    opened = open_model(model)
    assert isinstance(opened.model, Decoder)
    found = solve(opened.model, opened.tokenizer, tasks)
    right = [check(task, text) for task, text in zip(tasks, found, strict=True)]
    of_each: dict[str, list[bool]] = {}
    for task, good in zip(tasks, right, strict=True):
        of_each.setdefault(task.family, []).append(good)
    return {"right": sum(right) / len(right), **{name: sum(some) / len(some) for name, some in of_each.items()}}


def solve(model: Decoder, tokenizer: Any, tasks: Sequence[Task]) -> list[str]:
    """The answers of a model to tasks."""
    engine = build_engine(model.eval(), rows=_SLOTS, precision="fp32", context=min(model.config.context, 1024))
    sampling = SamplingConfig(greedy=True)
    return [one.text for one in roll_out(engine, tokenizer, tasks, max_new_tokens=_NEW_TOKENS, sampling=sampling)]


def _run(told: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
    """One of the trainings; what it took is added to what is told."""
    began, used = time.perf_counter(), time.process_time()
    result = work()
    told[f"{name}_seconds"] = round(told.get(f"{name}_seconds", 0.0) + time.perf_counter() - began, 1)
    told[f"{name}_processor_seconds"] = round(
        told.get(f"{name}_processor_seconds", 0.0) + time.process_time() - used, 1
    )
    if result.fit.stopped == "interrupted":
        raise KeyboardInterrupt


def _asked(number: int, task: Task, form: CallFormat) -> dict[str, Any]:
    question = [{"role": "user", "content": task.question}]
    messages, tools = form.prompt(question, [tool.schema() for tool in tools_of(task)])
    if tools:
        raise UserError("a chat template that shows tools itself is not taught by GRPO yet; give --rollouts 0")
    return {"prompt": messages, NUMBER: number}


def _same(told: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    for name, value in asked.items():
        if told.get(name) != value:
            raise UserError(f"{folder} was begun with {name} {told.get(name)!r}, not {value!r}; go on with that")


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with disk_errors(str(path), "free some space, and go on with --resume"):
        write_rows(path, rows)


def _write(path: Path, told: Mapping[str, Any]) -> None:
    with disk_errors(str(path), "free some space, and go on with --resume"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
