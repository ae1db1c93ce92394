"""Examples as text, and their lengths as bars, for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scratchlm.data.batch import IGNORE
from scratchlm.tokenizers import Tokenizer

_BARS, _BAR = 8, 40
Ids = NDArray[np.uint32]
Targets = NDArray[np.int32]


def marked(tokenizer: Tokenizer, ids: Ids, targets: Targets) -> str:
    """A text in which what is supervised stands between ⟦ and ⟧."""
    learned = np.concatenate(([False], targets[:-1] != IGNORE))
    edges = [0, *(np.flatnonzero(np.diff(learned)) + 1).tolist(), len(ids)]
    runs = ((tokenizer.decode(ids[a:b]), learned[a]) for a, b in pairwise(edges))
    return "".join(f"⟦{text}⟧" if inside else text for text, inside in runs)


def tagged(tokenizer: Tokenizer, ids: Ids, targets: Targets, tags: Sequence[str]) -> str:
    """Words, each with its tag behind an arrow."""
    starts = [n for n in range(len(ids)) if targets[n] != IGNORE]
    ends = [*starts[1:], len(ids) - _suffix_length(tokenizer, ids)]
    words = [tokenizer.decode(ids[a:b]).strip() for a, b in zip(starts, ends, strict=True)]
    return " ".join(f"{word} → {tags[targets[n]]};" for word, n in zip(words, starts, strict=True))


def histogram(lengths: NDArray[np.int64]) -> str:
    """A bar for each range of tokens."""
    counts, edges = np.histogram(lengths, _BARS, (0.5, max(_BARS, int(lengths.max())) + 0.5))
    bounds = [(int(np.ceil(a)), int(np.ceil(b)) - 1) for a, b in pairwise(edges)]
    lines = [
        f"{a:>6,} - {b:>6,} {count:>8,} {'█' * round(_BAR * int(count) / int(counts.max()))}".rstrip()
        for (a, b), count in zip(bounds, counts, strict=True)
    ]
    return "\n".join(["tokens             rows", *lines])


def _suffix_length(tokenizer: Tokenizer, ids: Ids) -> int:
    after = tokenizer.suffix_ids
    return len(after) if after and tuple(ids[-len(after) :].tolist()) == after else 0
