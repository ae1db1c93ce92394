"""Fine-tuning a model on records: the whole of ``scratchlm finetune`` but its figures before and after."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from scratchlm import __version__
from scratchlm.adapters import FrozenLinear, add_lora, quantise_base, trainable
from scratchlm.adapters.run import TUNING, AdapterRun
from scratchlm.checkpoints import RunFolder
from scratchlm.checkpoints.pooling import copy_pooling
from scratchlm.data import Examples, Plan, Splits
from scratchlm.data.sharing import SHARING, usual_beginning
from scratchlm.data.tags import word_style
from scratchlm.errors import UserError
from scratchlm.models import Model
from scratchlm.tokenizers import Tokenizer
from scratchlm.training.card import tuned_card
from scratchlm.training.config import TrainConfig
from scratchlm.training.distributed import World, choose_device, world
from scratchlm.training.goals import Goal
from scratchlm.training.loop import FitResult, fit
from scratchlm.training.pretrain import CHANGEABLE, fields_of
from scratchlm.training.progress import Reporter, tensorboard_writer
from scratchlm.training.question import Question, encode_splits, read_splits
from scratchlm.training.settings import NOT_SETTABLE, split_tuning
from scratchlm.training.starting import DECIDED, Start, is_preset, start_from
from scratchlm.training.tasks import FineTune
from scratchlm.training.tuning_config import ANEW, TuningConfig, tuned_train_config, usual_pass_tokens


@dataclass
class Tuning:
    """A fine-tuning that has been thought through: data read, model in memory, nothing trained yet."""

    question: Question
    run: RunFolder
    start: Start
    model: Model
    splits: Splits
    train: Examples
    held_out: Examples | None
    config: TrainConfig
    tuning: TuningConfig
    quantised: str | None
    """What the base's matrices are kept in; None for whole numbers of floating point."""
    fingerprint: str
    """Of all examples."""
    place: World
    goal: Goal
    own: Any
    """The settings that the goal alone has, in its dataclass; None where it has none."""
    task: FineTune = field(init=False)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.start.tokenizer

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in trainable(self.model).values())

    @property
    def parameters(self) -> int:
        """All there are, those in few bits included."""
        whole = sum(parameter.numel() for parameter in self.model.parameters())
        packed = [module for module in self.model.modules() if isinstance(module, FrozenLinear)]
        return whole + sum(linear.in_features * linear.out_features for linear in packed)


@dataclass(frozen=True)
class TuneResult:
    """A finished fine-tuning: what it was, and how it went."""

    tuning: Tuning
    fit: FitResult


Measure = Callable[[Tuning, FitResult | None], None]
"""Called before training (with None) and after it, on the process that writes the files."""


def finetune(
    question: Question,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    origin: str = "settings",
    resume: bool = False,
    reporter: Reporter | None = None,
    measure: Measure | None = None,
    goal: Goal | None = None,
) -> TuneResult:
    """Tune a model on records and leave a run folder.

    Args:
        out: the run folder; it must be empty or new, unless ``resume``.
        settings: fields of TrainConfig and TuningConfig by name; of ModelConfig too where the model is a preset, which
            is made anew. A resumed run keeps those that it was begun with.
        origin: where the settings come from, for errors.
        resume: go on from the folder's last checkpoint, or from the start where there is none.
        goal: what is to be learned of the records; None for what they themselves say.

    Raises:
        UserError: anything that the user can mend, from a bad row to a full disk.
    """
    values, goal = dict(settings or {}), goal or Goal()
    split_tuning(values, origin, goal.config)
    run = AdapterRun(out, question.model) if question.method != "full" else RunFolder(out)
    if resume and run.exists:
        question, values = as_begun(run, question, values, origin, goal)
    with world(str(values.get("device", "auto"))) as place:
        report = reporter or Reporter()
        if place.main:
            run.start(resume=resume)
        try:
            place.barrier()
            said = report if place.main else Reporter(quiet=True)
            tuning = prepare(question, run, values, said, place, goal)
            return _tune(tuning, place, said, resume, measure)
        except BaseException as error:
            if place.main:
                run.discard(begun=isinstance(error, UserError))  # such as a reward that gives no number
            raise
        finally:
            run.close()


def prepare(
    question: Question,
    run: RunFolder,
    settings: Mapping[str, Any],
    reporter: Reporter,
    place: World | None = None,
    goal: Goal | None = None,
) -> Tuning:
    """Read the data, open the model and give it the form that is trained.

    Raises:
        UserError: the data, the model or the settings cannot be used, or do not fit together.
    """
    goal = goal or Goal()
    model_settings, train_settings, tuning_settings, own_settings = split_tuning(settings, "settings", goal.config)
    tuning = TuningConfig(**tuning_settings)
    own = None if goal.config is None else goal.config(**own_settings)
    # Wrong values show early.
    probe = tuned_train_config(
        question.method, train_settings.get("steps", 10), {"warmup_steps": 0} | train_settings, 1
    )
    splits = read_splits(question, probe, goal.pairing(own))
    for line in (splits.train.description(), *splits.notes):
        reporter.note(line)
    task = splits.train.task
    start = start_from(question.model, question.method, splits, model_settings, tuning, probe, goal.head(task))
    train, held_out = encode_splits(splits, start, tuning, start.config.architecture == "decoder", reporter)
    place = place or World(choose_device(probe.device))
    begun = usual_beginning(train) if start.config.architecture == "decoder" and task in SHARING else 0
    # A pass holds several rows beside what they share.
    pass_tokens = tuning.pass_tokens or usual_pass_tokens(question.method, task, place.device.type) + 3 * begun
    anew = ANEW if is_preset(question.model) else {}
    given = anew | goal.defaults(task, question.method) | train_settings
    probe = tuned_train_config(question.method, 10, {"warmup_steps": 0} | given, 1)
    rows = probe.batch_size * probe.accumulation
    plan = Plan(train, rows, pass_tokens, probe.seed, tuning.layout, start.config.width, shares=begun > 0)
    per_epoch = goal.steps_per_epoch(plan, own)
    steps = train_settings.get("steps", max(1, round(tuning.epochs * per_epoch)))
    config = tuned_train_config(question.method, steps, given, min(per_epoch, steps))
    held_plan = None if held_out is None else replace(plan, examples=held_out, seed=0, method="auto", _orders={})
    model = start.model()
    quantised = None
    if question.method == "qlora":
        quantised = tuning.base_bits
        quantise_base(model, tuning.base_bits)
    if question.method == "full":
        model.requires_grad_(True)  # what an adapter was merged into is frozen
        if start.pooling is not None and start.config.pooler:
            model.get_submodule("pooler").requires_grad_(False)  # vectors are made without it
    else:
        torch.manual_seed(config.seed)
        add_lora(model, tuning.lora(start.whole))
    model.train()
    made = Tuning(
        question,
        run,
        start,
        model,
        splits,
        train,
        held_out,
        config,
        tuning,
        quantised,
        _fingerprint(train, held_out),
        place,
        goal,
        own,
    )
    made.task = goal.learn(made, plan, held_plan)
    return made


def as_begun(
    run: RunFolder, question: Question, settings: Mapping[str, Any], origin: str, goal: Goal
) -> tuple[Question, dict[str, Any]]:
    """The question and the settings that a run was begun with. What is given anew must be as it was, or be
    ``CHANGEABLE``.

    Raises:
        UserError: it is not; the line names it.
    """
    description = run.description()
    known, fields, old = description.get(TUNING), description["model"], run.settings()
    same = "go on with the run's own settings, or tune into a new folder"
    if not isinstance(known, dict):
        raise UserError(f"{run.path} is a run of scratchlm train, not of {goal.verb}; choose another folder for --out")
    for name, value in goal.description().items():
        before = known.get(name, Goal.verb)
        if name == "verb" and before != value:
            raise UserError(
                f"{run.path} is a run of scratchlm {before}, not of {value}; choose another folder for --out"
            )
        if before != value:
            raise UserError(f"{run.path} was begun with {name} {before!r}, not {value!r}; {same}")
    begun = {field.name: known.get(field.name, field.default) for field in dataclasses.fields(Question)}
    left_out = Question("", "").to_dict() | {"method": None}
    for name, value in question.to_dict().items():
        if value not in (begun[name], left_out[name]):
            raise UserError(f"{run.path} was begun with {name} {begun[name]!r}, not {value!r}; {same}")
    model_settings, *others = split_tuning(settings, origin, goal.config)
    shape: dict[str, Any] = {}
    if is_preset(question.model):
        shape = {name: fields[name] for name in fields if name not in NOT_SETTABLE | DECIDED}
        model_settings = fields_of(question.model, fields["vocab_size"], model_settings)
    given = {name: value for part in (model_settings, *others) for name, value in part.items()}
    for name, value in given.items():
        before = fields[name] if name in fields else old.get(name)
        if name not in CHANGEABLE and value != before:
            raise UserError(f"{run.path} was begun with {name}={before}, not {value}; {same}")
    return Question(**begun), old | shape | {name: value for name, value in settings.items() if name in CHANGEABLE}


def _tune(tuning: Tuning, place: World, reporter: Reporter, resume: bool, measure: Measure | None) -> TuneResult:
    run, config = tuning.run, tuning.config
    if resume and run.exists:
        if run.description()["data"].get("fingerprint") != tuning.fingerprint:
            raise UserError(f"the rows of {tuning.question.data} have changed since {run.path} was begun; tune anew")
    elif place.main:
        tuning.tokenizer.save(run.path)
        if tuning.start.pooling is not None and tuning.start.folder is not None:
            copy_pooling(tuning.start.folder, run.path)
        own = {} if tuning.own is None else dataclasses.asdict(tuning.own)
        run.write_settings(config.to_dict() | tuning.tuning.to_dict() | own)
        run.write_description(_description(tuning))
    place.barrier()
    if config.tensorboard and place.main:
        reporter.tensorboard = tensorboard_writer(str(run.path / "tensorboard"))
    trained, all_of_them = tuning.trained_parameters, tuning.parameters
    reporter.note(
        f"{tuning.question.model}, {tuning.question.method}: {trained:,} of {all_of_them:,} parameters are trained "
        f"({trained / all_of_them:.2%}), {config.steps:,} steps of {tuning.task.train.rows} rows"
    )
    if measure is not None and place.main:
        measure(tuning, None)
    place.barrier()
    result = fit(tuning.model, tuning.task, config, run, place=place, resume=resume, reporter=reporter)
    tuning.model.eval()
    if place.main:
        run.write_card(tuned_card(tuning, result))
    if result.stopped == "interrupted":
        reporter.note(f"stopped after step {result.steps:,} of {config.steps:,}, and saved; go on with:")
        reporter.note(f"  {run.resume_command()}")
    elif measure is not None and place.main:
        measure(tuning, result)
    place.barrier()
    return TuneResult(tuning, result)


def _description(tuning: Tuning) -> dict[str, Any]:
    question = tuning.question
    held = 0 if tuning.held_out is None else tuning.held_out.count
    return {
        "version": __version__,
        "preset": question.model,
        "model": tuning.model.config.to_dict(),
        "tokenizer": tuning.tokenizer.kind,
        "data": {
            "name": question.data,
            "fingerprint": tuning.fingerprint,
            "train_rows": tuning.train.count,
            "validation_rows": held,
            "train_tokens": len(tuning.train.ids),
        },
        TUNING: {
            **question.to_dict(),
            **tuning.goal.description(),
            "base": question.model,
            "records": tuning.splits.train.task,
            "quantised": tuning.quantised,
            "words": word_style(row.tokens for row in tuning.splits.train.rows),
        },
    }


def _fingerprint(*parts: Examples | None) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for array in () if part is None else (part.ids, part.targets, part.offsets, part.flags):
            digest.update(array.tobytes())
        digest.update(b"|")
    return digest.hexdigest()
