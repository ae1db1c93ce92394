"""AdamW and Muon, the groups of parameters that each takes, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.errors import UserError
from scratchlm.models import Attention
from scratchlm.models.feedforward import FeedForward
from scratchlm.training.config import TrainConfig


def orthogonalise(gradients: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: each gradient's singular values all become about 1.

    A quintic Newton-Schulz iteration with the coefficients of Jordan et al. 2024 ("Muon: an optimizer for hidden
    layers"), on a stack of matrices at once. (N, rows, columns) -> the same shape.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradients.bfloat16() if gradients.is_cuda else gradients
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    result: Tensor = (x.mT if tall else x).to(gradients.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is made orthogonal, for the matrices between embedding and head (Jordan et al. 2024).

    Args:
        parameters: matrices (out, in).
        lr, momentum: Nesterov momentum on the gradient.
        weight_decay: decoupled, as in AdamW.
        pieces: for a parameter that is several matrices on top of one another (a fused projection), the rows of each;
            they are made orthogonal one by one.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        pieces: Mapping[Tensor, list[int]] | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.pieces = dict(pieces or {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            # Matrices of one shape are stacked, so that a model's many small products become a few large ones.
            stacks: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            spread: list[tuple[Any, Tensor]] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(state["momentum"], group["momentum"])
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rows, changed = self.pieces.get(parameter, [parameter.shape[0]]), parameter
                if hasattr(direction, "full_tensor"):  # spread over processes: a matrix is made orthogonal as a whole
                    direction = direction.full_tensor()
                    changed = torch.zeros_like(direction)
                    spread.append((parameter, changed))
                for target, piece in zip(changed.split(rows), direction.split(rows), strict=True):
                    stacks.setdefault((piece.shape[0], piece.shape[1]), []).append((target, piece))
            for (height, width), members in stacks.items():
                updates = orthogonalise(torch.stack([piece for _, piece in members]))
                # A matrix that makes vectors longer needs a larger step for the same change of its output.
                scale = max(1.0, height / width) ** 0.5
                for (target, _), update in zip(members, updates, strict=True):
                    target.add_(update, alpha=-group["lr"] * scale)
            for parameter, change in spread:
                parameter.add_(_share(change, parameter))


def _share(whole: Tensor, like: Any) -> Tensor:
    """This process's share of a tensor that all have, spread as ``like`` is."""
    from torch.distributed.tensor import distribute_tensor

    share: Tensor = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return share


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The config's optimizer over the trainable parameters; each group keeps its peak rate as ``peak_lr``.

    Weight decay falls on matrices alone: not on norms, biases and embeddings. With ``muon`` the matrices inside the
    blocks go to Muon, everything else to AdamW without decay.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ValueError("the model has no trainable parameters")
    embeddings = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.weight is not None
    }
    matrices = [p for p in trainable.values() if p.dim() >= 2 and id(p) not in embeddings]
    others = [p for p in trainable.values() if p.dim() < 2 or id(p) in embeddings]
    optimizers: list[torch.optim.Optimizer] = []
    decay = config.weight_decay
    if config.optimizer == "muon":
        hidden = [p for name, p in trainable.items() if "blocks." in name and any(p is m for m in matrices)]
        others += [p for p in matrices if not any(p is h for h in hidden)]
        matrices = []
        if hidden:
            pieces = fused_pieces(model)
            optimizers.append(Muon(hidden, config.muon_learning_rate, config.muon_momentum, decay, pieces))
    groups: list[dict[str, Any]] = []
    if matrices:
        groups.append({"params": matrices, "weight_decay": decay})
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    if groups:
        optimizers.append(
            torch.optim.AdamW(
                groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def fused_pieces(model: nn.Module) -> dict[Tensor, list[int]]:
    """The rows of each matrix within the fused projections: queries, keys and values; gate and up."""
    pieces: dict[Tensor, list[int]] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            query, key = module.heads * module.head_size, module.kv_heads * module.head_size
            if module.cross:
                pieces[module.kv.weight] = [key, key]
            else:
                pieces[module.qkv.weight] = [query, key, key]
        elif isinstance(module, FeedForward) and module.activation == "swiglu":
            half = module.up.weight.shape[0] // 2
            pieces[module.up.weight] = [half, half]
    return pieces


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Each group's rate becomes ``factor`` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state by the parameters' names: ``blocks.0.mlp.up.weight/exp_avg`` and so on."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor], origin: str
) -> None:
    """Put back what :func:`optimizer_tensors` gave.

    Raises:
        UserError: the state belongs to another model or optimizer.
    """
    by_name = dict(model.named_parameters())
    owners = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("/")
        parameter = by_name.get(name)
        if parameter is None or id(parameter) not in owners:
            raise UserError(f"{origin} holds {key!r}, which this model does not train; resume with the same settings")
        # The step count stays where AdamW keeps it, everything else with its parameter.
        value = tensor.clone() if field == "step" and not parameter.is_cuda else tensor.to(parameter.device).clone()
        owners[id(parameter)].state[parameter][field] = value
