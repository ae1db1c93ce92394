"""The Python API: a trained model as one object, and the two ways to get it, :func:`train` and :func:`load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scratchlm.adapters.run import TUNING
from scratchlm.alignment.goals import Aligned, check_goal
from scratchlm.checkpoints import RunFolder
from scratchlm.data import open_stream
from scratchlm.errors import UserError
from scratchlm.evaluation.evaluate import EVERY_WINDOW_LIMIT
from scratchlm.evaluation.floor import next_token_floor
from scratchlm.evaluation.tuned import Measured, Report, read_report
from scratchlm.generation.fill import MASK
from scratchlm.generation.precision import check_precision
from scratchlm.language_model import LanguageModel as LanguageModel
from scratchlm.models import PRESETS, ModelConfig, model_preset
from scratchlm.opening import open_model
from scratchlm.training import Question, Reporter, check_method
from scratchlm.training import finetune as tune
from scratchlm.training import train as pretrain
from scratchlm.training.distributed import choose_device


def load(name: str | Path, *, device: str = "auto", precision: str = "auto") -> LanguageModel:
    """Open a model: a run's folder, a folder of Hugging Face's, a GGUF file, or a name of the catalogue or the hub.

    Args:
        name: see :func:`scratchlm.checkpoints.catalogue.resolve`. Nothing is fetched.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ...
        precision: of the weights when text is generated: ``fp32``, ``bf16``, ``int8``, ``int4``, or ``auto``, the
            fastest that keeps the perplexity within 1 % of fp32's (on a GPU bf16 where it has it).

    Raises:
        UserError: there is no such model on this machine, or a file of it is missing or damaged.
    """
    place = choose_device(device)
    opened = open_model(name, weights=place.type != "cpu")
    return LanguageModel(opened, name=str(name), precision=check_precision(precision), device=place)


def train(
    preset: str,
    data: str | Path | None = None,
    out: str | Path = "run",
    *,
    resume: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> LanguageModel:
    """Train a preset (tinybert, tinygpt, transformer, modern, shakespeare) on a text into the folder ``out``.

    Args:
        data: a corpus's name, a text file or a folder; None for the corpus that the preset was made for.
        resume: go on from the folder's last checkpoint.
        quiet: no progress on standard error.
        settings: any setting by name, such as ``steps=200`` or ``dropout=0.0``.

    Raises:
        UserError: anything that the user can mend, from a misspelt setting to a full disk.
        KeyboardInterrupt: Ctrl-C (or SIGTERM) ended the training early; it has been saved and can be resumed.
    """
    result = pretrain(preset, data, out, settings=settings, resume=resume, reporter=Reporter(quiet=quiet))
    if result.fit.stopped == "interrupted":
        raise KeyboardInterrupt  # a program must not go on with half a model as if it were a whole one
    return LanguageModel.of_run(result.run, result.model, result.tokenizer, result.fit)


def finetune(
    model: str,
    data: str | Path,
    out: str | Path = "run",
    *,
    task: str | None = None,
    method: str = "lora",
    validation: float | str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    bad: str = "stop",
    split: str = "train",
    resume: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> LanguageModel:
    """Tune a model on your own rows into the folder ``out``, and measure it before and after: ``report.json`` there.

    Args:
        model: a run, a model's folder or GGUF file, a name of the catalogue; or a preset, which is made anew.
        data: a file, a folder, a data set that ``scratchlm models list`` shows, or ``hub:NAME``; see
            :func:`scratchlm.data.read_records`.
        task: ``lm``, ``chat``, ``classify``, ``tag`` or ``embed``; None for what the columns are for.
        method: ``full`` (all weights), ``lora`` (adapters), ``qlora`` (adapters beside weights in 4 bits).
        validation: a share or a number of the rows to hold out, or a file of others.
        columns: what to read from which column, such as ``{"text": "review"}``.
        bad: ``stop`` at the first bad row, or ``skip`` such rows and count them.
        settings: any setting by name, such as ``epochs=2`` or ``rank=8``.

    Raises:
        UserError: anything that the user can mend, from a bad row to a full disk.
        KeyboardInterrupt: Ctrl-C (or SIGTERM) ended the training early; it has been saved and can be resumed.
    """
    asked = question(
        model, data, task=task, method=method, validation=validation, columns=columns, bad=bad, split=split
    )
    report = Reporter(quiet=quiet)
    result = tune(asked, out, settings=settings, resume=resume, reporter=report, measure=Measured(report))
    if result.fit.stopped == "interrupted":
        raise KeyboardInterrupt  # a program must not go on with half a model as if it were a whole one
    return LanguageModel.of_run(result.tuning.run, result.tuning.model, result.tuning.tokenizer, result.fit)


def align(
    goal: str,
    model: str,
    data: str | Path,
    out: str | Path = "run",
    *,
    method: str = "lora",
    rewards: Sequence[str] = (),
    validation: float | str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    bad: str = "stop",
    split: str = "train",
    resume: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> LanguageModel:
    """Align a model into the folder ``out``, and measure it before and after: ``report.json`` there.

    Args:
        goal: ``reward`` (a model that tells which of two texts people prefer), ``dpo`` (a policy, from pairs), ``ppo``
            or ``grpo`` (a policy, from prompts and rewards).
        data: pairs of a prompt with a chosen and a rejected answer, or texts with ratings; or prompts.
        rewards: for ``ppo`` and ``grpo``, such as ``check:arithmetic`` or ``rewards.py:politeness=0.5``.

    The other arguments are those of :func:`finetune`.

    Raises:
        UserError: anything that the user can mend, from a bad row to a full disk.
        KeyboardInterrupt: Ctrl-C (or SIGTERM) ended the training early; it has been saved and can be resumed.
    """
    report = Reporter(quiet=quiet)
    if goal == "dpo" and resume and "loss" not in settings and (begun := RunFolder(out)).exists:
        settings |= {
            name: value for name, value in begun.settings().items() if name == "loss"
        }  # says what rows to read
    chosen = check_goal(goal)(report, settings, rewards)
    asked = question(
        model, data, task=chosen.rows, method=method, validation=validation, columns=columns, bad=bad, split=split
    )
    result = tune(asked, out, settings=settings, resume=resume, reporter=report, measure=Aligned(report), goal=chosen)
    if result.fit.stopped == "interrupted":
        raise KeyboardInterrupt
    return LanguageModel.of_run(result.tuning.run, result.tuning.model, result.tuning.tokenizer, result.fit)


def question(
    model: str,
    data: str | Path,
    *,
    task: str | None = None,
    method: str = "lora",
    validation: float | str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    bad: str = "stop",
    split: str = "train",
) -> Question:
    """The arguments of :func:`finetune` as one record.

    Raises:
        UserError: there is no such method.
    """
    held_out = None if validation is None else str(validation)
    how: Any = bad  # read_records says which there are
    return Question(str(model), str(data), task, check_method(method), held_out, dict(columns or {}), how, split)


def compare_methods(
    model: str, data: str | Path, out: str | Path, methods: Sequence[str], **given: Any
) -> list[Report]:
    """:func:`finetune` by each of several methods, each in a process of its own, so that its memory is its own.

    With one method the run is ``out`` itself, with several ``out/METHOD``. Returns their reports.

    Raises:
        UserError: as ``finetune``.
    """
    wanted = [check_method(method.strip()) for method in methods]
    folders = [Path(out) / method if len(wanted) > 1 else Path(out) for method in wanted]
    if len(wanted) == 1:
        finetune(model, data, folders[0], method=wanted[0], **given)
    for method, folder in zip(wanted, folders, strict=True) if len(wanted) > 1 else ():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(_tune_alone, model, data, folder, {**given, "method": method}).result()
    return [read_report(folder) for folder in folders]


def _tune_alone(model: str, data: str | Path, out: Path, given: dict[str, Any]) -> None:
    finetune(model, data, out, **given)


def plot(
    name: str | Path,
    out: str | Path | None = None,
    *,
    text: str | None = None,
    lens: bool = False,
    vocab_size: int = 256,
) -> list[Path]:
    """Draw a run's curves and, for a ``text``, where each head looks; or a preset's architecture. Returns the files.

    Args:
        name: a run folder, or else a preset, which is drawn with a vocabulary of ``vocab_size``.
        out: the folder for the pictures; None for ``figures``, in the run where it is one.
        lens: draw what each layer would say of the text, too.

    Raises:
        UserError: neither a run nor a preset, no metrics yet, a text that the tokenizer does not know, a lens without
            a text or of a model that says no words, or a folder that cannot be written.
    """
    # matplotlib takes a third of a second to import, which who only generates should not wait for.
    from scratchlm.evaluation.diagrams import draw_architecture, draw_attention_head
    from scratchlm.evaluation.plots import plot_attention, plot_curves, plot_lens

    if lens and text is None:
        raise UserError("what each layer would say is told of a text; give one with --text")
    if str(name) in PRESETS and not Path(name).exists():
        folder, config = Path(out or "figures"), model_preset(str(name), vocab_size)
        if text is not None:
            raise UserError(f"{name} is a preset, which has not learned to look; give the folder of a run with --text")
        return [
            draw_architecture(config, folder / f"{name}.png"),
            draw_attention_head(config, folder / f"{name}-head.png"),
        ]
    run = RunFolder.open(name)
    folder = Path(out) if out is not None else run.path / "figures"
    maps: list[Path] = []
    if text is not None:  # first, so that a text that cannot be drawn is told before anything is written
        opened = open_model(name)
        maps = [plot_lens(opened.model, opened.tokenizer, text, folder / "logit-lens.png")] if lens else []
        maps += plot_attention(opened.model, opened.tokenizer, text, folder)
    title = run.path.resolve().name
    return [plot_curves(run.path / "metrics.jsonl", folder / "curves.png", title=title, floor=_floor(run)), *maps]


def filled(text: str, gaps: Sequence[Sequence[tuple[str, float]]]) -> str:
    """``text`` with the best candidate in each ``[MASK]``."""
    first, *rest = text.split(MASK)
    return first + "".join(gap[0][0] + part for gap, part in zip(gaps, rest, strict=True))


def _floor(run: RunFolder) -> float | None:
    """What the loss of a decoder that holds nothing out comes down to; None where it is not so, or long to compute."""
    description = run.description()
    config = ModelConfig.from_dict(description["model"])
    if config.architecture != "decoder" or TUNING in description:
        return None
    stream = open_stream(run.path / "data")
    if stream.validation is not None or len(stream.train) * config.context > EVERY_WINDOW_LIMIT:
        return None
    return next_token_floor(stream.train, config.context).cross_entropy
