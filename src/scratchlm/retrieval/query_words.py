"""The words of a text that are looked for: without those that every text has, and cut to their stems.

Stems are those of Porter (1980). They are for English, and do no harm to other languages' words beside: few end alike.
"""

from __future__ import annotations

import re
from functools import lru_cache

_STOP = """
a about above after again against all also am among an and another any are as at be because been before being below
between both but by can could did do does doing done down during each either et etc few for from further had has have
having he her here hers herself him himself his how i if in into is it its itself just may me might more most must my
myself no nor not now of off on once one only or other others ought our ours ourselves out over own same shall she
should so some such than that the their theirs them themselves then there these they this those through thus to too
two under until up upon us use used using very was we were what when where whether which while who whom whose why will
with within without would you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP.split())
"""English words that say little of what a text is about."""
_WORD = re.compile(r"[^\W_]+")


def content_words(text: str) -> str:
    """A text without its stop words, as it stands; the whole text where nothing else is in it."""
    kept = [word for word in _WORD.findall(text) if word.lower() not in STOP_WORDS]
    return " ".join(kept) if kept else text


def stems(text: str) -> list[str]:
    """The stems of the words of a text, in lower case, without stop words."""
    return [stem(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


_STEP_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble", "logi": "log",
}  # fmt: skip
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP_4 = dict.fromkeys(
    ("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
     "ous", "ive", "ize"), "",
)  # fmt: skip


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of an English word in lower case (Porter 1980)."""
    if len(word) <= 2 or not word.isascii() or not word.isalpha():
        return word
    word = _ended(_plural_less(word))
    if word.endswith("y") and "v" in _form(word[:-1]):
        word = word[:-1] + "i"
    for endings, least in ((_STEP_2, 1), (_STEP_3, 1), (_STEP_4, 2)):
        found = max((end for end in endings if word.endswith(end)), key=len, default="")
        before = word[: len(word) - len(found)]
        if found and _measure(before) >= least and (found != "ion" or before.endswith(("s", "t"))):
            word = before + endings[found]
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word


def _plural_less(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _ended(word: str) -> str:
    """Without -ed and -ing."""
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    end = next((end for end in ("ed", "ing") if word.endswith(end)), "")
    before = word[: len(word) - len(end)]
    if not end or "v" not in _form(before):
        return word
    if before.endswith(("at", "bl", "iz")):
        return before + "e"
    if before[-1] == before[-2:-1] and _form(before)[-1] == "c" and before[-1] not in "lsz":
        return before[:-1]
    return before + "e" if _measure(before) == 1 and _short(before) else before


def _form(word: str) -> str:
    """Its consonants and vowels: ``toy`` -> ``cvc``, ``syzygy`` -> ``cvcvcv``."""
    form = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and form[-1:] == "c")
        form += "v" if vowel else "c"
    return form


def _measure(word: str) -> int:
    """How often vowels are followed by consonants in it."""
    return len(re.findall("v+c+", _form(word)))


def _short(word: str) -> bool:
    """Whether it ends in consonant, vowel, consonant, the last one not w, x or y."""
    return _form(word).endswith("cvc") and word[-1] not in "wxy"
