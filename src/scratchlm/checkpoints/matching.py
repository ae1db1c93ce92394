"""Finding a model's tensors in a checkpoint, and naming every one that is missing, unknown or of another shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from scratchlm.checkpoints.families import Source, Table, row_counts, split_layer
from scratchlm.checkpoints.headers import CURE
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig


def match(
    wanted: Mapping[str, tuple[int, ...]],
    config: ModelConfig,
    table: Table,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    origin: str,
) -> dict[str, Source]:
    """Where each of our tensors is found among theirs.

    Args:
        wanted: our names and shapes, tied tensors once.
        config: the model's.
        table: its family's.
        shapes: their names and shapes.
        read: gives one of theirs; asked for those only that must equal another, or be zero.
        origin: how the checkpoint is called in complaints.

    Raises:
        UserError: tensors are missing, unknown or of another shape; all of them are named.
    """
    sources: dict[str, Source] = {}
    missing, misshapen, known = [], [], {name for name in shapes if table.is_ignored(name)}
    for ours, whole in wanted.items():
        sources[ours] = source = table.source(ours)
        known.update(source.names)
        for theirs, shape in zip(source.names, _their_shapes(whole, source, config), strict=True):
            if theirs not in shapes:
                missing.append(theirs)
            elif shapes[theirs] != shape:
                misshapen.append(f"{theirs} is {list(shapes[theirs])} instead of {list(shape)}")
    copies = [(theirs, ours) for theirs, ours in table.copies if theirs in shapes and theirs not in known]
    silent = [
        name
        for ours, source in table.always_biased(config.layers)
        if ours not in wanted
        for name in source.names
        if name in shapes
    ]
    unknown = set(shapes) - known - {theirs for theirs, ours in copies if ours in wanted} - set(silent)
    problems = [
        f"{what} {', '.join(_gathered(names))}"
        for what, names in (("missing:", missing), ("unknown:", unknown), ("of another shape:", misshapen))
        if names
    ]
    if problems:
        raise UserError(f"{origin} does not hold the model that its config describes; {'; '.join(problems)}; {CURE}")
    for theirs, ours in copies:
        if not torch.equal(read(theirs), read(sources[ours].names[0])):
            raise UserError(
                f"{origin}: {theirs} must equal {sources[ours].names[0]}, as tie_word_embeddings says; {CURE}"
            )
    for name in silent:
        if bool(read(name).any()):
            raise UserError(f"{origin}: {name} is not zero, and the model has no such bias; {CURE}")
    return sources


def _their_shapes(shape: tuple[int, ...], source: Source, config: ModelConfig) -> list[tuple[int, ...]]:
    if source.transpose:
        shape = shape[::-1]
    if len(source.names) == 1:
        return [shape]
    return [(rows, *shape[1:]) for rows in row_counts(config, len(source.names))]


def _gathered(names: Iterable[str]) -> list[str]:
    """Names that differ in the block's number only as one: ``h.{0-11}.ln_1.weight``."""
    patterns: dict[str, list[int]] = {}
    for name in names:
        pattern, layer = split_layer(name)
        patterns.setdefault(pattern, []).extend([int(layer)] if layer else [])
    return sorted(
        pattern.replace("{}", str(layers[0]) if len(layers) == 1 else f"{{{_ranges(layers)}}}") if layers else pattern
        for pattern, layers in patterns.items()
    )


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> ``0-2,5``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
