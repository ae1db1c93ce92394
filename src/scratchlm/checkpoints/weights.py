"""A model's tensors by name, and the safetensors files of a folder: listed first, then mapped, never read whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scratchlm.checkpoints.headers import CURE, TensorInfo, read_header, read_index
from scratchlm.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FLOATS = ("F64", "F32", "F16", "BF16")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that make up a model, each shared one once."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    saved = model.state_dict()
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return tensors


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Of :func:`model_tensors` those that training may change: not the frozen parameters."""
    return {
        name: tensor
        for name, tensor in model_tensors(model).items()
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
    }


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], origin: str, *, trained_only: bool = False) -> None:
    """Copy ``tensors`` into the model in place: all there are, or the :func:`trained_tensors` alone.

    Raises:
        UserError: one is missing, superfluous or of another shape; the line names it.
    """
    wanted = trained_tensors(model) if trained_only else model_tensors(model)
    for name, tensor in wanted.items():
        if name not in tensors:
            raise UserError(f"{origin} lacks the tensor {name!r}; it is not this model's, train or export it again")
        if tensors[name].shape != tensor.shape:
            raise UserError(
                f"{origin}: {name!r} has shape {list(tensors[name].shape)}, the model needs {list(tensor.shape)}; "
                "the weights belong to another model"
            )
    extra = sorted(set(tensors) - set(wanted))
    if extra:
        raise UserError(f"{origin} has a tensor {extra[0]!r} that the model lacks; the weights belong to another model")
    for name, tensor in wanted.items():
        tensor.detach().copy_(tensors[name])


def set_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let the model's parameters be ``tensors`` themselves (all that :func:`model_tensors` lists); tied stay tied."""
    holders: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(parameter, []).append((module, name))
    for name, parameter in list(model.named_parameters()):
        new = nn.Parameter(tensors[name])
        for module, attribute in holders[parameter]:
            setattr(module, attribute, new)


class WeightFiles:
    """The tensors in a folder's model.safetensors, or in the shards that its index lists.

    Raises:
        UserError: from the constructor, when there are none, a file is damaged, or the index and the shards disagree.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, TensorInfo] = {}
        """Every tensor by today's name (LayerNorm's ``gamma`` and ``beta`` are ``weight`` and ``bias``)."""
        self._places: dict[str, tuple[Path, str]] = {}
        self._open: dict[Path, Any] = {}
        for path, indexed in _files(folder).items():
            header = read_header(path)
            absent = sorted(indexed - set(header))
            if absent:
                raise UserError(f"{folder / INDEX} puts {absent[0]!r} into {path.name}, which lacks it; {CURE}")
            for stored, info in header.items():
                name = stored.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
                if name in self.tensors:
                    raise UserError(f"{path} holds {name!r} a second time; {CURE}")
                self.tensors[name], self._places[name] = info, (path, stored)

    @property
    def paths(self) -> list[Path]:
        """The files that hold them."""
        return sorted({path for path, _ in self._places.values()})

    @property
    def numbers(self) -> int:
        """How many there are in all tensors together."""
        return sum(info.elements for info in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """A tensor that lies where the file is mapped. What is written to it does not reach the file.

        Raises:
            UserError: it holds no floating-point numbers, or the file cannot be read.
        """
        path, stored = self._places[name]
        if self.tensors[name].dtype not in _FLOATS:
            raise UserError(
                f"{path}: {name!r} is stored as {self.tensors[name].dtype}; fetch the model in float32, float16 or "
                "bfloat16"
            )
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            tensor: Tensor = self._open[path].get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:100]}); {CURE}") from error
        return tensor


def _files(folder: Path) -> dict[Path, set[str]]:
    """The safetensors files, and which tensors the index says are in each."""
    if folder.is_file() and folder.suffix in _PICKLES:
        raise _pickle(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that holds config.json and {SINGLE}")
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: set()}
    if (folder / INDEX).is_file():
        shards: dict[Path, set[str]] = {}
        for tensor, name in read_index(folder / INDEX).items():
            shards.setdefault(folder / name, set()).add(tensor)
        return shards
    pickles = sorted(path for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise _pickle(pickles[0])
    raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}; {CURE}")


def _pickle(path: Path) -> UserError:
    convert = (
        f"s.save_file({{k: v.clone() for k, v in torch.load('{path.name}', weights_only=True).items()}}, '{SINGLE}')"
    )
    return UserError(
        f"{path} is a pickle, which may run code when it is opened, so scratchlm does not; where you trust it, convert "
        f'it in its folder: python -c "import torch, safetensors.torch as s; {convert}"'
    )
