"""A model with its tokenizer, as one object: what the Python API gives out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scratchlm.adapters import adapters_of
from scratchlm.adapters.run import TUNING
from scratchlm.checkpoints import RunFolder
from scratchlm.checkpoints.catalogue import Located
from scratchlm.checkpoints.datasets import data_file, data_sets
from scratchlm.data import ALIGNED, Records, encode_records, open_stream, prepare_stream, read_records, resolve_source
from scratchlm.data.corpora import corpus_text
from scratchlm.errors import UserError
from scratchlm.evaluation.classification import evaluate_labels
from scratchlm.evaluation.continuations import evaluate_examples
from scratchlm.evaluation.evaluate import Windows, evaluate_pairs, evaluate_run
from scratchlm.generation.advised import chat_sampling
from scratchlm.generation.beam import FoundText, search_text
from scratchlm.generation.build import build_engine, build_file_engine, default_precision
from scratchlm.generation.chat import reply
from scratchlm.generation.constraints import Grammar, grammar_of
from scratchlm.generation.engine import Engine, Token
from scratchlm.generation.fill import MASK, fill, own_mask
from scratchlm.generation.generate import Generation, OnText, generate
from scratchlm.generation.precision import PrecisionName, choose_precision
from scratchlm.generation.predict import Prediction, Predictor
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.weights import GGUFWeights, ModuleWeights, supported
from scratchlm.models import Decoder, Encoder, Model, ModelConfig, Seq2Seq, evaluating
from scratchlm.models.config import LABELLED, TAUGHT
from scratchlm.opening import Opened
from scratchlm.retrieval.embeddings import Embedder, Embeddings
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import Message

if TYPE_CHECKING:
    from scratchlm.training import FitResult

ROWS = 8
"""Texts that an engine works on at a time; more wait for their turn."""
_TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_MOST_TOKENS = 1024
"""Of a row, as in a tuning without a setting."""


class LanguageModel:
    """A model with its tokenizer.

    Args:
        opened: the model, or what it takes to read it.
        fit: how the training went; None for a model that was loaded.
        name: what it was opened by: a path, or a name of the catalogue.
        precision: of the weights when text is generated.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        fit: FitResult | None = None,
        name: str = "",
        precision: PrecisionName = "auto",
        device: torch.device | None = None,
    ) -> None:
        self._opened = opened
        self._device = device
        self.run: RunFolder | None = opened.run
        self.tokenizer: Tokenizer = opened.tokenizer
        self.config: ModelConfig = opened.config
        self.fit = fit
        self.name = name or str(opened.located.path)
        self.precision: PrecisionName = precision
        self._engine: Engine | None = None
        self._stamp: int | None = None
        self._embedders: dict[str, Embedder] = {}

    @classmethod
    def of_run(cls, run: RunFolder, model: Model, tokenizer: Tokenizer, fit: FitResult | None = None) -> LanguageModel:
        """The model of a run that is in memory already."""
        located = Located("run", run.path, str(run.path))
        return cls(Opened(model.config, tokenizer, located, None, lambda: model), fit=fit)

    @cached_property
    def model(self) -> Model:
        """The model itself, in evaluation mode unless someone has set it otherwise."""
        return self._opened.model if self._device is None else self._opened.model.to(self._device)

    def engine(self) -> Engine:
        """The engine that generates this model's text. It stays, and with it the cache of what it has read.

        Raises:
            UserError: the model is no decoder.
        """
        return self.engine_for(ROWS)

    def engine_for(self, rows: int, context: int | None = None) -> Engine:
        """:meth:`engine`, with room for so many texts at least; a new one keeps at most ``context`` tokens of each."""
        stamp = self._weights_stamp()
        if self._engine is None or stamp != self._stamp or self._engine.backend.slots < rows:
            self._engine = self._build_engine(max(rows, ROWS), context)
            self._stamp = self._weights_stamp()
        return self._engine

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
        log_probabilities: int | None = None,
        speculate: int = 0,
        schema: Mapping[str, Any] | bool | str | None = None,
        grammar: Grammar | None = None,
    ) -> list[Generation]:
        """Continue a text; of an encoder-decoder, answer it.

        ``temperature`` is 0.8 unless given. An encoder-decoder, which has one right answer, is greedy unless a
        temperature or several samples are asked for. For the rest see
        :class:`~scratchlm.generation.sampling.SamplingConfig` and :func:`~scratchlm.generation.generate.generate`. The
        completion is JSON that fits ``schema``, or a text of ``grammar``, if one of them is given.

        Raises:
            UserError: a setting out of range, a text that the tokenizer does not know, or a model that does not
                continue text.
        """
        answers = self.config.architecture == "seq2seq" and temperature is None and samples == 1
        heat = 0.8 if temperature is None else temperature
        sampling = SamplingConfig(heat, top_k, top_p, min_p, repetition_penalty, greedy or answers, seed)
        return generate(
            self.model if self.config.architecture == "seq2seq" else self.engine(),
            *(self.tokenizer, prompt),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            samples=samples,
            on_text=on_text,
            log_probabilities=log_probabilities,
            speculate=speculate,
            grammar=grammar_of(schema, grammar),
        )

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 512,
        sampling: SamplingConfig | None = None,
        stop: str | Sequence[str] = (),
        on_text: OnText | None = None,
        speculate: int = 0,
        schema: Mapping[str, Any] | bool | str | None = None,
        grammar: Grammar | None = None,
    ) -> Generation:
        """The assistant's answer to ``messages``, each a mapping with "role" and "content".

        What the cache holds of the conversation is not read again. Unless ``sampling`` is given, it is as the model's
        makers advise. The answer is JSON that fits ``schema``, or a text of ``grammar``, if one of them is given.

        Raises:
            UserError: a model without a chat template, messages of the wrong form, or a setting out of range.
        """
        return reply(
            *(self.engine(), self.tokenizer, messages),
            max_new_tokens=max_new_tokens,
            sampling=sampling or chat_sampling(self._opened.located),
            stop=stop,
            on_text=on_text,
            speculate=speculate,
            grammar=grammar_of(schema, grammar),
        )

    def search(self, prompt: str, *, beams: int, max_new_tokens: int = 100, best: int = 1) -> list[FoundText]:
        """The ``best`` likeliest continuations that a beam search finds; see :mod:`scratchlm.generation.beam`.

        Raises:
            UserError: fewer beams than texts, an empty prompt without a start token, or a prompt that leaves no room.
        """
        return search_text(self.engine_for(beams), self.tokenizer, prompt, beams, max_new_tokens, best)

    def embed(self, texts: Sequence[str], *, precision: str = "auto") -> Embeddings:
        """Vectors of texts, as the checkpoint's pooling settings say; see :mod:`scratchlm.retrieval.embeddings`.

        Raises:
            UserError: an encoder-decoder, a precision that vectors do not have, or weights that are not numbers.
        """
        if precision not in self._embedders:
            self._embedders[precision] = Embedder.open(self._opened, precision=precision)  # type: ignore[arg-type]
        return self._embedders[precision].embed(texts)

    def predict(self, texts: Sequence[str], *, max_length: int | None = None) -> list[Prediction]:
        """The class or the reward of each text, or the tags of its words; see :mod:`scratchlm.generation.predict`.

        Raises:
            UserError: a model without classes, tags and rewards, a text that is not UTF-8 or not in the vocabulary.
        """
        return list(self.predictor(max_length).stream(texts))

    def predictor(self, max_length: int | None = None) -> Predictor:
        """What tells the labels, or the rewards, of texts; words are parted as those that the model was tuned on.

        Raises:
            UserError: a model without classes, tags and rewards.
        """
        tuned = self.run.description().get("finetune", {}) if self.run is not None else {}
        words = "spaces" if tuned.get("words") == "spaces" else "parts"
        return Predictor(self.model, self.tokenizer, words=words, max_length=max_length, name=self.name)  # type: ignore[arg-type]

    def explain(self, token: Token) -> dict[str, Any]:
        """A sampled token as text, with its log-probability and the likeliest ones', ready for JSON."""
        top = [{"token": self.tokenizer.decode([i]), "logprob": value} for i, value in token.top]
        return {"token": self.tokenizer.decode([token.id]), "logprob": token.log_probability, "top": top}

    def fill(self, text: str, top_k: int = 5) -> list[list[tuple[str, float]]]:
        """For each ``[MASK]`` in ``text``, whatever the model's own token for it is, the likeliest words, best first.

        Raises:
            UserError: no ``[MASK]``, unknown words, or a model that does not fill gaps.
        """
        self._needs_words("fill gaps")
        tokenizer = self.tokenizer
        if tokenizer.mask_id is not None:
            before, after = ("".join(map(tokenizer.token, ids)) for ids in (tokenizer.prefix_ids, tokenizer.suffix_ids))
            text = before + own_mask(tokenizer, text) + after
        return fill(self.model, tokenizer, text, top_k)

    def evaluate(
        self,
        data: str | Path | None = None,
        *,
        windows: Windows = "auto",
        most_tokens: int = 0,
        most_pairs: int = 0,
    ) -> dict[str, Any]:
        """Cross-entropy, perplexity, accuracy and more; see :mod:`scratchlm.evaluation.evaluate` for every key. Of a
        model with classes or tags see :func:`~scratchlm.evaluation.classification.evaluate_labels`.

        Args:
            data: a corpus's name, a file or a folder; None for the run's own text, held-out and training part. A
                table (JSONL, CSV, Parquet) or a data set is read as rows, of which what a tuning would learn is
                measured; a model with classes or tags needs rows that have them.
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
        if self.config.head in LABELLED:
            return self._evaluate_labels(data)
        self._needs_words("be measured on text")
        first = most_tokens or None
        if data is None and (held_out_rows := self._held_out_rows()) is not None:
            text = self._evaluate_rows(held_out_rows)
            return {**text, "measured_on": "validation", "validation": text}
        if data is None:
            stream = open_stream(self._own_run().path / "data")
            held_out = None if stream.validation is None else stream.validation[:first]
            return evaluate_run(self.model, self.tokenizer, stream.train[:first], held_out, windows=windows)
        if Path(data).suffix.lower() in _TABLES or str(data) in data_sets():
            text = self._evaluate_rows(read_records(data_file(str(data)) or data))
            return {**text, "measured_on": "text", "text": text}
        with tempfile.TemporaryDirectory(prefix="scratchlm-") as folder:
            source = resolve_source(data)
            stream = prepare_stream(source, self.tokenizer, Path(folder), validation_fraction=0.0, context=0)
            figures = evaluate_run(self.model, self.tokenizer, validation=stream.train[:first], windows=windows)
        text = figures.pop("validation")
        return figures | {"measured_on": "text", "text": text}

    def _evaluate_rows(self, records: Records) -> dict[str, Any]:
        if self.config.architecture != "decoder":
            raise UserError(f"{self.name} is no decoder, and {records.name} has rows; give a plain text")
        own = self.run.settings() if self.run is not None else {}  # rows are cut as when the model was tuned
        most = min(self.config.context, int(own.get("max_length") or _MOST_TOKENS))
        examples = encode_records(records, self.tokenizer, max_length=most)
        with evaluating(self.model):
            figures = evaluate_examples(self.model, self.tokenizer, records, examples, prompts=0)
        return {"truncated": examples.truncated, **figures}

    def _evaluate_labels(self, data: str | Path | None) -> dict[str, Any]:
        assert isinstance(self.model, Decoder | Encoder)
        task: Any = self.config.head
        if data is not None:
            records = read_records(data_file(str(data)) or data, task=task, labels=self.config.labels)
        elif (records := self._held_out_rows()) is None:  # type: ignore[assignment]
            raise UserError(f"{self.name} gives labels; say with --data which rows with labels to measure it on")
        causal, most = self.config.architecture == "decoder", self.predictor().max_length
        examples = encode_records(records, self.tokenizer, max_length=most, causal=causal)
        return {"truncated": examples.truncated, **evaluate_labels(self.model, examples)}

    def _evaluate_pairs(self, model: Seq2Seq, data: str | Path | None, most: int) -> dict[str, Any]:
        from scratchlm.training.pairs import load_pairs

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
        if self.config.head in TAUGHT:
            return f"scratchlm predict {self.name} --text TEXT"
        if self.config.head == "none":
            return f"scratchlm embed {self.name} --text TEXT"
        if self.config.architecture != "encoder":
            return f"scratchlm generate {self.name} --prompt TEXT"
        return f'scratchlm fill {self.name} --text "... {MASK} ..."'

    def _needs_words(self, use: str) -> None:
        """Refuse a model whose head gives no words."""
        if self.config.head in (*TAUGHT, "none"):
            gives = {"none": "vectors", "reward": "rewards"}.get(self.config.head, "labels")
            raise UserError(f"{self.name} gives {gives} and no words, so it cannot {use}; use: {self.usage()}")

    def _held_out_rows(self) -> Records | None:
        """The rows that were held out when this model was tuned; None for a model that was not.

        Raises:
            UserError: none were held out, or they cannot be read again.
        """
        if self.run is None or TUNING not in self.run.description():
            return None
        from scratchlm.training.question import held_out_rows

        if (found := held_out_rows(self.run)) is None:
            raise UserError(f"{self.name} was tuned with nothing held out; say with --data what to measure it on")
        if found.task in ALIGNED:
            raise UserError(
                f"{self.name} was aligned: see its report.json; to measure it on a text, name one with --data"
            )
        return found

    def _own_run(self) -> RunFolder:
        """The run that holds the text to measure on when no other is given."""
        if self.run is None:
            raise UserError(f"{self.name} comes without the text it was trained on; say what to measure on with --data")
        return self.run

    def _build_engine(self, rows: int, context: int | None) -> Engine:
        self._needs_words("continue text")
        if self.config.architecture != "decoder":
            raise UserError(f"{self.name} does not continue text; use: {self.usage()}")
        precision = self.precision
        file, located = self._opened.file, self._opened.located
        if file is not None and (self._device is None or self._device.type == "cpu") and "model" not in vars(self):
            asked = {"rows": rows, "precision": precision, "context": context}
            found = build_file_engine(GGUFWeights(file), origin=located.path, sample=self._sample_ids, **asked)  # type: ignore[arg-type]
            if found is not None:
                return found
        model = self.model
        assert isinstance(model, Decoder)
        if precision == "auto":
            precision = default_precision(model)
            if self.fit is None and supported(model):
                names = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
                files = [located.path / name for name in names]
                origin = located.path if file is not None else next((f for f in files if f.exists()), None)
                adapted = located.kind == "adapter" or bool(adapters_of(model).active)
                precision = choose_precision(ModuleWeights(model), self._sample_ids(), origin, adapted=adapted)
        return build_engine(model.eval(), rows=rows, precision=precision, context=context)

    def _sample_ids(self) -> list[int]:
        """Tokens to measure precisions on: the embedded texts, as far as the tokenizer knows them."""
        try:
            return [i for name in ("rumi-life", "rumi") for i in self.tokenizer.encode(corpus_text(name))]
        except UserError:
            return []

    def _weights_stamp(self) -> int | None:
        """Changes when a weight in memory is changed in place; None where no model is in memory."""
        if "model" not in vars(self):
            return None
        return hash(tuple((id(p), p._version) for p in self.model.parameters()))
