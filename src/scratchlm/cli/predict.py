"""``scratchlm predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scratchlm.cli.output import Json, Model, print_json
from scratchlm.cli.texts import Column, File, Texts, check_texts, count_texts, given_texts

if TYPE_CHECKING:
    from scratchlm.generation.predict import Prediction, Predictor

_MOST_CLASSES, _WIDTH = 5, 60


def predict(
    model: Model,
    text: Texts = None,
    file: File = None,
    column: Column = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens that are read at a time.", show_default="the model's")
    ] = None,
    json: Json = False,
) -> None:
    """Tell the class of a text, or the tags of its words, with probabilities; of a reward model, the reward.

    With --file each text's answer is a line, in the file's order, printed as soon as it is known.
    """
    check_texts(text, file, column)
    total = count_texts(text, file, column)
    from scratchlm import api
    from scratchlm.cli.counting import Counting

    predictor = api.load(model).predictor(max_length)
    count = _Count(predictor)
    if json:
        with Counting("predicting", total) as progress:
            found = list(count(predictor.stream(given_texts(text, file, column), progress)))
        figures = {"model": model, "task": predictor.task, "labels": list(predictor.labels), **count.figures()}
        print_json(figures | {"predictions": [one.to_dict() for one in found]})
    else:
        for one in count(predictor.stream(given_texts(text, file, column))):
            print(_line(one, predictor) if file is not None else _paragraph(one, predictor), flush=file == "-")
    if note := count.note():
        print(note, file=sys.stderr)


class _Count:
    """Counts what has to be told at the end."""

    def __init__(self, predictor: Predictor) -> None:
        self._most, self._texts, self._truncated, self._silent = predictor.max_length, 0, 0, 0

    def __call__(self, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        for one in predictions:
            self._texts += 1
            self._truncated += getattr(one, "truncated", False)
            self._silent += one.silent
            yield one

    def figures(self) -> dict[str, int]:
        return {"texts": self._texts, "truncated": self._truncated, "without_token": self._silent}

    def note(self) -> str:
        parts = []
        if self._truncated:
            parts.append(
                f"{self._truncated:,} of {self._texts:,} texts are longer than the {self._most:,} tokens that are "
                "read, and their ends count for nothing"
            )
        if self._silent:
            parts.append(f"{self._silent:,} of {self._texts:,} texts have no token, so no answer")
        return f"note: {'; '.join(parts)}" if parts else ""


def _line(one: Prediction, predictor: Predictor) -> str:
    """A prediction as one line."""
    from scratchlm.generation.predict import ClassPrediction, RewardPrediction

    if isinstance(one, RewardPrediction):
        return f"{'no reward' if one.reward is None else format(one.reward, '+9.4f')}  {_short(one.text)}"
    if isinstance(one, ClassPrediction):
        label = "no label" if one.probability is None else f"{one.probability:6.1%}  {one.label}"
        return f"{label}  {_short(one.text)}"
    if not predictor.spans:
        return " ".join(f"{word.text}/{word.label}" for word in one.words) or "no words"
    found = (f"{e.label} {_short(e.text)!r} {e.start}-{e.end} {e.probability:.1%}" for e in one.entities)
    return "; ".join(found) or "no entity"


def _paragraph(one: Prediction, predictor: Predictor) -> str:
    """A prediction with all there is to tell of it."""
    from scratchlm.generation.predict import ClassPrediction, RewardPrediction

    if isinstance(one, RewardPrediction):
        return _line(one, predictor)
    lines = [_short(one.text)]
    if isinstance(one, ClassPrediction):
        best = sorted(one.probabilities.items(), key=lambda item: -item[1])
        lines += [f"  {share:6.1%}  {label}" for label, share in best[:_MOST_CLASSES]] or ["  no label"]
        return "\n".join(lines)
    rows: Any = one.entities if predictor.spans else one.words
    width = max((len(row.label) for row in rows), default=0)
    lines += [
        f"  {row.probability:6.1%}  {row.label:{width}}  {_short(row.text)} ({row.start}-{row.end})" for row in rows
    ]
    return "\n".join(lines if rows else [*lines, "  no entity" if predictor.spans else "  no words"])


def _short(text: str) -> str:
    """A text's beginning, on one line."""
    plain = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return plain if len(plain) <= _WIDTH else plain[: _WIDTH - 1] + "…"
