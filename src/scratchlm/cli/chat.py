"""``scratchlm chat``."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.cli.advised import RepetitionPenalty, Temperature, TopK, TopP
from scratchlm.cli.constraining import Schema, grammar_asked
from scratchlm.cli.output import Model, Precision
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.generation.conversation import Answer, Conversation

HELP = """  /reset           forget the conversation
  /system TEXT     begin anew with another system prompt
  /retry           answer the last question again
  /good, /bad      keep the last answer with your rating, for alignment
  /save [FILE]     keep the conversation, as a row to train on
  /quit            leave (so does Ctrl-D); Ctrl-C stops an answer"""


def chat(
    model: Model,
    system: Annotated[str | None, typer.Option(help="What the model is told before all.", show_default=False)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 512,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.", show_default=False)] = None,
    speculate: Annotated[int, typer.Option(help="Guess so many tokens from the text and check them in one pass.")] = 0,
    schema: Schema = None,
    precision: Precision = "auto",
    ratings: Annotated[Path, typer.Option(help="Where /good and /bad are kept.")] = Path("ratings.jsonl"),
) -> None:
    """Talk to a model in the terminal."""
    from scratchlm import api
    from scratchlm.generation.advised import chat_sampling
    from scratchlm.generation.conversation import Conversation

    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty}
    sampling = chat_sampling(model, seed=seed, **drawn)
    asked, loaded = grammar_asked(schema), api.load(model, precision=precision)
    if loaded.tokenizer.chat_template is None:
        raise UserError(f"{model} has no chat template, so it knows no turns; use: {loaded.usage()}")
    talk = Conversation(loaded, loaded.engine().backend.context, system, sampling, max_new_tokens, speculate, asked)
    if sys.stdin.isatty():
        with suppress(ImportError):
            import_module("readline")  # arrow keys and history, where Python was built with them
        _note(f"{model}: type a question, or /help")
    while (line := _read()) is not None:
        try:
            if not _obey(line.strip(), talk, ratings):
                return
        except UserError as error:
            if not sys.stdin.isatty():
                raise
            _note(f"error: {error}")


def _obey(line: str, talk: Conversation, ratings: Path) -> bool:
    """Do what a line says; False to leave."""
    command, _, rest = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/help":
        _note(HELP)
    elif command in ("/reset", "/system"):
        talk.reset(rest.strip() if command == "/system" else None)
        _note("begun anew")
    elif command in ("/good", "/bad"):
        talk.rate(command == "/good", ratings)
        _note(f"kept in {ratings}")
    elif command == "/save":
        file = Path(rest.strip() or "conversations.jsonl")
        talk.save(file)
        _note(f"kept in {file}")
    elif command == "/retry":
        _show(talk.again(_write), talk.context)
    elif line.startswith("/"):
        raise UserError(f"there is no command {command}; /help shows them")
    elif line:
        _show(talk.ask(line, _write), talk.context)
    return True


def _read() -> str | None:
    """The next line; None at the end of the input. Ctrl-C here only forgets what was typed."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            _note("\n(Ctrl-D or /quit leaves)")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _show(answer: Answer, context: int) -> None:
    print()
    speed = f"{(answer.tokens - 1) / max(answer.seconds - answer.first, 1e-9):.0f} a second after {answer.first:.2f} s"
    stopped = ", stopped" if answer.stopped else ""
    _note(f"[{answer.tokens:,} tokens{stopped}, {speed}; {answer.used:,} of {context:,} tokens of context used]")


def _note(text: str) -> None:
    typer.secho(text, err=True, dim=True)
