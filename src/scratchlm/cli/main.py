"""The program ``scratchlm``: its verbs, and how mistakes become one line."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from scratchlm import __version__
from scratchlm.cli.agent import agent
from scratchlm.cli.align import align
from scratchlm.cli.ask import ask
from scratchlm.cli.bench import bench
from scratchlm.cli.chat import chat
from scratchlm.cli.demo import demo
from scratchlm.cli.doctor import doctor
from scratchlm.cli.embed import embed
from scratchlm.cli.evaluate import evaluate
from scratchlm.cli.fill import fill
from scratchlm.cli.finetune import finetune
from scratchlm.cli.generate import generate
from scratchlm.cli.index import index
from scratchlm.cli.mcp import mcp
from scratchlm.cli.models import models
from scratchlm.cli.plot import plot
from scratchlm.cli.predict import predict
from scratchlm.cli.rag_eval import rag_eval
from scratchlm.cli.rag_sweep import rag_sweep
from scratchlm.cli.search import search
from scratchlm.cli.serve import serve
from scratchlm.cli.teach_reader import teach_reader
from scratchlm.cli.teach_tools import teach_tools
from scratchlm.cli.traces import traces
from scratchlm.cli.train import train
from scratchlm.errors import UserError

USAGE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141
COMPLETING = "_SCRATCHLM_COMPLETE"
"""Set by a shell that completes a command line."""
_CURES = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or choose another disk",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.EROFS: "choose a place that can be written to",
    errno.EMFILE: "close other programs, or raise the limit with: ulimit -n 4096",
}

app = typer.Typer(
    name="scratchlm",
    help="The whole life of a language model: train it, evaluate it, use it.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _verb in (
    ("demo", demo),
    ("train", train),
    ("finetune", finetune),
    ("align", align),
    ("teach-reader", teach_reader),
    ("teach-tools", teach_tools),
    ("eval", evaluate),
    ("generate", generate),
    ("chat", chat),
    ("fill", fill),
    ("embed", embed),
    ("predict", predict),
    ("index", index),
    ("search", search),
    ("ask", ask),
    ("agent", agent),
    ("rag-eval", rag_eval),
    ("rag-sweep", rag_sweep),
    ("serve", serve),
    ("mcp", mcp),
    ("plot", plot),
    ("bench", bench),
    ("doctor", doctor),
):
    app.command(_name)(_verb)
app.add_typer(models, name="models")
app.add_typer(traces, name="traces")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"scratchlm {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The whole life of a language model: train it, evaluate it, use it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# The parser's own errors; which module they live in depends on typer's version.
_ParserError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status.

    0 for success, 1 for an error of ours, 2 for a mistake that the user can mend, 130 for Ctrl-C. A mistake is told in
    one line on standard error; with SCRATCHLM_DEBUG=1 the traceback comes before it.
    """
    if COMPLETING in os.environ:  # a shell asks what may follow; the parser answers and ends the program
        app(prog_name="scratchlm")
    debug = os.environ.get("SCRATCHLM_DEBUG", "") not in ("", "0")
    if not (debug or sys.warnoptions):
        warnings.simplefilter("ignore")  # a library's advice to programmers is no news to who types a command
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter must not end the program
    try:
        status = app(args=arguments, prog_name="scratchlm", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as ended:  # the parser turns the one into the other
        if isinstance(ended, SystemExit) and not ended.code:
            return 0
        _give_up_stdout()
        return PIPE_CLOSED
    except Exception as error:
        if debug:
            traceback.print_exc()
        line, status = _explain(error)
        print("error: " + "".join(c if c.isprintable() else " " for c in line), file=sys.stderr)
        if isinstance(error, OSError):
            _give_up_stdout()
        return status


def _explain(error: Exception) -> tuple[str, int]:
    """What to tell the user, in one line, and the exit status."""
    if isinstance(error, UserError):
        return str(error), USAGE
    if isinstance(error, _ParserError):
        context = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split()).rstrip(".").replace(". Did", "; did")
        command = context.command_path if context is not None else "scratchlm"
        if command == "scratchlm" and (asked := re.match("No such command '([^']*)'", message)):
            message = _no_command(asked[1], message)
        return f"{message[:1].lower()}{message[1:]} (see: {command} --help)", USAGE
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        cure = _CURES.get(error.errno or 0, "check the path and the disk")
        return f"{place}{error.strerror or error}; {cure}", USAGE
    # PyTorch says that memory ran out by a plain RuntimeError with these words.
    if isinstance(error, MemoryError) or any(words in str(error) for words in ("t allocate memory", "out of memory")):
        return "there is not enough memory; lower width, layers, context or batch_size with --set", USAGE
    kind = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"a fault of scratchlm itself ({kind}); run it again with SCRATCHLM_DEBUG=1 and report the traceback", 1


def _no_command(name: str, message: str) -> str:
    """The parser's message, or where the command is to be found: ``export`` is one of the group ``models``."""
    for group in app.registered_groups:
        assert group.typer_instance is not None
        below = group.typer_instance.registered_commands
        if name in (one.name or getattr(one.callback, "__name__", "") for one in below):
            return f"No such command '{name}'; did you mean '{group.name} {name}'?"
    return message


def _give_up_stdout() -> None:
    """Nobody can be written to; without this Python would try again at its end and complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # not a real file, as in tests
        pass
