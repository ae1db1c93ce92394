"""``/v1/embeddings``: texts become vectors."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scratchlm.serving.errors import ApiError
from scratchlm.serving.registry import Loaded
from scratchlm.serving.schemas import EmbeddingRequest

_MOST_TOKENS = 300_000
"""Of all texts of a request."""


def embed(loaded: Loaded, asked: EmbeddingRequest) -> dict[str, Any]:
    """The answer. ``dimensions`` keeps the first numbers of a vector, scaled to length 1: for models that were trained
    to be cut (Matryoshka, Kusupati et al. 2022); of others the vectors become worse.

    Raises:
        ApiError, UserError: too many tokens, a token that is in no vocabulary, more dimensions than there are, a model
            that gives no vectors.
    """
    tokenizer = loaded.tokenizer
    texts, tokens = [], 0
    for number, one in enumerate(asked.inputs):
        if isinstance(one, str):
            texts.append(one)
            tokens += len(tokenizer.encode(one, add_special=True))
            continue
        if not one or not 0 <= min(one) <= max(one) < tokenizer.vocab_size:
            said = f"a token is not in the vocabulary, 0 to {tokenizer.vocab_size - 1}; send texts"
            raise ApiError(400, said, param=f"input.{number}")
        texts.append(tokenizer.decode(one, skip_special=True))
        tokens += len(one)
    if tokens > _MOST_TOKENS:
        raise ApiError(
            400, f"{tokens:,} tokens are more than {_MOST_TOKENS:,} at a time; send fewer texts", param="input"
        )
    vectors = loaded.model.embed(texts).vectors
    if asked.dimensions is not None:
        vectors = _cut(vectors, asked.dimensions)
    data = [
        {"object": "embedding", "index": number, "embedding": _written(vector, asked.encoding_format == "base64")}
        for number, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _cut(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    if dimensions > vectors.shape[1]:
        said = f"dimensions is {dimensions}; this model's vectors have {vectors.shape[1]}"
        raise ApiError(400, said, param="dimensions")
    kept = vectors[:, :dimensions]
    found: NDArray[np.float32] = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return found


def _written(vector: NDArray[np.float32], packed: bool) -> str | list[float]:
    """A vector as numbers, or its float32 bytes (little-endian) in base64."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if packed else vector.tolist()
