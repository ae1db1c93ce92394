"""LoRA: a frozen model, and beside its linear layers small products that are trained (Hu et al. 2021).

``W x`` becomes ``W x + (alpha / rank) B A x``. Rank-stabilised LoRA divides by the root of the rank (Kalajdzievski
2023); DoRA trains the lengths of the rows of ``W + B A`` by themselves (Liu et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scratchlm.adapters.frozen import LowRank, adapted_linear, dense_weight
from scratchlm.adapters.names import Part, Targets, matches
from scratchlm.errors import UserError
from scratchlm.kernels import dropout_add

Bias = Literal["none", "all", "lora_only"]


@dataclass(frozen=True)
class LoraSettings:
    """What an adapter changes, and how.

    Raises:
        UserError: from ``__post_init__``; the line names the setting.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    """On what enters A. The parts of one of our matrices (query, key, value) share what is dropped."""
    targets: Targets = "all-linear"
    """``all-linear`` (all but the head), ``peft`` (what PEFT takes by itself), or names, whole or from a dot on, of
    ``transformers``' modules: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; c_attn, mlp.c_proj; ..."""
    rslora: bool = False
    dora: bool = False
    bias: Bias = "none"
    """Biases that are trained too: none, those of the adapted layers, or all there are."""
    extra: tuple[str, ...] = ()
    """Modules of which the adapter has copies that are trained whole (PEFT's ``modules_to_save``), such as lm_head."""
    layers: tuple[int, ...] | None = None
    """The blocks, from 0, whose layers are adapted; None for all, and for those outside blocks too."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Other ranks and alphas for some of the targets (PEFT's ``rank_pattern`` and ``alpha_pattern``)."""

    def __post_init__(self) -> None:
        for name, values in (("rank", (self.rank, *self.ranks.values())), ("layers", self.layers or ())):
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int) or value < (1 if name == "rank" else 0):
                    raise UserError(f"{name} is {value!r}; give a whole number of at least {int(name == 'rank')}")
        for alpha in (self.alpha, *self.alphas.values()):
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
                raise UserError(f"alpha is {alpha!r}; give a number above 0")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout!r}; give a share from 0 up to, but not including, 1")
        if self.bias not in ("none", "all", "lora_only"):
            raise UserError(f"bias is {self.bias!r}; choose one of: none, all, lora_only")
        if isinstance(self.targets, str) and self.targets not in ("all-linear", "peft"):
            raise UserError(f"targets is {self.targets!r}; give all-linear, peft, or a list of names such as q_proj")
        if not self.targets:
            raise UserError("targets is empty; give all-linear, or a list of names such as q_proj")

    def rank_of(self, name: str) -> int:
        return self.ranks.get(_pattern(self.ranks, name), self.rank)

    def scale_of(self, name: str) -> float:
        rank, alpha = self.rank_of(name), self.alphas.get(_pattern(self.alphas, name), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _pattern(patterns: Mapping[str, Any], name: str) -> str:
    return next((key for key in patterns if matches(name, key)), "")


@dataclass
class Adapters:
    """A model's adapters, known to all their parts: switching is one assignment."""

    settings: dict[str, LoraSettings] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=dict)
    """The names of those in use, and what each is multiplied by."""


class Wrapper(nn.Module):
    """What stands in the place of a module that adapters change; ``base`` is the module itself, untouched."""

    def __init__(self, base: nn.Module, shared: Adapters) -> None:
        super().__init__()
        self.base, self.shared = base, shared
        self.adapters = nn.ModuleDict()

    def in_use(self) -> list[tuple[Any, float]]:
        """This module's share of the adapters in use, and their weights."""
        return [(self.adapters[name], by) for name, by in self.shared.active.items() if name in self.adapters]


class Replaced(Wrapper):
    """A module of which an adapter has a copy of its own."""

    @property
    def current(self) -> nn.Module:
        return next((copy for copy, _ in self.in_use()), self.base)

    @property
    def weight(self) -> Tensor:
        """The weight in use, for who computes with it rather than through the module."""
        return self.current.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.current.bias  # type: ignore[return-value]

    def forward(self, *args: Any) -> Any:
        return self.current(*args)


class LoraWeights(nn.Module):
    """One adapter's share of one of our matrices: A of all adapted parts one under the other, and each part's B.

    A is drawn as ``nn.Linear`` draws its weights and B is zero, so that training begins at the base model.
    """

    def __init__(self, base: nn.Module, parts: tuple[Part, ...], chosen: list[int], settings: LoraSettings) -> None:
        super().__init__()
        weight = dense_weight(base).detach()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.chosen, self.dropout, self.dora = tuple(chosen), float(settings.dropout), settings.dora
        ranks = [settings.rank_of(parts[i].name) for i in chosen]
        ends = [sum(ranks[: n + 1]) for n in range(len(ranks))]
        self.parts = tuple(
            LowRank(parts[i].rows, slice(end - rank, end), settings.scale_of(parts[i].name))
            for i, rank, end in zip(chosen, ranks, ends, strict=True)
        )
        bound = weight.shape[1] ** -0.5
        self.a = nn.Parameter(weight.new_empty(sum(ranks), weight.shape[1], dtype=dtype).uniform_(-bound, bound))
        self.b = nn.ParameterList(
            nn.Parameter(weight.new_zeros(part.rows.stop - part.rows.start, rank, dtype=dtype))
            for part, rank in zip(self.parts, ranks, strict=True)
        )
        lengths = [weight[part.rows].to(dtype).norm(dim=1) for part in self.parts] if self.dora else []
        self.magnitudes = nn.ParameterList(nn.Parameter(length) for length in lengths)
        self.biases = nn.ParameterDict()
        """A bias for each part (by its number) whose bias is trained."""
        bias = getattr(base, "bias", None)
        if settings.bias != "none" and bias is not None:
            for i in range(len(parts)) if settings.bias == "all" else chosen:
                self.biases[str(i)] = nn.Parameter(bias.detach()[parts[i].rows].to(dtype).clone())

    def lengthened(self, weight: Tensor) -> list[tuple[slice, Tensor]]:
        """For each adapted part the factors of its rows: the trained length over the length of ``W + scale B A``.

        No gradient flows through the latter (Liu et al. 2024, section 4.3).
        """
        factors = []
        for part, b, magnitude in zip(self.parts, self.b, self.magnitudes, strict=True):
            with torch.no_grad():
                own = weight[part.rows].to(b.dtype)
                length = torch.addmm(own, b, self.a[part.columns], alpha=part.scale).norm(dim=1)
            factors.append((part.rows, magnitude / length))
        return factors


class LoraLinear(Wrapper):
    """A linear layer and the adapters beside it. (..., K) -> (..., N)."""

    def __init__(self, base: nn.Module, parts: tuple[Part, ...], shared: Adapters) -> None:
        super().__init__(base, shared)
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        used = self.in_use()
        if not used:
            result: Tensor = self.base(x)
            return result
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return self._adapted(x, used)
        with torch.autocast(device, enabled=False):  # what autocast would do, done here, for the backward pass as well
            return self._adapted(x.to(torch.get_autocast_dtype(device)), used)

    def _adapted(self, x: Tensor, used: list[tuple[LoraWeights, float]]) -> Tensor:
        if torch.is_grad_enabled() and isinstance(self.base, nn.Linear) and self.base.weight.requires_grad:
            raise ValueError("the weight under an adapter takes no gradient; freeze(model) first")
        rate = max(weights.dropout for weights, _ in used) if self.training else 0.0
        first, bias = used[0][0], self._bias(used, x.dtype)
        a = first.a if len(used) == 1 else torch.cat([weights.a for weights, _ in used])
        y = adapted_linear(
            x,
            lambda: dense_weight(self.base, scratch=True),
            None if first.dora else bias,
            dropped=dropout_add(x, None, rate) if rate else None,
            a=a.to(x.dtype),
            b=[b.to(x.dtype) for weights, _ in used for b in weights.b],
            parts=self._stacked(used),
        )
        if first.dora:  # which is in use alone
            factors = y.new_ones(y.shape[-1], dtype=first.a.dtype)
            for rows, factor in first.lengthened(dense_weight(self.base)):
                factors = factors.slice_scatter(factor, 0, rows.start, rows.stop)
            y = y * factors.to(y.dtype)
            y = y if bias is None else y + bias
        return y

    def _stacked(self, used: list[tuple[LoraWeights, float]]) -> list[LowRank]:
        """The parts of all adapters in use, their columns one after another, their scales by their weights."""
        stacked, first = [], 0
        for weights, by in used:
            for part in weights.parts:
                columns = slice(first + part.columns.start, first + part.columns.stop)
                stacked.append(LowRank(part.rows, columns, part.scale * by))
            first += len(weights.a)
        return stacked

    def _bias(self, used: list[tuple[LoraWeights, float]], dtype: torch.dtype) -> Tensor | None:
        bias: Tensor | None = getattr(self.base, "bias", None)
        trained: dict[int, Tensor] = {int(i): own for weights, _ in used for i, own in weights.biases.items()}
        if bias is None or not trained:
            return None if bias is None else bias.to(dtype)
        own = [trained.get(i, bias[part.rows]) for i, part in enumerate(self.parts)]
        return torch.cat([piece.to(dtype) for piece in own])

    @torch.no_grad()
    def merged(self) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias of the plain layer that computes what this one does."""
        used, base = self.in_use(), dense_weight(self.base)
        if not used:
            return base.detach(), getattr(self.base, "bias", None)
        weight = base.to(torch.promote_types(base.dtype, torch.float32), copy=True)
        for weights, by in used:
            factors = weights.lengthened(base) if weights.dora else []
            for part, b in zip(weights.parts, weights.b, strict=True):
                weight[part.rows].addmm_(b, weights.a[part.columns], alpha=part.scale * by)
            for rows, factor in factors:
                weight[rows] *= factor[:, None]
        return weight.to(base.dtype), self._bias(used, base.dtype)


def wrapped(model: nn.Module) -> dict[str, Wrapper]:
    """The wrappers by the paths of what they wrap."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Wrapper)}


def adapters_of(model: nn.Module) -> Adapters:
    """The model's adapters; with none yet, an empty set."""
    return next((module.shared for module in model.modules() if isinstance(module, Wrapper)), Adapters())
