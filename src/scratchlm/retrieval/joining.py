"""Passages that follow each other in a file, made one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from scratchlm.retrieval.passages import Hit

GAP = 4
"""Characters, which are white space, that may stand between two passages that follow each other: the ends of two lines
have four in files from Windows, and functions of Python have three between them."""


def join_adjacent(hits: Sequence[Hit], gap: int = GAP) -> list[Hit]:
    """Hits of which those that overlap, or follow each other in a file, are one: at the place, with the id, the score
    and the scores of the best of them.

    Offsets stay true. The characters between two passages are not known here; line ends stand for them.
    """
    left = list(hits)
    joined: list[Hit] = []
    while left:
        whole = left.pop(0)
        grown = True
        while grown:
            grown = False
            for other in left:
                if _touch(whole, other, gap):
                    left.remove(other)
                    whole, grown = _join(whole, other), True
                    break
        joined.append(whole)
    return joined


def with_neighbours(hit: Hit, neighbours: Callable[[Hit, int, int], Sequence[Hit]], count: int) -> Hit:
    """A hit grown by the passages around it, ``count`` on each side. Between these stands white space alone, however
    much."""
    around = sorted(neighbours(hit, count, count), key=lambda other: abs(other.start - hit.start))
    for other in around:
        hit = _join(hit, other)
    return hit


def _touch(one: Hit, other: Hit, gap: int) -> bool:
    first, second = (one, other) if one.start <= other.start else (other, one)
    return one.file == other.file and second.start - first.end <= gap


def _join(best: Hit, other: Hit) -> Hit:
    first, second = (best, other) if best.start <= other.start else (other, best)
    between = "\n" * max(0, second.start - first.end)
    return replace(
        best,
        text=first.text + between + second.text[max(0, first.end - second.start) :],
        start=first.start,
        end=max(first.end, second.end),
        first_line=min(first.first_line, second.first_line),
        last_line=max(first.last_line, second.last_line),
        first_page=first.first_page,
        last_page=second.last_page if second.end >= first.end else first.last_page,
        headings=_shared(first.headings, second.headings),
    )


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """The headings that both stand under."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[:same]
