"""The transformer block, and the stack of blocks that every architecture is made of."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scratchlm.models.attention import Attention, AttentionMask
from scratchlm.models.cache import KVCache
from scratchlm.models.config import ModelConfig
from scratchlm.models.feedforward import FeedForward
from scratchlm.models.layers import Embedding, Rotary, build_norm
from scratchlm.models.sharing import Sharing


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a residual connection and a norm. (B, T, C) -> (B, T, C).

    Pre-norm, x + f(norm(x)), trains stably without warm-up (Xiong et al. 2020); post-norm, norm(x + f(x)), is the
    original (Vaswani et al. 2017, section 3.1). With ``cross`` a third sub-layer between the two looks at an encoder's
    states (figure 1, right half).
    """

    def __init__(self, config: ModelConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        self.norm1 = build_norm(config)
        self.attention = Attention(config, layer)
        if cross:
            self.cross_norm = build_norm(config)
            self.cross = Attention(config, layer, cross=True)
        self.has_cross = cross
        self.norm2 = build_norm(config)
        self.mlp = FeedForward(config)
        self.pre = config.norm_placement == "pre"
        self.recompute = False
        """Whether training keeps a block's input alone, and computes the rest again in the backward pass (Chen et al.
        2016): the same numbers, dropout included, for less memory and about a third more time."""

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        rope: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        memory: Tensor | None = None,
        memory_mask: AttentionMask | None = None,
    ) -> Tensor:
        if self.has_cross and memory_mask is None:
            raise ValueError("a block with cross-attention needs the mask of the sequence it looks at")
        if self.recompute and self.training and cache is None and torch.is_grad_enabled():
            again = (x, mask, rope, None, memory, memory_mask)
            out: Tensor = checkpoint(self._layers, *again, use_reentrant=False)
            return out
        return self._layers(x, mask, rope, cache, memory, memory_mask)

    def _layers(
        self,
        x: Tensor,
        mask: AttentionMask,
        rope: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        memory: Tensor | None,
        memory_mask: AttentionMask | None,
    ) -> Tensor:
        if self.pre:
            x = self.attention(x, mask, rope, cache, norm=self.norm1)
            if self.has_cross:
                x = self.cross(x, memory_mask, memory=memory, norm=self.cross_norm)
            return self._feed_forward(x)
        x = self.norm1(self.attention(x, mask, rope, cache))
        if self.has_cross:
            x = self.cross_norm(self.cross(x, memory_mask, memory=memory))
        return self._feed_forward(x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x, self.norm2) if self.pre else self.norm2(self.mlp(x))
        return out


def recompute_blocks(model: nn.Module, on: bool) -> None:
    """Set :attr:`Block.recompute` of all blocks."""
    for module in model.modules():
        if isinstance(module, Block):
            module.recompute = on


class Stack(nn.Module):
    """Embedding, blocks and final norm: the trunk of a decoder, an encoder, or either half of an encoder-decoder."""

    def __init__(self, config: ModelConfig, *, causal: bool, cross: bool = False) -> None:
        super().__init__()
        self.config = config
        self.causal = causal
        self.embed = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, layer, cross=cross) for layer in range(config.layers))
        self.norm = build_norm(config) if config.final_norm else None
        self.rope = (
            Rotary(config.head_size, config.rope_theta, config.context, config.rope_scaling)
            if config.positions == "rotary"
            else None
        )

    def hidden(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        types: Tensor | None = None,
        cache: KVCache | None = None,
        memory: Tensor | None = None,
        memory_documents: Tensor | None = None,
        opened: Tensor | None = None,
    ) -> Tensor:
        """The states after the final norm, (B, T, C).

        Args:
            ids: (B, T) int64.
            positions: (B, T) or (T,); None counts on from what the cache holds.
            documents: (B, S), as in :class:`~scratchlm.data.batch.Batch`; with a cache, S covers the cached tokens too.
            types: (B, T) segment numbers, for models that have them.
            cache: keys and values of the tokens before; appended to.
            memory: (B, S, C), an encoder's states, and ``memory_documents`` (B, S), -1 where they are padding.
            opened: (B, E), as in :class:`~scratchlm.data.batch.Batch`; the documents then are (B, E) as well, and the
                positions (B, T) of one document each.

        Raises:
            ValueError: the tokens reach beyond the model's context, or beginnings are shared where they cannot be.
        """
        x = self.stream(ids, positions, documents, types, cache, memory, memory_documents, opened)
        normed: Tensor = x if self.norm is None else self.norm(x)
        return normed

    def stream(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        types: Tensor | None = None,
        cache: KVCache | None = None,
        memory: Tensor | None = None,
        memory_documents: Tensor | None = None,
        opened: Tensor | None = None,
    ) -> Tensor:
        """:meth:`hidden` before the final norm."""
        tokens = ids.shape[1]
        start = 0 if cache is None else cache.length
        if positions is None:
            if start + tokens > self.config.context:
                raise ValueError(f"{start + tokens} tokens do not fit the model's context of {self.config.context}")
            positions = torch.arange(start, start + tokens, device=ids.device)
        queries, keys, sharing = tokens, start + tokens, None
        if opened is not None:
            if not self.causal or cache is not None or positions.dim() != 2:
                raise ValueError("beginnings are shared by a causal model without a cache, which is told positions")
            sharing = Sharing(opened, tokens)
            queries = keys = opened.shape[1]
        mask = windowed = AttentionMask(
            *(self.causal, None, queries, keys), documents=documents, device=ids.device, sharing=sharing
        )
        if self.config.sliding_window is not None:
            window = self.config.sliding_window if self.config.sliding_window < keys else None
            windowed = dataclasses.replace(mask, window=window)
        memory_mask = None
        if memory is not None:
            seen = None if memory_documents is None else (memory_documents >= 0)[:, None, None, :]
            memory_mask = AttentionMask(False, seen)
        rope = None if self.rope is None else self.rope(positions)
        x: Tensor = self.embed(ids, positions, types)
        for layer, block in enumerate(self.blocks):
            own = mask if layer < self.config.window_from_layer else windowed
            x = block(x, own, rope, cache, memory, memory_mask)
        if cache is not None:
            cache.advance(tokens)
        return x


def initialise(module: nn.Module, config: ModelConfig) -> None:
    """Normal weights of standard deviation ``init_std``; those that end a residual branch are smaller by sqrt(2 L),
    so that the stream's variance does not grow with depth (Radford et al. 2019, section 2.3), or zero where the config
    says so. Without ``init_std`` PyTorch's own initialisation stays."""
    for name, parameter in module.named_parameters():
        ends_branch = name.endswith(("attention.out.weight", "cross.out.weight", "mlp.down.weight"))
        if ends_branch and config.zero_residual_init:
            nn.init.zeros_(parameter)
        elif config.init_std is None:
            continue
        elif parameter.dim() >= 2:
            nn.init.normal_(parameter, std=config.init_std * ((2 * config.layers) ** -0.5 if ends_branch else 1.0))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
