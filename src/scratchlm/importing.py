"""A user's own function, named on a command line as ``file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from scratchlm.errors import UserError

FAILURES = (Exception, SystemExit)
"""Of a user's code, which must not end the program without a word. What it prints goes to stderr: stdout is ours."""


def load_named(place: str, name: str, what: str, example: str, forms: str) -> Any:
    """What a file (``place`` ends in .py) or a module calls ``name``. Its code is run, so let it be one that you trust.

    Args:
        what: what it is wanted for, such as ``reward``; ``example`` is such a spec, and ``forms`` tells of all there
            are. They are for the lines about mistakes.

    Raises:
        UserError: there is no such file, module or name, or it cannot be imported.
    """
    module = _file(Path(place), what, example) if place.endswith(".py") else _module(place, forms)
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, [one for one in vars(module) if not one.startswith("_")], 1)
        cure = f"did you mean {near[0]!r}?" if near else "name a function in it"
        raise UserError(f"{place} has no {name!r}; {cure}")
    return found


def said(error: BaseException) -> str:
    """An error's kind and message on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _file(path: Path, what: str, example: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {path}; name the file of the {what}'s function, such as {example}")
    name = f"_scratchlm_{what}s_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # where its own dataclasses look for it
    try:
        with redirect_stdout(sys.stderr):
            found.loader.exec_module(module)
    except FAILURES as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {said(error)}; mend it") from error
    return module


def _module(name: str, forms: str) -> ModuleType:
    try:
        with redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except FAILURES as error:
        raise UserError(f"the module {name} cannot be imported: {said(error)}; give {forms}") from error
