"""The Python API: a trained model as one object, and the two ways to get it, :func:`train` and :func:`load`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scratchlm.checkpoints import RunFolder
from scratchlm.checkpoints.loading import open_model
from scratchlm.data import open_stream, prepare_stream, resolve_source
from scratchlm.errors import UserError
from scratchlm.evaluation.diagrams import draw_architecture, draw_attention_head
from scratchlm.evaluation.evaluate import EVERY_WINDOW_LIMIT, Windows, evaluate_pairs, evaluate_run
from scratchlm.evaluation.floor import next_token_floor
from scratchlm.evaluation.plots import plot_attention, plot_curves
from scratchlm.generation.fill import MASK, fill
from scratchlm.generation.generate import Generation, OnText, generate
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import PRESETS, Encoder, Model, ModelConfig, Seq2Seq, model_preset
from scratchlm.tokenizers import Tokenizer
from scratchlm.training import FitResult, Reporter
from scratchlm.training import train as pretrain
from scratchlm.training.distributed import choose_device
from scratchlm.training.pairs import load_pairs


@dataclass
class LanguageModel:
    """A model with its tokenizer."""

    run: RunFolder | None
    """The folder of the training that made it; None for a model that others trained."""
    model: Model
    tokenizer: Tokenizer
    fit: FitResult | None = None
    """How the training went; None for a model that was loaded."""
    name: str = ""
    """What it was opened by: a path, or a name of the catalogue."""

    def __post_init__(self) -> None:
        if not self.name and self.run is not None:
            self.name = str(self.run.path)

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        *,
        max_new_tokens: int = 200,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        greedy: bool = False,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        samples: int = 1,
        on_text: OnText | None = None,
    ) -> list[Generation]:
        """Continue a text; of an encoder-decoder, answer it.

        ``temperature`` is 0.8 unless given. An encoder-decoder, which has one right answer, is greedy unless a
        temperature or several samples are asked for. For the rest see
        :class:`~scratchlm.generation.sampling.SamplingConfig` and :func:`~scratchlm.generation.generate.generate`.

        Raises:
            UserError: a setting out of range, a text that the tokenizer does not know, or a masked model.
        """
        answers = isinstance(self.model, Seq2Seq) and temperature is None and samples == 1
        sampling = SamplingConfig(
            temperature=0.8 if temperature is None else temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            greedy=greedy or answers,
            seed=seed,
        )
        return generate(
            self.model,
            self.tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            samples=samples,
            on_text=on_text,
        )

    def fill(self, text: str, top_k: int = 5) -> list[list[tuple[str, float]]]:
        """For each ``[MASK]`` in ``text`` the likeliest words and their probabilities, best first.

        A gap is written ``[MASK]`` whatever the model's own token for it is.

        Raises:
            UserError: no ``[MASK]``, unknown words, or a model that does not fill gaps.
        """
        if isinstance(self.model, Encoder) and self.model.head is None:
            raise UserError(f"{self.name} gives vectors and no words, so it cannot fill gaps; use bert-base-uncased")
        tokenizer = self.tokenizer
        if tokenizer.mask_id is not None:
            before, after = ("".join(map(tokenizer.token, ids)) for ids in (tokenizer.prefix_ids, tokenizer.suffix_ids))
            text = before + text.replace(MASK, tokenizer.token(tokenizer.mask_id)) + after
        return fill(self.model, tokenizer, text, top_k)

    def evaluate(
        self,
        data: str | Path | None = None,
        *,
        windows: Windows = "auto",
        most_tokens: int = 0,
        most_pairs: int = 0,
    ) -> dict[str, Any]:
        """Cross-entropy, perplexity, accuracy and more; see :mod:`scratchlm.evaluation.evaluate` for every key.

        Args:
            data: a corpus's name, a file or a folder; None for the run's own text, held-out and training part.
            windows: ``every``, ``apart``, or ``auto``.
            most_tokens: look at so many tokens of each text, from its start; 0 for all.
            most_pairs: of an encoder-decoder, whose answers take longer: look at so many pairs; 0 for all.

        Raises:
            UserError: the text cannot be read, is too short, or has unknown characters.
        """
        for name, most in (("most_tokens", most_tokens), ("most_pairs", most_pairs)):
            if most < 0:
                raise UserError(f"{name} is {most}; give how many to look at, or 0 for all")
        if isinstance(self.model, Seq2Seq):
            return self._evaluate_pairs(self.model, data, most_pairs)
        if isinstance(self.model, Encoder) and self.model.head is None:
            raise UserError(f"{self.name} gives vectors and no words, so there are no predictions to measure")
        first = most_tokens or None
        if data is None:
            stream = open_stream(self._own_run().path / "data")
            held_out = None if stream.validation is None else stream.validation[:first]
            return evaluate_run(self.model, self.tokenizer, stream.train[:first], held_out, windows=windows)
        with tempfile.TemporaryDirectory(prefix="scratchlm-") as folder:
            source = resolve_source(data)
            stream = prepare_stream(source, self.tokenizer, Path(folder), validation_fraction=0.0, context=0)
            figures = evaluate_run(self.model, self.tokenizer, validation=stream.train[:first], windows=windows)
        text = figures.pop("validation")
        return figures | {"measured_on": "text", "text": text}

    def _evaluate_pairs(self, model: Seq2Seq, data: str | Path | None, most: int) -> dict[str, Any]:
        if data is not None:
            parts = {"text": load_pairs(str(data), 0.0, 0).train}
        else:
            run = self._own_run()
            settings, name = run.settings(), run.description()["data"]["name"]
            pairs = load_pairs(name, settings["validation_fraction"], settings["seed"])
            # The held-out pairs tell all that matters; the training pairs, many times as many, stand in for them.
            parts = {"validation": pairs.validation} if pairs.validation else {"training": pairs.train}
        ((measured_on, chosen),) = parts.items()
        figures = evaluate_pairs(model, self.tokenizer, chosen[: most or None])
        return {"measured_on": measured_on, **figures, measured_on: figures}

    def usage(self) -> str:
        """The command that uses this model."""
        use = f'fill {self.name} --text "... {MASK} ..."' if isinstance(self.model, Encoder) else ""
        return f"scratchlm {use or f'generate {self.name} --prompt TEXT'}"

    def _own_run(self) -> RunFolder:
        """The run that holds the text to measure on when no other is given."""
        if self.run is None:
            raise UserError(f"{self.name} comes without the text it was trained on; say what to measure on with --data")
        return self.run


def load(name: str | Path, *, device: str = "auto") -> LanguageModel:
    """Open a model: a run's folder, a folder of Hugging Face's, a GGUF file, or a name of the catalogue or the hub.

    Args:
        name: see :func:`scratchlm.checkpoints.catalogue.resolve`. Nothing is fetched.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ...

    Raises:
        UserError: there is no such model on this machine, or a file of it is missing or damaged.
    """
    opened = open_model(name)
    return LanguageModel(opened.run, opened.model.to(choose_device(device)), opened.tokenizer, name=str(name))


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
    return LanguageModel(result.run, result.model, result.tokenizer, result.fit)


def plot(
    name: str | Path, out: str | Path | None = None, *, text: str | None = None, vocab_size: int = 256
) -> list[Path]:
    """Draw a run's curves and, for a ``text``, where each head looks; or a preset's architecture. Returns the files.

    Args:
        name: a run folder, or else a preset, which is drawn with a vocabulary of ``vocab_size``.
        out: the folder for the pictures; None for ``figures``, in the run where it is one.

    Raises:
        UserError: neither a run nor a preset, no metrics yet, a text that the tokenizer does not know, or a folder that
            cannot be written.
    """
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
        model, tokenizer = run.load_model()
        maps = plot_attention(model, tokenizer, text, folder)
    title = run.path.resolve().name
    return [plot_curves(run.path / "metrics.jsonl", folder / "curves.png", title=title, floor=_floor(run)), *maps]


def filled(text: str, gaps: Sequence[Sequence[tuple[str, float]]]) -> str:
    """``text`` with the best candidate in each ``[MASK]``."""
    first, *rest = text.split(MASK)
    return first + "".join(gap[0][0] + part for gap, part in zip(gaps, rest, strict=True))


def _floor(run: RunFolder) -> float | None:
    """What the loss of a decoder that holds nothing out comes down to; None where it is not so, or long to compute."""
    config = ModelConfig.from_dict(run.description()["model"])
    if config.architecture != "decoder":
        return None
    stream = open_stream(run.path / "data")
    if stream.validation is not None or len(stream.train) * config.context > EVERY_WINDOW_LIMIT:
        return None
    return next_token_floor(stream.train, config.context).cross_entropy
