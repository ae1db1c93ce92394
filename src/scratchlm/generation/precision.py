"""How many bits for the weights: the fewest that leave a model's predictions as they were, found by measuring."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from scratchlm.cache import cache_folder
from scratchlm.checkpoints.files import write_text
from scratchlm.errors import UserError
from scratchlm.generation.native import NativeCache, NativeModel, NativePrecision, Segment
from scratchlm.generation.weights import Weights
from scratchlm.models import parameter_count

PrecisionName = Literal["auto", "fp32", "bf16", "int8", "int4"]
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)
TOLERANCE = 0.01
"""How much higher than in float32 the perplexity may be, as a share."""
SMALL = 8_000_000
"""Parameters up to which float32 is fast enough to make the question idle."""
WINDOW = 256


def check_precision(name: str) -> PrecisionName:
    """``name``, if it is a precision.

    Raises:
        UserError: it is none.
    """
    if name not in PRECISIONS:
        raise UserError(f"there is no precision {name!r}; choose one of: {', '.join(PRECISIONS)}")
    return name  # type: ignore[return-value]


@torch.inference_mode()
def perplexity(model: NativeModel, ids: Sequence[int], window: int = WINDOW) -> float:
    """The exponential of the mean nats per token of ``ids``, in windows that lie end to end.

    Raises:
        ValueError: fewer than two tokens.
    """
    if len(ids) < 2:
        raise ValueError("a perplexity needs at least two tokens")
    window = min(window, model.config.context)
    cache = NativeCache(model.config, 1, window)
    total = 0.0
    for start in range(0, len(ids) - 1, window):
        part = list(ids[start : start + window + 1])
        logits = model.logits([Segment(0, part[:-1], 0, wanted="all")], cache)
        total += float(F.cross_entropy(logits, torch.tensor(part[1:]), reduction="sum"))
    return math.exp(min(total / (len(ids) - 1), 700.0))


def choose_precision(
    weights: Weights, ids: Sequence[int], origin: Path | None, *, adapted: bool = False
) -> NativePrecision:
    """The fastest of int4, int8 and fp32 whose perplexity on ``ids`` is within 1 % of fp32's.

    Small models stay in fp32, and int4 is no choice for ``adapted`` weights, into which an adapter has been worked:
    what it has learned are small changes, which a step of 4 bits rounds away, and a text of another kind does not show
    that. The answer is remembered for the file ``origin`` as it is now, so that measuring (some seconds) is done once.
    """
    if parameter_count(weights.config) <= SMALL or len(ids) < 2:
        return "fp32"
    key = None if origin is None else _fingerprint(origin)
    known = _remembered()
    if key is not None and known.get(key) in ("fp32", "int8", "int4"):
        return known[key]  # type: ignore[return-value]
    exact = perplexity(NativeModel(weights, "fp32"), ids)
    chosen: NativePrecision = "fp32"
    candidates: tuple[NativePrecision, ...] = ("int8",) if adapted else ("int4", "int8")
    for candidate in candidates:
        if perplexity(NativeModel(weights, candidate), ids) <= exact * (1 + TOLERANCE):
            chosen = candidate
            break
    if key is not None:
        _remember({**known, key: chosen})
    return chosen


def _file() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "precisions.json"


def _fingerprint(origin: Path) -> str | None:
    try:
        found = origin.stat()
    except OSError:
        return None
    return f"{origin.resolve()} {found.st_size} {found.st_mtime_ns}"


def _remembered() -> dict[str, str]:
    file = _file()
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (OSError, ValueError):
        return {}  # no cache, or one that was cut short: it is measured again
    return values if isinstance(values, dict) else {}


def _remember(values: dict[str, str]) -> None:
    file = _file()
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(values, indent=1) + "\n")
    except OSError:
        return  # a cache that cannot be written to costs the measurement the next time, and nothing else
