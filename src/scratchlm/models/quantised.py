"""Linear layers whose weights are kept in 8 or 4 bits, for use in models that PyTorch runs module by module."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from scratchlm.kernels.quantised import PackedMatrix, Precision, pack, quantised_linear

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class QuantisedLinear(nn.Module):
    """``nn.Linear`` with a packed weight. (..., K) -> (..., N), without gradients to the weight.

    The packed bytes are a buffer, so they move with the module and are no parameter.
    """

    data: Tensor

    def __init__(self, linear: nn.Linear, precision: Precision) -> None:
        super().__init__()
        packed = pack(linear.weight, precision)
        self.precision: Precision = precision
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("data", packed.data.to(linear.weight.device), persistent=False)
        self.bias = linear.bias

    @property
    def packed(self) -> PackedMatrix:
        return PackedMatrix(self.data, self.precision, self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return quantised_linear(x, self.packed, self.bias)


def quantise(model: AnyModule, precision: Precision) -> AnyModule:
    """A copy of the model, in evaluation mode, with its linear layers packed; the head in 8 bits in any case.

    Embeddings stay as they are. The copy shares no weight with the original.
    """
    with torch.no_grad():
        quantised = copy.deepcopy(model).eval()
    for path, module in list(quantised.named_modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                around = name == "head" and path == ""
                setattr(module, name, QuantisedLinear(child, "int8" if around else precision))
    return quantised
