"""Whether a source says what a sentence of an answer says.

Two things are asked: how many of the sentence's words the source has, above all its names and numbers; and how near
the two are for an embedding model. A sentence whose number or name the source does not have is not supported, however
near it is; nor is one that denies what the source does not deny.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from scratchlm.retrieval.wording import content_words, stem, words_of

_NUMBER = re.compile(r"\d[\d.,:]*\d|\d")
_NAME = re.compile(r"(?<=\s)[A-ZÀ-ÞŁŚŠŽ][\w'’-]*|`[^`]+`")
_DENYING = "not no never none nobody nothing neither nor without cannot can't don't doesn't isn't wasn't"
_DENIALS = frozenset(_DENYING.split())
_COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_COUNTS = {word: str(n) for n, word in enumerate(_COUNTING.split())}
OVERLAP, NEAR = 0.5, 0.45
"""The least share of words and the least cosine of a supported sentence. Set by hand, not measured."""


@dataclass(frozen=True)
class Support:
    """What a check has found."""

    supported: bool
    score: float
    """The mean of overlap and cosine, 0 to 1; 0 where a name, a number or a denial does not agree."""
    overlap: float
    """Share of the sentence's words that the source has, 0 to 1."""
    cosine: float
    """Of the embeddings, -1 to 1."""
    missing: tuple[str, ...]
    """Names and numbers of the sentence that the source does not have."""


def check_support(sentence: str, source: str, cosine: float, known: str = "") -> Support:
    """Compare a sentence with what it cites.

    Args:
        cosine: of the two's embeddings.
        known: where names may come from as well: the question, headings.
    """
    wanted = content_words(sentence)
    stems = {stem(word) for word in _counted(words_of(f"{source} {known}"))}
    overlap = sum(stem(_COUNTS.get(word, word)) in stems for word in wanted) / len(wanted) if wanted else 0.0
    missing = tuple(_missing(sentence, source, known))
    denies = _denials(sentence) != _denials(source) and _denials(sentence) > 0
    agrees = not missing and not denies and bool(wanted)
    score = (overlap + max(0.0, min(1.0, cosine))) / 2 if agrees else 0.0
    return Support(agrees and overlap >= OVERLAP and cosine >= NEAR, score, overlap, cosine, missing)


def _missing(sentence: str, source: str, known: str) -> list[str]:
    has = _numbers(source) | _numbers(known)
    absent = [number for number in _numbers_in_order(sentence) if number not in has]
    stems = {stem(word) for word in words_of(f"{source} {known}")}
    names = [word for name in _NAME.findall(f" {sentence}"[1:]) for word in words_of(name)]
    return absent + [name for name in names if stem(name) not in stems]


def _numbers_in_order(text: str) -> list[str]:
    digits = [_plain(found) for found in _NUMBER.findall(text)]
    return digits + [_COUNTS[word] for word in words_of(text) if word in _COUNTS and word not in ("one", "zero")]


def _numbers(text: str) -> set[str]:
    return set(_numbers_in_order(text)) | {_plain(found) for found in re.findall(r"\d+", text)}


def _plain(number: str) -> str:
    return number.replace(",", "").rstrip(".:")


def _counted(words: list[str]) -> list[str]:
    return [_COUNTS.get(word, word) for word in words] + words


def _denials(text: str) -> int:
    return sum(word in _DENIALS for word in words_of(text))
