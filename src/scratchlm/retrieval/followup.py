"""A follow-up question ("And who built it?") made one that stands by itself, by rules for English.

The rules put in what the last question was about. A question that needs nothing stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from scratchlm.retrieval.wording import content_words

_THING = re.compile(r"\b(it|this|that one|that|they|them|these|those|there)\b(?=\W*(?:$|\w))", re.IGNORECASE)
_THINGS_OWN = re.compile(r"\b(its|their)\b", re.IGNORECASE)
_PERSON = re.compile(r"\b(he|she|him)\b", re.IGNORECASE)
_PERSONS_OWN = re.compile(r"\b(his|her|hers)\b", re.IGNORECASE)
_ELLIPSIS = re.compile(
    r"^\W*(?:and|but|or|so|ok(?:ay)?,?)?\s*(?:what|how)\s+about\s+(.+?)\W*$|"
    r"^\W*(?:and|but|or)\s+(?!(?:who|what|when|where|"
    r"why|how|which|whose|whom|is|are|was|were|did|does|do|can|could|has|have|had|will|should|must|may)\b)(.+?)\W*$",
    re.IGNORECASE,
)
_LEAD = re.compile(r"^\W*(?:and|but|so|or|also|then)\b[\s,]*", re.IGNORECASE)
_NAME = r"[A-ZÀ-ÞŁŚŠŽ\d][\w'’.-]*"
_TOPIC = re.compile(
    rf"(?:\b(?:the|a|an)\s+(?:[a-z][\w-]*\s+){{0,2}}(?:of\s+(?:the\s+)?)?)?"
    rf"{_NAME}(?:\s+(?:of\s+(?:the\s+)?)?{_NAME})*(?:\s+[a-z]\w+)?"
)
_COMMON_TOPIC = re.compile(
    r"\b(?:the|a|an)\s+(?:[a-z][\w-]*\s+){0,2}?[a-z][\w-]*(?:\s+of\s+(?:the\s+)?\w+)*", re.IGNORECASE
)
_PERSON_NAME = r"[A-ZÀ-ÞŁŚŠŽ][\w'’-]+"
_PEOPLE = re.compile(rf"\b{_PERSON_NAME}(?:\s+(?:(?:van|von|de|da|du|del|di|der)\s+)?{_PERSON_NAME})+")
_ASKING = "who what when where why how which whose whom is are was were did does do can could"
_QUESTION_WORDS = frozenset(_ASKING.split())
_AFTER = """
    opened built made founded born die died found begin began start started cost hold held have has lie lies take
    takes took come go run runs work works be become live lives get gets win won open close closed designed"""
_AFTER_TOPIC = frozenset(_AFTER.split())


@dataclass(frozen=True)
class Turn:
    """A question that was asked, and what was answered."""

    question: str
    answer: str = ""


def standalone(question: str, history: tuple[Turn, ...] | list[Turn]) -> str:
    """The question as it stands by itself, in view of what was asked before.

    A pronoun becomes what the last question was about; "he" and "she", a person of the last answer or question. "What
    about X?" asks the last question again of X.
    """
    if not history:
        return question
    last = history[-1]
    asked = standalone(last.question, history[:-1])
    other = _ELLIPSIS.match(question)
    topic = topic_of(asked)
    if other is not None and topic is not None:
        new = next(part for part in other.groups() if part)
        return asked.replace(topic, new, 1)
    person = _person(last.answer, asked)
    found = _LEAD.sub("", question)
    found = found[:1].upper() + found[1:]
    replaced = found
    if person is not None:
        replaced = _PERSON.sub(lambda _: person, replaced, count=1)
        replaced = _PERSONS_OWN.sub(lambda _: f"{person}'s", replaced, count=1)
    if topic is not None and replaced == found:
        replaced = _THINGS_OWN.sub(lambda _: f"{topic}'s", replaced, count=1)
        if replaced == found:
            replaced = _THING.sub(lambda _: topic, replaced, count=1)
    if replaced == found and topic is not None and len(content_words(found)) < 2 and not _names(found):
        replaced = f"{found.rstrip(' ?')} ({topic})?"  # "How long?"
    return replaced


def topic_of(question: str) -> str | None:
    """What a question is about: its longest name with the noun beside it, or else its last "the ..."; None where it has
    neither."""
    body = question.strip().rstrip("?!. ")
    first = re.match(r"\w+", body)
    start = first.end() if first and first[0].casefold() in _QUESTION_WORDS else 0
    names = [found[0] for found in _TOPIC.finditer(body, start)]
    if names:
        topic = max(names, key=len)
        *before, last = topic.split()
        return " ".join(before) if before and last in _AFTER_TOPIC else topic
    common = [found[0] for found in _COMMON_TOPIC.finditer(body, start)]
    return max(common, key=len) if common else None


def _person(answer: str, question: str) -> str | None:
    for text in (answer, question):
        found = _PEOPLE.search(text)
        if found is not None:
            return found[0]
    return None


def _names(text: str) -> bool:
    return re.search(rf"\s{_NAME}", text) is not None
