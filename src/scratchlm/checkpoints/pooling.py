"""How a checkpoint wants a text's states made one vector: the settings that sentence-transformers keeps beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from scratchlm.checkpoints.files import disk_errors
from scratchlm.checkpoints.headers import CURE, is_plain_name, read_json
from scratchlm.errors import UserError
from scratchlm.reading import read_text

_LARGEST = 1 << 20
FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class PoolingSettings:
    """What sentence-transformers does where a checkpoint has no such files: the mean, as it is."""

    mode: Pooling = "mean"
    """The mean of all tokens' states, [CLS] and [SEP] among them; or the first token's."""
    normalise: bool = False
    """Whether vectors are scaled to length 1."""
    max_length: int | None = None
    """Tokens to keep of a text, [CLS] and [SEP] among them; None for as many as the model's context holds."""
    lower_case: bool = False
    """Whether texts are put in lower case before the tokenizer sees them."""

    def vectors(self, states: Sequence[Tensor]) -> Tensor:
        """The vectors of D texts, each of whose states are (tokens, C). -> (D, C)."""
        pooled = torch.stack([one[0] if self.mode == "cls" else one.mean(0) for one in states])
        return F.normalize(pooled, dim=1) if self.normalise else pooled


def read_pooling(folder: str | Path) -> PoolingSettings:
    """The settings in modules.json, the pooling module's config.json and sentence_bert_config.json.

    Raises:
        UserError: a file is damaged, or asks for something that scratchlm does not do, which is named.
    """
    folder = Path(folder)
    modules = _modules(folder / "modules.json") if (folder / "modules.json").is_file() else {}
    for kind in modules:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(
                f"{folder / 'modules.json'} has a module {kind[:40]!r}, which scratchlm lacks; use another model"
            )
    place = folder / modules.get("Pooling", "1_Pooling") / "config.json"
    mode: Pooling = "mean"
    if place.is_file() or "Pooling" in modules:
        mode = _mode(place)
    _refuse_prompt(folder / "config_sentence_transformers.json")
    length, lower = _text_settings(folder / modules.get("Transformer", "") / "sentence_bert_config.json")
    return PoolingSettings(mode, "Normalize" in modules, length, lower)


def copy_pooling(source: Path, target: Path) -> None:
    """Put the files that :func:`read_pooling` reads, where there are any, into another model's folder.

    Raises:
        UserError: the disk refuses.
    """
    for path in [source / name for name in FILES] + sorted(source.glob("[0-9]_*/config.json")):
        if path.is_file():
            copy = target / path.relative_to(source)
            with disk_errors(str(copy), "free some space, or choose another place for --out"):
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)


def _modules(path: Path) -> dict[str, str]:
    """The modules' kinds, each with its folder."""
    try:
        modules: Any = json.loads(read_text(path, _LARGEST))
        found = {str(one["type"]).rpartition(".")[2]: one["path"] for one in modules}
        if len(found) != len(modules):
            raise ValueError("a module is there twice")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error)[:80]}); {CURE}") from error
    for place in found.values():
        if not isinstance(place, str) or not (place == "" or is_plain_name(place)):
            raise UserError(f"{path} names the folder {place!r}, which is not beside it; {CURE}")
    return found


def _mode(path: Path) -> Pooling:
    fields = read_json(path, _LARGEST)
    chosen = [fields["pooling_mode"]] if "pooling_mode" in fields else []  # as later versions write it
    chosen += [name[13:] for name, on in fields.items() if name.startswith("pooling_mode_") and on]
    modes: dict[Any, Pooling] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    if len(chosen) != 1 or str(chosen[0]) not in modes:
        raise UserError(f"{path} asks for pooling by {str(chosen)[:80]}; scratchlm has mean or cls, use another model")
    return modes[chosen[0]]


def _refuse_prompt(path: Path) -> None:
    if path.is_file() and (prompt := read_json(path, _LARGEST).get("default_prompt_name")) is not None:
        raise UserError(
            f"{path}: default_prompt_name is {str(prompt)[:40]!r}, and scratchlm puts no prompt before texts; set it "
            "to null and write the prompt into the texts"
        )


def _text_settings(path: Path) -> tuple[int | None, bool]:
    if not path.is_file():
        return None, False
    fields = read_json(path, _LARGEST)
    length, lower = fields.get("max_seq_length"), fields.get("do_lower_case", False)
    if length is not None and (type(length) is not int or length < 1):
        raise UserError(f"{path}: max_seq_length is {str(length)[:40]!r}, not a whole number of at least 1; mend it")
    if not isinstance(lower, bool):
        raise UserError(f"{path}: do_lower_case is {str(lower)[:40]!r}, not true or false; mend it")
    return length, lower
