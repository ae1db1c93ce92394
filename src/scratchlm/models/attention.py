"""Multi-head attention twice over one set of weights: as the textbook's steps, and fast."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlm import kernels
from scratchlm.models.cache import KVCache
from scratchlm.models.config import ModelConfig
from scratchlm.models.layers import RMSNorm, rotate
from scratchlm.models.sharing import Sharing
from scratchlm.models.sublayer import project_in, project_out


@dataclass(frozen=True)
class AttentionMask:
    """Which keys a query may see.

    Without ``documents`` or ``window`` there are two cases that need no tensor: everything (``causal`` False) and, of
    as many queries as keys, everything up to itself.
    """

    causal: bool
    given: Tensor | None = None
    """A mask made elsewhere, as :attr:`visible`; the rest then does not matter."""
    queries: int = 0
    keys: int = 0
    """New tokens, and tokens that they may look at; 0 and 0 for as many of both."""
    documents: Tensor | None = None
    """(B, S): tokens see only those of their own document; padding (-1) sees itself, so that its softmax is defined."""
    window: int | None = None
    """So many keys are seen at most, the query's own the last."""
    device: torch.device | None = None
    sharing: Sharing | None = None
    """Where texts share beginnings; ``queries``, ``keys`` and ``documents`` are then those of the opened texts."""

    @cached_property
    def visible(self) -> Tensor | None:
        """(B or 1, 1, T, S) bool, True where query t may see key s; None in the two cases that need none."""
        if self.given is not None:
            return self.given
        device = self.device if self.documents is None else self.documents.device
        if self.documents is None:
            plain = not self.causal or self.queries == self.keys
            # One new token that continues a cached row may see all of it.
            if self.window is None and (plain or self.queries == 1):
                return None
            return self._lower(self.queries, self.keys, device)
        asking, offered = self.documents[:, -self.queries :, None], self.documents[:, None, :]
        visible = (asking == offered) & (offered >= 0)
        visible = visible | torch.eye(self.keys, dtype=torch.bool, device=device)[-self.queries :]
        visible = visible[:, None]
        return visible & self._lower(self.queries, self.keys, device) if self.causal else visible

    @cached_property
    def bounds(self) -> Tensor | None:
        """(texts + 1): where documents begin among all tokens, counted through, and where the last one ends.

        None where that is not all there is to know: with a window or a cache, or where a document comes in pieces. On
        the CPU attention then goes document by document, which spares what lies between them.
        """
        documents = self.documents
        if documents is None or self.window is not None or self.queries != self.keys or documents.device.type != "cpu":
            return None
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        rows = torch.arange(len(documents))[:, None].expand_as(documents)
        named = begins & (documents >= 0)
        keys = torch.stack([rows[named], documents[named]])
        if torch.unique(keys, dim=1).shape[1] != keys.shape[1]:
            return None
        starts = begins.flatten().nonzero()[:, 0]
        return torch.cat([starts, starts.new_tensor([begins.numel()])])

    def dense(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """The mask as a tensor, or None where everything is visible."""
        if self.visible is not None or not self.causal or queries == 1:
            return self.visible
        return self._lower(queries, keys, device)

    def _lower(self, queries: int, keys: int, device: torch.device | None) -> Tensor:
        """(1, 1, T, S): the last query sees every key, the one before it all but the last, and so on."""
        visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
        if self.window is not None:
            visible = visible.triu(keys - queries - self.window + 1)
        return visible[None, None]


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), with grouped key/value heads (Ainslie et al. 2023).

    ``qkv`` is one projection whose rows are the query heads, then the key heads, then the value heads. With ``cross``
    the keys and values come from another sequence (``memory``), so the projection is split in ``q`` and ``kv``.
    ``forward`` is the whole sub-layer, ``x + dropout(attention(norm(x)))``.
    """

    def __init__(self, config: ModelConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.key_value_heads, config.head_size
        self.layer, self.cross = layer, cross
        self.dropout = config.attention_dropout_rate
        self.residual_dropout = config.dropout
        query_rows, kv_rows = self.heads * self.head_size, 2 * self.kv_heads * self.head_size
        if cross:
            self.q = nn.Linear(config.width, query_rows, bias=config.qkv_bias)
            self.kv = nn.Linear(config.width, kv_rows, bias=config.qkv_bias)
        else:
            self.qkv = nn.Linear(config.width, query_rows + kv_rows, bias=config.qkv_bias)
        self.out = nn.Linear(query_rows, config.width, bias=config.out_bias)
        self.q_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else None
        self.textbook = False
        self.weights: Tensor | None = None
        """(B, H, T, S): the attention weights of the last textbook pass (before dropout), where one was asked for."""

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        rope: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        memory: Tensor | None = None,
        norm: nn.Module | None = None,
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C).

        ``memory`` (B, S, C) is the other sequence of cross-attention; ``norm`` comes before the projections, in
        pre-norm blocks.
        """
        packed, x = project_in(x, norm, self.q if self.cross else self.qkv)
        if mask.sharing is None:
            attend = self._textbook if self.textbook else self._fast
            attended = attend(packed, mask, rope, cache, memory)
        else:
            attended = self._shared(packed, mask, mask.sharing, rope)
        return project_out(attended, self.out, x, self.residual_dropout if self.training else 0.0)

    def _shared(
        self, packed: Tensor, mask: AttentionMask, sharing: Sharing, rope: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Of texts that share beginnings: each token asks once where that can be, and else as often as it is there."""
        texts = None if mask.bounds is None else sharing.texts(mask.bounds)
        plain = not self.textbook and self.q_norm is None and not (self.training and self.dropout)
        if texts is None or not plain or not kernels.sharing_pays(packed, texts):
            attend = self._textbook if self.textbook else self._fast
            opened = None if rope is None else (sharing.open(rope[0]), sharing.open(rope[1]))
            return sharing.close(attend(sharing.open(packed), mask, opened, None, None))
        dtype = packed.dtype
        with torch.autocast(packed.device.type, enabled=False):  # products are fp32, and so are turned angles
            packed = packed.float() if packed.device.type == "cpu" else packed
            if rope is not None:
                packed = self._turned(packed, rope)
            attended = kernels.shared_attention(packed.flatten(0, 1), texts, self.heads, self.kv_heads)
        return attended.to(dtype).view(*packed.shape[:2], -1)

    def _turned(self, packed: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        every = self.heads + 2 * self.kv_heads
        return kernels.rotate_heads(packed, *rope, every, self.heads + self.kv_heads)

    def _fast(
        self,
        packed: Tensor,
        mask: AttentionMask,
        rope: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        memory: Tensor | None,
    ) -> Tensor:
        """All heads at once: the projected queries, keys and values -> the heads' results, (B, T, H * D)."""
        whole = cache is None and not self.cross and self.q_norm is None
        if whole and (mask.bounds is not None or mask.visible is None):
            if rope is not None:
                packed = self._turned(packed, rope)
            return kernels.attention(
                packed,
                self.heads,
                self.kv_heads,
                causal=mask.causal,
                dropout=self.dropout if self.training else 0.0,
                bounds=mask.bounds,
            )
        q, k, v = self._heads(packed, rope, memory)
        if cache is not None and not self.cross:
            k, v = cache.append(self.layer, k, v)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask.visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask.causal and mask.visible is None and q.shape[2] > 1,
            enable_gqa=self.heads != self.kv_heads,
        )
        return attended.transpose(1, 2).flatten(2)

    def _heads(
        self, packed: Tensor, rope: tuple[Tensor, Tensor] | None, memory: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, K, S, D), normalised and turned where the config says so.

        ``packed`` is (B, T, (H + 2K) * D), the fused projection, or (B, T, H * D), the queries alone.
        """
        q = packed.view(*packed.shape[:2], -1, self.head_size)
        if self.cross:
            if memory is None:
                raise ValueError("cross-attention needs the other sequence's states")
            pairs: Tensor = self.kv(memory)
            k, v = pairs.view(*pairs.shape[:2], -1, self.head_size).chunk(2, dim=2)
        else:
            q, k, v = torch.split(q, [self.heads, self.kv_heads, self.kv_heads], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _textbook(
        self,
        packed: Tensor,
        mask: AttentionMask,
        rope: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        memory: Tensor | None,
    ) -> Tensor:
        """The same attention, one head and one step at a time. Step 1, the projection, has given ``packed``."""
        q, k, v = self._heads(packed, rope, memory)
        if cache is not None and not self.cross:
            k, v = cache.append(self.layer, k, v)
        visible = mask.dense(q.shape[2], k.shape[2], q.device)
        outputs, weights = [], []
        for head in range(self.heads):
            group = head // (self.heads // self.kv_heads)  # the key/value head that this query head shares
            scores = q[:, head] @ k[:, group].transpose(-2, -1)  # step 2: how well each query fits each key (B, T, S)
            scores = scores / math.sqrt(self.head_size)  # step 3: unit variance again, whatever the head's size
            if visible is not None:
                scores = scores.masked_fill(~visible[:, 0], float("-inf"))  # step 4: hide what may not be seen
            shares = scores.softmax(dim=-1)  # step 5: each query's shares of attention, summing to 1
            weights.append(shares)
            shares = F.dropout(shares, self.dropout, self.training)
            outputs.append(shares @ v[:, group])  # step 6: the shares' mixture of the values (B, T, D)
        self.weights = torch.stack(weights, dim=1)
        return torch.cat(outputs, dim=-1)  # the heads side by side; the last projection mixes them


@contextmanager
def textbook(model: nn.Module) -> Iterator[None]:
    """Within this block every attention of ``model`` takes the textbook path and keeps its weights."""
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    before = [layer.textbook for layer in layers]
    for layer in layers:
        layer.textbook = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.textbook, layer.weights = was, None
