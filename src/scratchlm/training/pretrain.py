"""Pre-training from a preset and a text: the whole of ``scratchlm train``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scratchlm import __version__
from scratchlm.checkpoints import RunFolder
from scratchlm.data import encode_pairs, learn_tokenizer, prepare_stream, resolve_source
from scratchlm.errors import UserError
from scratchlm.models import Model, ModelConfig, build_model, model_preset
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.training.card import model_card
from scratchlm.training.config import TrainConfig
from scratchlm.training.distributed import World, world
from scratchlm.training.loop import FitResult, fit
from scratchlm.training.pairs import load_pairs
from scratchlm.training.progress import Reporter, tensorboard_writer
from scratchlm.training.recipes import recipe
from scratchlm.training.settings import DIAL, NOT_SETTABLE, split_settings
from scratchlm.training.tasks import MaskedToken, NextToken, Task, Translate

SPECIAL_TOKENS: dict[str, tuple[str, ...]] = {
    "encoder": ("[PAD]", "[UNK]", "[MASK]"),
    "seq2seq": ("[PAD]", "[BOS]", "[EOS]"),
}
"""Tokens that an architecture cannot do without, whatever the tokenizer."""
CHANGEABLE = {"log_every", "save_every", "tensorboard", "device", "recompute", "sharding"}
"""Settings that a resumed run may change: none of them decides what is learned."""


@dataclass(frozen=True)
class Plan:
    """A training that has been thought through and not begun."""

    preset: str
    data: str
    model: ModelConfig
    train: TrainConfig
    tokenizer: Tokenizer
    task: Task
    fingerprint: str
    """Of text, tokenizer and split."""
    sizes: dict[str, int]
    """Tokens and characters in each split."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training: the model with the weights to use, and where it lies."""

    run: RunFolder
    model: Model
    tokenizer: Tokenizer
    task: Task
    fit: FitResult


def train(
    preset: str,
    data: str | Path | None,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    origin: str = "settings",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a preset on a text and leave a run folder.

    Args:
        preset: a preset's name.
        data: a corpus's name, a text file or a folder; None for the corpus that the preset was made for, or when
            resuming for the run's own.
        out: the run folder; it must be empty or new, unless ``resume``.
        settings: fields of TrainConfig and ModelConfig by name. A resumed run keeps those that it was begun with.
        origin: where the settings come from, for errors.
        resume: go on from the folder's last checkpoint, or from the start where there is none.

    Raises:
        UserError: anything that the user can mend, from a misspelt setting to a full disk.
    """
    model_settings, train_settings = split_settings(settings or {}, origin)
    chosen = recipe(preset, **train_settings)
    run = RunFolder(out)
    if resume and run.exists:
        begun = _as_begun(run, preset, data, chosen.train, model_settings, train_settings)
        name, model_settings, chosen = begun.data, begun.model_settings, recipe(preset, **begun.train_settings)
    else:
        name = chosen.data(data)
    with world(chosen.train.device) as place:
        report = reporter or Reporter()
        report.quiet = report.quiet or not place.main
        if place.main:
            run.start(resume=resume)
        try:
            if place.main:
                plan = make_plan(preset, name, run.path, chosen.train, model_settings, report)
            place.barrier()
            if not place.main:
                plan = make_plan(preset, name, run.path, chosen.train, model_settings, Reporter(quiet=True))
            return _train(plan, run, place, report, resume)
        except BaseException:
            if place.main:
                run.discard()
            raise
        finally:
            run.close()


def make_plan(
    preset: str, data: str, folder: Path, config: TrainConfig, model_settings: Mapping[str, Any], reporter: Reporter
) -> Plan:
    """Read the data and fix the model's shape. Token ids go to ``folder/data``, or are found there.

    Raises:
        UserError: the data cannot be used, or the settings do not fit together.
    """
    probe = model_preset(preset, 2, **model_settings)  # a wrong setting shows before any text is read
    specials = SPECIAL_TOKENS.get(probe.architecture, ())
    if probe.architecture == "seq2seq":
        pairs = load_pairs(data, config.validation_fraction, config.seed)
        texts = (f"{source}\n{target}\n" for source, target in pairs.train)
        tokenizer = train_tokenizer(
            config.tokenizer,
            texts,
            vocab_size=config.tokenizer_vocab_size,
            special_tokens=specials,
            unknown=config.unknown,
        )
        model = model_preset(preset, tokenizer.vocab_size, **model_settings)
        held_out = encode_pairs(pairs.validation, tokenizer, model.context) if pairs.validation else None
        translate = Translate(encode_pairs(pairs.train, tokenizer, model.context), held_out)
        sizes = {"train_pairs": len(pairs.train), "validation_pairs": len(pairs.validation)}
        return Plan(preset, data, model, config, tokenizer, translate, pairs.fingerprint, sizes)
    source = resolve_source(data)
    if probe.architecture == "decoder" and config.tokenizer == "bpe":
        specials = ("<|endoftext|>",)
    tokenizer = learn_tokenizer(
        source,
        config.tokenizer,
        validation_fraction=config.validation_fraction,
        vocab_size=config.tokenizer_vocab_size,
        special_tokens=specials,
        unknown=config.unknown,
        note=reporter.note,
    )
    model = model_preset(preset, tokenizer.vocab_size, **model_settings)
    stream = prepare_stream(
        source,
        tokenizer,
        folder / "data",
        validation_fraction=config.validation_fraction,
        context=model.context,
        progress=reporter.bytes_done,
    )
    for note in source.notes:
        reporter.note(note)
    held = stream.validation
    task: Task
    if model.architecture == "encoder":
        task = MaskedToken(stream.train, held, model.context, tokenizer, config.mask_probability, config.eval_tokens)
    else:
        task = NextToken(stream.train, held, model.context, config.eval_tokens)
    sizes = {
        "train_tokens": len(stream.train),
        "validation_tokens": 0 if held is None else len(held),
        "train_characters": stream.train_characters,
        "validation_characters": stream.validation_characters,
    }
    return Plan(preset, data, model, config, tokenizer, task, stream.fingerprint, sizes)


def new_model(plan: Plan) -> Model:
    """The plan's model with its initial weights, which the seed decides."""
    torch.manual_seed(plan.train.seed)
    return build_model(plan.model)


def _train(plan: Plan, run: RunFolder, place: World, reporter: Reporter, resume: bool) -> TrainResult:
    if resume and run.exists:
        known = run.description()["data"].get("fingerprint")
        if known != plan.fingerprint:
            raise UserError(f"the text of {plan.data} has changed since {run.path} was begun; train into a new folder")
    model = new_model(plan)  # before anything is written that says that a run has begun
    if place.main and not run.exists:
        plan.tokenizer.save(run.path)
        run.write_settings(plan.train.to_dict())
        run.write_description(
            {
                "version": __version__,
                "preset": plan.preset,
                "model": plan.model.to_dict(),
                "tokenizer": plan.tokenizer.kind,
                "data": {"name": plan.data, "fingerprint": plan.fingerprint, **plan.sizes},
            }
        )
    place.barrier()
    if plan.train.tensorboard and place.main:
        reporter.tensorboard = tensorboard_writer(str(run.path / "tensorboard"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    reporter.note(f"{plan.preset}: {parameters:,} parameters, vocabulary {plan.tokenizer.vocab_size:,}, on {plan.data}")
    result = fit(model, plan.task, plan.train, run, place=place, resume=resume, reporter=reporter)
    if place.main:
        run.write_card(model_card(run, plan, parameters, result))
    if result.stopped == "interrupted":
        reporter.note(f"stopped after step {result.steps:,} of {plan.train.steps:,}, and saved; go on with:")
        reporter.note(f"  {run.resume_command()}")
    return TrainResult(run, model.eval(), plan.tokenizer, plan.task, result)


@dataclass(frozen=True)
class _Begun:
    """What a run was begun with, and goes on with."""

    data: str
    model_settings: dict[str, Any]
    train_settings: dict[str, Any]


def _as_begun(
    run: RunFolder,
    preset: str,
    data: str | Path | None,
    config: TrainConfig,
    model_settings: Mapping[str, Any],
    train_settings: Mapping[str, Any],
) -> _Begun:
    """A run goes on as it was begun; what is given anew must be as it was, or be ``CHANGEABLE``.

    Raises:
        UserError: it is not; the line names the setting.
    """
    known, old = run.description(), run.settings()
    fields, text = known["model"], known["data"]["name"]
    same = "go on with the run's own settings, or train into a new folder"
    if known.get("preset") != preset:
        raise UserError(f"{run.path} was begun with the preset {known.get('preset')!r}, not {preset!r}; {same}")
    if data is not None and str(data) != text:
        raise UserError(f"{run.path} was begun on the data {text!r}, not {str(data)!r}; {same}")
    asked = fields_of(preset, fields["vocab_size"], model_settings)
    wanted = asked | {name: config.to_dict()[name] for name in train_settings}
    for name, value in wanted.items():
        before = fields[name] if name in fields else old.get(name)
        if name not in CHANGEABLE and value != before:
            raise UserError(f"{run.path} was begun with {name}={before}, not {value}; {same}")
    changed = {name: value for name, value in train_settings.items() if name in CHANGEABLE}
    kept = {name: value for name, value in fields.items() if name not in NOT_SETTABLE}
    return _Begun(text, kept, old | changed)


def fields_of(preset: str, vocab_size: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model's config that these settings decide.

    Raises:
        UserError: they do not fit the preset, or together.
    """
    asked = model_preset(preset, vocab_size, **settings).to_dict()
    names = set(settings) - {DIAL} | ({"width", "layers"} if DIAL in settings else set())
    return {name: asked[name] for name in names}
