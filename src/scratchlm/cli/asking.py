"""Questions and cited answers in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scratchlm.cli.output import print_json
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.answers import Answer, Answerer
    from scratchlm.retrieval.evidence import Judges
    from scratchlm.retrieval.followup import Turn


def converse(answerer: Answerer, where: Any, *, explain: bool, json: bool) -> None:
    """Answer the questions that are typed, or come line by line; each knows those before it."""
    history: list[Turn] = []
    for line in _lines():
        try:
            history.append(answer(answerer, line, history, where, explain=explain, json=json))
        except UserError as error:
            if not sys.stdin.isatty():
                raise
            typer.secho(f"error: {error}", err=True, dim=True)


def answer(
    answerer: Answerer, question: str, history: Sequence[Turn], where: Any, *, explain: bool, json: bool
) -> Turn:
    """Answer a question, and print that as it comes."""
    from scratchlm.retrieval.followup import Turn

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    found = answerer.ask(question, history, None if json else write, where)
    if json:
        print_json(found.as_json())
    else:
        print()
        _show(found, explain)
    return Turn(question, found.text)


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise UserError("standard input is not UTF-8; convert it, for instance with iconv") from error
        if line in ("/quit", "/exit"):
            return
        if line:
            yield line


def _show(found: Answer, explain: bool) -> None:
    places: dict[int, list[str]] = {}
    for sentence in found.sentences:
        for one in sentence.citations:
            places.setdefault(one.number, []).append(one.place())
        if not sentence.supported:
            typer.secho(f"not supported by what it cites: {sentence.text}", err=True)
    for number, cited in sorted(places.items()):
        print(f"[{number}] {'; '.join(dict.fromkeys(cited))}")
    for part in found.dropped:
        typer.secho(f"left out of {part.file} ({part.why}): {' '.join(part.text.split())[:100]}", err=True, dim=True)
    if explain:
        print(f"an answer is there with probability {found.confidence:.2f}; looked for: {found.asked}")
        for sentence in found.sentences:
            print(f"support {sentence.support:.2f}: {sentence.text}")
        stages = sorted(found.timings.items(), key=lambda one: one[0] == "total")
        print("ms: " + ", ".join(f"{name} {spent:.1f}" for name, spent in stages))


def judge_of(model: str) -> Judges:
    """What looks at the likeliest sentences once more: a reader's folder, or any decoder by its likelihood."""
    from scratchlm.opening import open_model
    from scratchlm.retrieval.likelihood import QuestionLikelihood
    from scratchlm.retrieval.reader import READER, Reader

    if (Path(model) / READER).is_file():
        return Reader.open(model)
    opened = open_model(model)
    return QuestionLikelihood(opened.model, opened.tokenizer)
