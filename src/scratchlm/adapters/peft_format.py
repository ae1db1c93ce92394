"""PEFT's files, both ways: adapter_config.json and adapter_model.safetensors.

Their names are ``base_model.model.`` and a module of ``transformers``; for each adapted one ``lora_A.weight`` (r, K),
``lora_B.weight`` (N, r) and with DoRA ``lora_magnitude_vector`` (N,). GPT-2's ``Conv1D`` keeps its own weight the other
way round, but not these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.adapters.attach import adapters_of, add_lora, all_parts, drop_adapter, planned, trainable, wrappers
from scratchlm.adapters.frozen import freeze
from scratchlm.adapters.lora import LoraLinear, LoraSettings
from scratchlm.adapters.names import Names, Targets, matches, within
from scratchlm.checkpoints.files import disk_errors, read_tensors, write_atomically, write_tensors, write_text
from scratchlm.checkpoints.headers import read_header, read_json
from scratchlm.errors import UserError

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
CURE = "save the adapter again"
_A, _B, _LENGTH = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_LEFT_EMPTY = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "megatron_config"),
    *("monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"),
)
"""Fields that change what is computed, and that must be left empty."""
_TASKS = {"classify": "SEQ_CLS", "reward": "SEQ_CLS", "tag": "TOKEN_CLS"}
_CLASSIFIERS = ("classifier", "score")
"""PEFT's tasks of models with labels, and the modules that it then has trained whole, whatever else is named."""
_ROBERTAS = {"classifier.dense", "classifier.out_proj"}
"""RoBERTa's classifier, which to PEFT is one module."""
_INITIAL = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the base as it is; others (PiSSA, OLoRA, LoftQ ...) change it."""


# -- writing ----------------------------------------------------------------------------------------------------------


def save_adapter(model: nn.Module, folder: str | Path, base: str | None = None, name: str | None = None) -> None:
    """Write an adapter (by default the one in use) into a folder, over an older one.

    ``base`` says where the base model is, for PEFT and for people.

    Raises:
        UserError: there is no such adapter, or the disk refuses.
    """
    shared = adapters_of(model)
    chosen = name if name is not None else next(iter(shared.active), "")
    if chosen not in shared.settings:
        raise UserError(f"there is no adapter {chosen!r} to save; the model's: {', '.join(shared.settings) or 'none'}")
    tensors, targets, whole = _their_tensors(model, chosen)
    config = _their_config(model, shared.settings[chosen], targets, whole, base)
    folder = Path(folder)
    with disk_errors(f"the adapter in {folder}", "choose a folder that you may write to, or free some space"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / WEIGHTS, lambda partial: write_tensors(partial, tensors))
        write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _their_tensors(model: nn.Module, name: str) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The tensors of a file (views of the adapter's own), the modules that are adapted, and those copied whole."""
    names, settings = Names(model), adapters_of(model).settings[name]
    tensors: dict[str, Tensor] = {}
    targets: list[str] = []
    whole: list[str] = []
    copied = planned(model, settings)[1]
    for path, wrapper in wrappers(model).items():
        if name not in wrapper.adapters:
            continue
        own: Any = wrapper.adapters[name]
        if isinstance(wrapper, LoraLinear):
            adapted = [wrapper.parts[i].name for i in own.chosen]
            targets += adapted
            for i, (module, part) in enumerate(zip(adapted, own.parts, strict=True)):
                tensors[module + _A], tensors[module + _B] = own.a[part.columns], own.b[i]
                if own.dora:
                    tensors[module + _LENGTH] = own.magnitudes[i]
            for i, bias in own.biases.items():
                module = wrapper.parts[int(i)].name
                tensors[f"{module}{'.base_layer' if module in adapted else ''}.bias"] = bias
            continue
        modules, base = names.modules(path), {id(parameter) for parameter in wrapper.base.parameters()}
        if path in copied:
            whole += modules
        for kind, parameter in own.named_parameters(recurse=False):
            if id(parameter) not in base:
                pieces = names.split(f"{path}.{kind}", parameter)
                tensors |= {f"{module}.{kind}": piece for module, piece in zip(modules, pieces, strict=True)}
    return {PREFIX + key: tensor.detach() for key, tensor in tensors.items()}, targets, whole


def _their_config(
    model: nn.Module, settings: LoraSettings, targets: list[str], whole: list[str], base: str | None
) -> dict[str, Any]:
    names = Names(model)
    short = sorted({name.rpartition(".")[2] for name in targets})
    if {part.name for part in all_parts(model, names) if any(matches(part.name, one) for one in short)} != set(targets):
        short = sorted(targets)  # c_proj, say, stands for two layers of a block, and only one of them is adapted
    named = {*whole, "classifier"} - _ROBERTAS if set(whole) >= _ROBERTAS else set(whole)
    return {
        "peft_type": "LORA",
        "task_type": _task(names, whole),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": short,
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "bias": settings.bias,
        "modules_to_save": sorted(named) or None,
        "rank_pattern": dict(settings.ranks),
        "alpha_pattern": dict(settings.alphas),
        "fan_in_fan_out": names.family == "gpt2",
        "init_lora_weights": True,
    }


def _task(names: Names, whole: Collection[str]) -> str | None:
    """PEFT's name of what the model does. That of a model with labels makes PEFT look for its classifier, all of it,
    beside the adapter."""
    if names.family in ("llama", "gpt2") and names.config.head == "linear":
        return "CAUSAL_LM"
    classifier = [*names.modules("head"), *(one for one in names.modules("pooler") if one in _ROBERTAS)]
    return _TASKS.get(names.config.head) if set(classifier) <= set(whole) else None


# -- reading ----------------------------------------------------------------------------------------------------------


def load_adapter(model: nn.Module, folder: str | Path, name: str = "default", *, train: bool = False) -> None:
    """Read an adapter from a folder, put it beside the model's layers and into use, alone.

    The base is frozen. With ``train`` the adapter, and nothing else, takes gradients; else those adapters do that did
    before. A failure leaves the model as it was.

    Raises:
        UserError: a file is missing, damaged or a pickle; the adapter is of a kind that scratchlm lacks, or of another
            base: tensors are missing, unknown or of another shape, all of which are named.
    """
    folder, names = Path(folder), Names(model)
    weights = folder / WEIGHTS
    fields = _Fields(read_json(folder / CONFIG, cure="give the folder that holds the adapter"), folder / CONFIG)
    if not weights.is_file() and (folder / PICKLE).is_file():
        raise UserError(
            f"{folder / PICKLE} is a pickle, which can run any code when opened; save it as {WEIGHTS} instead"
        )
    infos = {_plain(key, names): info for key, info in read_header(weights).items()}
    if not all(info.is_float for info in infos.values()):
        raise UserError(f"{weights} holds integers where weights should be; {CURE}")
    settings = fields.settings(model, names, {key[: -len(_A)] for key in infos if key.endswith(_A)})
    active, gradients = adapters_of(model).active, list(trainable(model).values())
    add_lora(model, settings, name)
    complete = False
    try:
        read_into(model, folder, name)
        complete = True
    finally:
        if not complete:
            drop_adapter(model, name)
            adapters_of(model).active = active
        if not (train and complete):
            freeze(model)
            owned = {id(p) for wrapper in wrappers(model).values() for p in wrapper.adapters.parameters()}
            for parameter in gradients:
                parameter.requires_grad_(not complete or id(parameter) in owned)


def read_into(model: nn.Module, folder: str | Path, name: str = "default") -> None:
    """Copy the tensors of an adapter's folder into the model's adapter ``name``, which has the same shape.

    Raises:
        UserError: the file is missing or damaged, or tensors are missing, unknown or of another shape.
    """
    names, weights = Names(model), Path(folder) / WEIGHTS
    wanted = {_plain(key, names): tensor for key, tensor in _their_tensors(model, name)[0].items()}
    found = {_plain(key, names): tensor for key, tensor in read_tensors(weights, CURE).items()}
    for key in _base_copies(model, names, found) - wanted.keys():
        del found[key]
    _compare({k: t.shape for k, t in wanted.items()}, {k: t.shape for k, t in found.items()}, weights)
    for key, tensor in wanted.items():
        tensor.copy_(found[key])


def _plain(key: str, names: Names) -> str:
    """A tensor's name without what depends on how it was saved."""
    key = key.removeprefix(PREFIX).removeprefix(names.prefix)
    key = key.replace(".base_layer.", ".").replace(".modules_to_save.", ".").replace(_LENGTH + ".weight", _LENGTH)
    return names.other_names().get(key, key)


def _base_copies(model: nn.Module, names: Names, found: Mapping[str, Tensor]) -> set[str]:
    """The base's own embedding and head among an adapter's tensors, where PEFT puts them if either is adapted."""
    copies = set()
    for path in ("embed.tokens", "head"):
        key = _plain(names.modules(path)[0] + ".weight", names)
        module: Any = wrappers(model).get(path) or model.get_submodule(path) if key in found else None
        weight = getattr(module.base if isinstance(module, LoraLinear) else module, "weight", None)
        if weight is not None and found[key].shape == weight.shape and torch.equal(found[key].to(weight), weight):
            copies.add(key)
    return copies


def _compare(wanted: Mapping[str, torch.Size], found: Mapping[str, torch.Size], path: Path) -> None:
    both = wanted.keys() & found.keys()
    shapes = [
        f"{k} is {list(found[k])} instead of {list(wanted[k])}" for k in wanted if k in both and wanted[k] != found[k]
    ]
    problems = []
    for what, keys in (
        ("missing:", sorted(wanted.keys() - both)),
        ("unknown:", sorted(found.keys() - both)),
        ("of another shape:", shapes),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            problems.append(f"{what} {', '.join(key[:120] for key in keys[:3])}{more}")
    if problems:
        raise UserError(
            f"{path} does not fit this model and its config; {'; '.join(problems)}; choose the adapter's base"
        )


class _Fields:
    """An adapter_config.json; every complaint names the field."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def settings(self, model: nn.Module, names: Names, adapted: set[str]) -> LoraSettings:
        """What it says, given the names (plain ones) of the modules that the file of weights adapts."""
        if self.values.get("peft_type") != "LORA":
            raise self._wrong("peft_type", "LORA is what scratchlm reads")
        for field in _LEFT_EMPTY:
            if self.values.get(field):
                raise self._wrong(field, "scratchlm's LoRA does not have it")
        if self.values.get("init_lora_weights", True) not in _INITIAL:
            raise self._wrong("init_lora_weights", "it changes the base; convert the adapter to plain LoRA with PEFT")
        if not adapted:
            raise UserError(f"{self.path.with_name(WEIGHTS)} adapts no module; {CURE}")
        layers = self.values.get("layers_to_transform")
        layers = [layers] if isinstance(layers, int) else layers
        return LoraSettings(
            rank=self._of("r", int, 8),
            alpha=self._of("lora_alpha", (int, float), 8),
            dropout=self._of("lora_dropout", (int, float), 0.0),
            targets=self._targets(model, names, adapted),
            rslora=self._of("use_rslora", bool, False),
            dora=self._of("use_dora", bool, False),
            bias=self._of("bias", str, "none"),
            extra=tuple(name.removeprefix(names.prefix) for name in self._extra(names)),
            layers=tuple(layers) if isinstance(layers, list) and layers else None,
            ranks=self._patterns("rank_pattern", names),
            alphas=self._patterns("alpha_pattern", names),
        )

    def _extra(self, names: Names) -> list[str]:
        """Without the name that PEFT adds for the classifier of other families."""
        added = _CLASSIFIERS if self.values.get("task_type") in _TASKS.values() else ()
        ours = names.modules("head")
        listed = self._list("modules_to_save")
        return [name for name in listed if name not in added or any(within(one, name) for one in ours)]

    def _targets(self, model: nn.Module, names: Names, adapted: set[str]) -> Targets:
        said = self.values.get("target_modules")
        if said == "all-linear":
            return "all-linear"
        if isinstance(said, str) or self.values.get("exclude_modules"):
            return tuple(sorted(adapted))  # a regular expression, which a stranger's file may have made endless
        targets = [target.removeprefix(names.prefix) for target in self._list("target_modules")]
        copied = self._extra(names)  # which PEFT names as targets too, with "all-linear", and has them trained whole
        parts = {*adapted, *(part.name for part in all_parts(model, names))}
        known = [part for part in parts if not any(within(part, name) for name in copied)]
        return tuple(target for target in targets if any(matches(name, target) for name in known))

    def _patterns(self, field: str, names: Names) -> dict[str, Any]:
        found = {}
        for pattern, value in self._of(field, dict, {}).items():
            plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".").removeprefix(names.prefix)
            if not re.fullmatch(r"[\w.]+", plain):
                raise self._wrong(field, "only names are read there, no regular expressions")
            found[plain] = value
        return found

    def _list(self, field: str) -> list[str]:
        values: list[str] = self._of(field, list, [])
        if not all(isinstance(value, str) and value for value in values):
            raise self._wrong(field, "it must be a list of names")
        return values

    def _of(self, field: str, kind: type | tuple[type, ...], default: Any) -> Any:
        value = self.values.get(field)
        value = default if value is None else value
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._wrong(field, f"it must be of the type that {default!r} has")
        return value

    def _wrong(self, field: str, why: str) -> UserError:
        return UserError(f"{self.path}: {field} is {str(self.values.get(field))[:60]!r}; {why}")
