"""Tags of words: the words of a text, and the entities that tags tell of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

WordStyle = Literal["parts", "spaces"]
"""How a text is taken apart into words: ``parts``, as corpora with tags mostly are, punctuation and a clitic such as
"'s" apart; ``spaces``, at white space alone."""
OUTSIDE = "O"

_PREFIXED = re.compile(r"[BIELSU]-.")
_SAME = {"L": "E", "U": "S"}
"""BILOU's names of BIOES' prefixes."""
_CLITIC = r"['’](?:s|m|d|re|ve|ll)\b"
_PARTS = re.compile(
    r"(?:https?://|www\.)\S+"
    r"|[@#]\w+"
    r"|(?:[^\W\d_]\.){2,}"  # U.S.
    r"|\d+(?:[.,:/-]\d+)+"
    rf"|\w+(?:[.&/-]\w+|(?!{_CLITIC})['’]\w+)*"
    rf"|{_CLITIC}"
    r"|([^\w\s])\1*",  # a run of dots is one word
    re.IGNORECASE,
)
_SPACES = re.compile(r"\S+")
_GLUED = re.compile(r"\w[.,;:!?]$|['’]s$", re.IGNORECASE)
_SHARE_GLUED = 0.03


class Entity(NamedTuple):
    """Words ``start`` up to, not including, ``end``."""

    kind: str
    start: int
    end: int


def word_places(text: str, style: WordStyle = "parts") -> list[tuple[int, int]]:
    """Where each word of a text begins and ends, in characters. What no word has is white space."""
    return [found.span() for found in (_PARTS if style == "parts" else _SPACES).finditer(text)]


def word_style(sentences: Iterable[Sequence[str]]) -> WordStyle:
    """Which way of taking texts apart gives words like those of tagged sentences: where one in 30 or more ends in
    punctuation, white space alone has parted them."""
    longer = [word for words in sentences for word in words if len(word) > 1]
    glued = sum(_GLUED.search(word) is not None and word_places(word) != [(0, len(word))] for word in longer)
    return "spaces" if glued > _SHARE_GLUED * len(longer) else "parts"


def has_entities(labels: Iterable[str]) -> bool:
    """Whether the tags are of a scheme that tells entities (BIO, IOB1, BIOES, BILOU): each "O", or a prefix, a hyphen
    and a kind. Other tags are of a word each."""
    kinds = [label for label in labels if label != OUTSIDE]
    return bool(kinds) and all(_PREFIXED.match(label) for label in kinds)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence's tags, as conlleval finds them (Tjong Kim Sang & Buchholz 2000): one begins at B or
    S, after O, E or S, and where the kind changes. So tags that break their scheme's rules have a reading too."""
    found: list[Entity] = []
    before, kind, start = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, its = tag.partition("-")
        prefix = _SAME.get(prefix, prefix)
        begins = prefix != OUTSIDE and (prefix in "BS" or before in "OES" or its != kind)
        if before != OUTSIDE and (begins or prefix == OUTSIDE):
            found.append(Entity(kind, start, place))
        if begins:
            start = place
        before, kind = prefix, its
    return found


def bioes(tags: Sequence[str]) -> list[str]:
    """BILOU's tags by BIOES' names; others as they are."""
    return [_SAME.get(tag[0], tag[0]) + tag[1:] if tag[1:2] == "-" else tag for tag in tags]
