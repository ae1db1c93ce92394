"""Adapters put beside a model's layers, switched, weighted, merged into it and taken away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from scratchlm.adapters.frozen import dense_weight, freeze, is_linear, place
from scratchlm.adapters.lora import Adapters, LoraLinear, LoraSettings, LoraWeights, Replaced, Wrapper
from scratchlm.adapters.names import Chosen, Names, Part, choose, linear_layers, within
from scratchlm.errors import UserError


def wrappers(model: nn.Module) -> dict[str, Wrapper]:
    """The wrappers by the paths of the modules that they stand for."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Wrapper)}


def adapters_of(model: nn.Module) -> Adapters:
    """The model's adapters and which are in use; an empty set where there are none yet."""
    return next((module.shared for module in model.modules() if isinstance(module, Wrapper)), Adapters())


def all_parts(model: nn.Module, names: Names) -> list[Part]:
    """Every linear layer of theirs that the model has."""
    return [part for path, module in linear_layers(model, Wrapper) for part in names.parts(path, rows_of(module))]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that take gradients."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def planned(model: nn.Module, settings: LoraSettings) -> tuple[Chosen, set[str]]:
    """Which parts of which layers the settings adapt, and the paths of the modules that they copy whole.

    Raises:
        UserError: a name matches nothing.
    """
    names = Names(model)
    extra = _extra_paths(model, names, settings.extra)
    layers = linear_layers(model, Wrapper)
    rows = [(path, rows_of(module)) for path, module in layers if path not in extra]
    return choose(names, rows, settings.targets, settings.layers), extra


def add_lora(model: nn.Module, settings: LoraSettings, name: str = "default") -> None:
    """Put an adapter beside the model's linear layers, in place, and into use, alone.

    Everything else is frozen: what takes gradients afterwards is this adapter. Several adapters may share a base.

    Raises:
        UserError: the name is taken or unfit, nothing matches a target or an extra module, or adapters that train
            biases or whole modules would meet others in the same place.
    """
    shared, names, before = adapters_of(model), Names(model), wrappers(model)
    if name in shared.settings:
        raise UserError(f"there is an adapter {name!r} already; choose another name")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or hasattr(nn.ModuleDict, name):
        raise UserError(f"{name!r} cannot be an adapter's name; use other letters, digits, - and _")
    if shared.settings and "all" in {
        one.bias.replace("lora_only", "all") for one in (settings, *shared.settings.values())
    }:
        raise UserError("an adapter that trains biases must be the model's only one; set bias to none")
    chosen, extra = planned(model, settings)
    for path in {*chosen, *extra} & set(before):
        if isinstance(before[path], Replaced) != (path in extra):
            raise UserError(f"{path} is changed by another adapter in another way; unload that one first")
    freeze(model)
    shared.settings[name], shared.active = settings, {name: 1.0}
    for path, parts in chosen.items():
        module = model.get_submodule(path)
        if not isinstance(module, LoraLinear):
            module = LoraLinear(module, names.parts(path, rows_of(module)), shared)
            place(model, path, module)
        module.adapters[name] = LoraWeights(module.base, module.parts, parts, settings)
        module.train(module.base.training)
    biased = _biased_paths(model) if settings.bias == "all" else set()
    for path in sorted(extra | biased):
        module = model.get_submodule(path)
        if not isinstance(module, Replaced):
            module = Replaced(module, shared)
            place(model, path, module)
        module.adapters[name] = _own_copy(module.base, whole=path in extra)
        module.train(module.base.training)


def use_adapter(model: nn.Module, which: str | Mapping[str, float] | None, *, train: bool = False) -> None:
    """Put one adapter into use, several with weights (their changes are added), or none.

    With ``train`` those, and nothing else, take gradients from here on.

    Raises:
        UserError: one does not exist, or cannot be weighted or added: DoRA, trained biases and whole modules.
    """
    shared = adapters_of(model)
    weights = {which: 1.0} if isinstance(which, str) else {n: float(by) for n, by in (which or {}).items()}
    for name, by in weights.items():
        if name not in shared.settings:
            there = ", ".join(shared.settings) or "none"
            raise UserError(f"there is no adapter {name!r}; the model's: {there}")
        settings = shared.settings[name]
        if (settings.dora or settings.extra or settings.bias != "none") and (len(weights) > 1 or by != 1.0):
            raise UserError(
                f"the adapter {name!r} (DoRA, trained biases or whole modules) works alone only, at weight 1"
            )
    shared.active = weights
    if train:
        freeze(model)
        for wrapper in wrappers(model).values():
            for name in weights:
                if name in wrapper.adapters:
                    _unfreeze(wrapper.base, wrapper.adapters[name])


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within this block the model is its base: the reference policy."""
    shared = adapters_of(model)
    before, shared.active = shared.active, {}
    try:
        yield
    finally:
        shared.active = before


def drop_adapter(model: nn.Module, name: str) -> None:
    """Take one adapter away. Where it was the only one, the base's module stands again."""
    shared = adapters_of(model)
    shared.settings.pop(name, None)
    shared.active = {other: by for other, by in shared.active.items() if other != name}
    for path, wrapper in wrappers(model).items():
        if name in wrapper.adapters:
            del wrapper.adapters[name]
        if not wrapper.adapters:
            place(model, path, wrapper.base)


def unload(model: nn.Module) -> None:
    """Take all adapters away; the base is as it was."""
    for path, wrapper in wrappers(model).items():
        place(model, path, wrapper.base)


def merge(model: nn.Module) -> str:
    """Work the adapters in use into the weights and take them all away; one line that says what was done.

    A weight in few bits is brought back to float32, changed, and stays so: rounding it again would change the adapter.
    A matrix shared with the embedding is shared no longer if an adapter has changed it.
    """
    shared, layers, dense = adapters_of(model), 0, 0
    tied: Any = getattr(getattr(model, "config", None), "tied_embeddings", False)
    for path, wrapper in wrappers(model).items():
        if not wrapper.in_use():
            place(model, path, wrapper.base)
            continue
        layers += 1
        if tied and path in ("head", "embed.tokens"):
            model.config = replace(model.config, tied_embeddings=False)  # type: ignore[type-var]
        if isinstance(wrapper, LoraLinear):
            dense += not isinstance(wrapper.base, nn.Linear)
            place(model, path, _plain(*wrapper.merged()).train(wrapper.training))
        elif isinstance(wrapper, Replaced):
            place(model, path, wrapper.current)
    shared.active = {}
    model.requires_grad_(False)
    said = f"merged into {layers} layers"
    return f"{said}; {dense} of them were kept in few bits and are float32 now" if dense else said


def merged_weight(module: nn.Module) -> Tensor:
    """The weight (N, K) with the adapters in use worked in, of a linear layer of any kind or of one with adapters.

    Raises:
        ValueError: the module is no linear layer.
    """
    if isinstance(module, LoraLinear):
        return module.merged()[0]
    return dense_weight(module.current if isinstance(module, Replaced) else module).detach()


def _plain(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(1, 1, bias=bias is not None)
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)  # type: ignore[assignment]
    return linear


def rows_of(module: nn.Module) -> int:
    """How many rows the matrix of a linear layer, or of the one inside a wrapper, has."""
    rows: Any = (module.base if isinstance(module, Wrapper) else module).out_features
    return int(rows)


def _own_copy(module: nn.Module, *, whole: bool) -> nn.Module:
    """A copy with parameters of its own that take gradients: all of them, or the bias alone. A weight in few bits
    takes none, so it is float32 in a copy that is trained whole."""
    memo: dict[int, Any] = {} if whole else {id(p): p for p in module.parameters() if p is not module.bias}
    copied = deepcopy(module, memo)
    if whole and is_linear(module) and not isinstance(module, nn.Linear):
        copied = _plain(dense_weight(module), copied.bias)  # type: ignore[arg-type]
    _unfreeze(module, copied)
    return copied


def _unfreeze(base: nn.Module, own: nn.Module) -> None:
    """Let an adapter's share take gradients, without what it shares with the base."""
    shared = {id(parameter) for parameter in base.parameters()}
    for parameter in own.parameters():
        parameter.requires_grad_(id(parameter) not in shared)


def _biased_paths(model: nn.Module) -> set[str]:
    """The modules that have a bias, without those that are adapted."""
    inside = tuple(path + "." for path in wrappers(model))
    return {
        path
        for path, module in model.named_modules()
        if isinstance(module._parameters.get("bias"), nn.Parameter) and not path.startswith(inside)
    }


def _extra_paths(model: nn.Module, names: Names, extra: tuple[str, ...]) -> set[str]:
    """Our modules that the names of extra modules mean."""
    inside = tuple(path + "." for path in wrappers(model))
    offered = [
        path
        for path, module in model.named_modules()
        if path
        and not path.startswith(inside)
        and (is_linear(module) or isinstance(module, Wrapper) or module._parameters)
    ]
    paths: set[str] = set()
    for target in extra:
        found = set()
        for path in offered:
            meant = [within(name, target) for name in names.modules(path)]
            if all(meant) or within(path, target):
                found.add(path)
            elif any(meant):
                raise UserError(f"{target} is a part of {path}, which can be trained whole only; adapt it instead")
        if not found:
            raise UserError(f"no module matches {target!r}; name one such as lm_head, or leave it out")
        paths |= found
    return paths
