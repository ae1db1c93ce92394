"""scratchlm: the whole life of a language model in one small library.

    model = scratchlm.train("tinygpt", "book.txt", "runs/book")
    model = scratchlm.load("runs/book")
    print(model.generate("Once ")[0].text)

What is named here is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from scratchlm.pause import collector_paused

if TYPE_CHECKING:
    from scratchlm.api import LanguageModel as LanguageModel
    from scratchlm.api import align as align
    from scratchlm.api import finetune as finetune
    from scratchlm.api import load as load
    from scratchlm.api import train as train
    from scratchlm.errors import UserError as UserError

# On a busy machine a thread that waits by spinning for one that another program holds up wastes whole time slices: a
# training step then takes four times as long as with this short spin, which costs nothing on an idle one. It is read
# when PyTorch is first imported; whoever sets either variable keeps his choice.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
_HOMES = {
    "LanguageModel": "scratchlm.api",
    "align": "scratchlm.api",
    "finetune": "scratchlm.api",
    "load": "scratchlm.api",
    "train": "scratchlm.api",
    "UserError": "scratchlm.errors",
}
__all__ = ["LanguageModel", "UserError", "__version__", "align", "finetune", "load", "train"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'scratchlm' has no attribute {name!r}")
    with collector_paused():
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
