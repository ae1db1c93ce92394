"""Pairs for the encoder-decoder: the corpus "dates", or a file with a source, a tab and a target on each line."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from scratchlm.data import date_pairs
from scratchlm.data.chunks import read_text
from scratchlm.errors import UserError

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class PairData:
    """Training and held-out pairs."""

    name: str
    train: Pairs
    validation: Pairs
    fingerprint: str


def load_pairs(data: str, validation_fraction: float, seed: int) -> PairData:
    """The pairs that ``data`` names, split. No source occurs on both sides.

    Raises:
        UserError: no such file, a line without exactly one tab, or too few pairs to hold any out.
    """
    if data == "dates":
        train, validation = list(date_pairs("train")), list(date_pairs("validation"))
        if validation_fraction == 0:
            validation = []
    else:
        train, validation = _split(_read(Path(data)), validation_fraction, seed)
        if validation_fraction > 0 and not validation:
            raise UserError(f"{data} has too few pairs to hold {validation_fraction:.0%} out; give more, or fraction 0")
    digest = hashlib.sha256(repr((train, validation)).encode()).hexdigest()
    return PairData(data, train, validation, digest)


def _read(path: Path) -> Pairs:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one file with a source, a tab and a target on each line")
    if not path.exists():
        raise UserError(f"{str(path)!r} is no file, nor the corpus 'dates'; give a file of source, tab, target lines")
    pairs: Pairs = []
    for number, line in enumerate("".join(read_text(path)).splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise UserError(
                f"{path}, line {number}: {len(fields)} fields where two are needed; write source, tab, target"
            )
        pairs.append((fields[0].strip(), fields[1].strip()))
    if not pairs:
        raise UserError(f"{path} holds no pairs; write source, tab, target on each line")
    return pairs


def _split(pairs: Pairs, fraction: float, seed: int) -> tuple[Pairs, Pairs]:
    sources = sorted({source for source, _ in pairs})
    random.Random(seed).shuffle(sources)
    held_out = set(sources[: round(fraction * len(sources))])
    train = [pair for pair in pairs if pair[0] not in held_out]
    return train, [pair for pair in pairs if pair[0] in held_out]
