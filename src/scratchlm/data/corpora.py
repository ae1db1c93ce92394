"""Small texts that come with the library, by name."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources

from scratchlm.data.dates import date_pairs
from scratchlm.errors import UserError

_FILES = {
    "rumi": "rumi.txt",
    "rumi-sentence": "rumi-sentence.txt",
    "rumi-life": "rumi-life.txt",
}


def corpus_names() -> tuple[str, ...]:
    """The names that ``--data`` knows.

    - "rumi": the tutorial's text of chapter 4.1, 302 characters, for TinyGPT.
    - "rumi-sentence": its text of chapter 3.1, 23 words.
    - "rumi-life": a life of Rumi in our own words, for TinyBERT.
    - "dates": written dates and their ISO form, made by a program, for the encoder-decoder.
    """
    return (*_FILES, "dates")


@cache
def corpus_text(name: str) -> str:
    """A corpus as one text. "dates" comes as lines of ``written<TAB>ISO``, the validation dates last.

    Raises:
        UserError: there is no such corpus; the line suggests the nearest name.
    """
    if name == "dates":
        pairs = date_pairs("train") + date_pairs("validation")
        return "".join(f"{written}\t{iso}\n" for written, iso in pairs)
    if name not in _FILES:
        near = difflib.get_close_matches(name, corpus_names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(corpus_names())}"
        raise UserError(f"there is no corpus {name!r}; {hint}")
    file = resources.files("scratchlm.data") / "corpora_texts" / _FILES[name]
    return file.read_bytes().decode("utf-8")  # bytes, so that no platform translates the line ends
