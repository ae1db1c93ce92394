"""What the field calls a model's linear layers, and where they are in ours: parts of a matrix that we keep whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.adapters.frozen import is_linear
from scratchlm.checkpoints.families import Source, Table, family_table, row_counts, split_layer
from scratchlm.errors import UserError

PEFT_TARGETS: dict[str, Targets] = {
    "llama": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
}
"""What PEFT adapts where it is not told what."""
Targets = str | tuple[str, ...]
"""``all-linear``, ``peft``, or names."""
Chosen = dict[str, list[int]]


@dataclass(frozen=True)
class Part:
    """Rows of one of our matrices that are a linear layer of theirs."""

    name: str
    """``model.layers.0.self_attn.q_proj``."""
    rows: slice


class Names:
    """A model's modules by the names of its family in ``transformers``; by our own where the family has none such."""

    def __init__(self, model: nn.Module) -> None:
        self.config: Any = getattr(model, "config", None)
        self.family = _family(self.config)
        head = getattr(self.config, "head", "")
        self._table: Table | None = None if self.family is None else family_table(self.family, head)
        self.prefix = "" if self.family is None else family_table(self.family, "linear").prefix
        """What their names begin with in a model that has a head."""

    def source(self, tensor: str) -> Source:
        """Their tensors that make ours."""
        try:
            source = Source((tensor,), False) if self._table is None else self._table.source(tensor)
        except KeyError:
            return Source((tensor,), False)
        # a matrix with one of two halves missing is not the family's
        return Source((tensor,), False) if len(source.names) == 2 and self.config.activation != "swiglu" else source

    def other_names(self) -> dict[str, str]:
        """Their name of the head's bias, which BERT has outside the module with the weight -> what it is inside."""
        outside, inside = self.source("head.bias").names[0], self.modules("head")[0] + ".bias"
        return {outside: inside}

    def split(self, tensor: str, value: Tensor) -> list[Tensor]:
        """Views of our tensor that are their modules' tensors."""
        source = self.source(tensor)
        count = len(source.names)
        pieces = [value] if count == 1 else list(torch.split(value, row_counts(self.config, count)))
        return [piece.T for piece in pieces] if source.transpose else pieces

    def modules(self, path: str) -> tuple[str, ...]:
        """Their modules that make our module."""
        return tuple(name.removesuffix(".weight") for name in self.source(f"{path}.weight").names)

    def parts(self, path: str, rows: int) -> tuple[Part, ...]:
        """The parts of our matrix with so many rows."""
        names = self.modules(path)
        counts = [rows] if len(names) == 1 else row_counts(self.config, len(names))
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        return tuple(Part(n, slice(end - count, end)) for n, count, end in zip(names, counts, ends, strict=True))


def _family(config: Any) -> str | None:
    if config is None or config.architecture == "seq2seq":
        return None
    if config.architecture == "encoder":
        return "roberta" if config.position_offset else "bert"
    return "llama" if config.positions == "rotary" else "gpt2"


def matches(name: str, target: str) -> bool:
    """Whether a dotted name is the target, or ends in it from a dot on, as PEFT has it."""
    return f".{name}".endswith(f".{target}")


def within(name: str, target: str) -> bool:
    """Whether a target's words stand in a dotted name one after the other: ``pooler`` in ``bert.pooler.dense``."""
    return f".{target}." in f".{name}."


def linear_layers(model: nn.Module, around: type[nn.Module], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The linear layers by their paths; for one inside a wrapper of type ``around`` the wrapper, which has ``base``."""
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, around):
            if is_linear(child.base):  # type: ignore[arg-type]
                yield path, child
        elif is_linear(child):
            yield path, child
        else:
            yield from linear_layers(child, around, path + ".")


def choose(names: Names, layers: Iterable[tuple[str, int]], targets: Targets, blocks: Collection[int] | None) -> Chosen:
    """For each of our linear layers (path, rows) that is meant, the numbers of the parts that are.

    ``all-linear`` is every one but the projection to the vocabulary. A target may also be a path of ours.

    Raises:
        UserError: a target matches nothing, or no block is left.
    """
    if targets == "peft":
        targets = PEFT_TARGETS.get(names.family or "", "all-linear")
    chosen: Chosen = {}
    unused = set() if isinstance(targets, str) else set(targets)
    known = set()
    for path, rows in layers:
        number = split_layer(path)[1]
        if blocks is not None and (not number or int(number) not in blocks):
            continue
        for i, part in enumerate(names.parts(path, rows)):
            known.add(part.name.rpartition(".")[2])
            hits = (
                {t for t in targets if matches(part.name, t) or matches(path, t)}
                if not isinstance(targets, str)
                else set()
            )
            if hits or (targets == "all-linear" and path != "head"):
                chosen.setdefault(path, []).append(i)
            unused -= hits
    where = "" if blocks is None else f" in the blocks {', '.join(map(str, blocks))}"
    if unused:
        raise UserError(
            f"no linear layer{where} matches {min(unused)!r}; there are {', '.join(sorted(known)) or 'none'}"
        )
    if not chosen:
        raise UserError(f"there is no linear layer to adapt{where}; choose others")
    return chosen
