"""What kind of answer a question expects, and where a text has one: a date, a name, a sum of money, an option.

Rules for English. A question that none of them fits expects anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|dozen|"
    "once|twice|half|quarter|third|several|single|both"
)
_NUMBER = rf"(?:\d[\d,.:\u00a0/]*|\b(?:{_NUMBER_WORDS})\b)"
_MONTHS = (
    "January|February|March|April|May|June|July|August|September|October|November|December|"
    "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
)
_DAYS = "Mondays?|Tuesdays?|Wednesdays?|Thursdays?|Fridays?|Saturdays?|Sundays?"
_TIME_UNITS = r"(?:second|minute|hour|day|week|fortnight|month|year|decade|centur|generation|night|summer|winter)\w*"
_MONEY = (
    r"(?:[$€£¥]|\b(?:euros?|dollars?|pounds?|pence|cents?|crowns?|francs?|marks?|guilders?|"
    r"yen|rubles?|roubles?|rupees?|"
    r"shillings?|stuivers?|ducats?|thalers?|florins?|pesos?|lira|kronor|kroner|zloty|yuan|EUR|USD|GBP|CHF)\b|"
    r"\bfree\b|\bnothing\b)"
)
_LENGTH = (
    r"\b(?:milli|centi|kilo)?(?:met(?:re|er))s?\b|\b(?:mm|cm|m|km|feet|foot|ft|inch(?:es)?|miles?|yards?|leagues?)\b"
)
_WEIGHT = r"\b(?:kilo|milli)?gram(?:me)?s?\b|\b(?:kg|g|mg|kilos?|tons?|tonnes?|pounds?|lbs?|ounces?|oz|stone)\b"
_AREA = r"\b(?:hectares?|acres?|square|km2|m2|km²|m²|ha)\b"
_VOLUME = r"\b(?:(?:milli|centi)?lit(?:re|er)s?|ml|cl|gallons?|pints?|barrels?|cubic|cups?)\b"
_SPEED = r"\b(?:km/h|kph|mph|knots?|an hour|per hour|(?:a|per) second|m/s)\b|(?:hour|second)\b"
_HEAT = r"\b(?:degrees?|celsius|fahrenheit|kelvin)\b|°"
_PLACE = (
    r"\b(?:in|at|on|near|from|to|into|under|behind|by|beside|between|outside|inside|below|above|around|off|of)\s+\S"
)
_CODE = (
    r"`[^`]+`|(?<!\w)--?[A-Za-z][\w-]*|\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|"
    r"\b[\w-]+\.(?:[a-z]{1,5})\b|\b[A-Z]\w*-[A-Z][\w-]*|/\w+"
)
_REASON = (
    r"\b(?:because|since|as|due|owing|thanks|so that|in order|reasons?|caused?|therefore|why|"
    r"for|after|to|when|made|led|"
    r"result\w*|had|found|ruined)\b"
)
_NAME = r"\b[A-ZÀ-ÞŁŚŠŽ][\w'’-]+"


@dataclass(frozen=True)
class Expected:
    """A kind of answer."""

    name: str
    """date, person, money, ..., or anything."""
    pattern: re.Pattern[str] | None
    """What such an answer has; None where all will do."""
    strict: bool = True
    """Whether an answer of the kind must fit the pattern; else most do."""


def _kind(name: str, *patterns: str, strict: bool = True, case: bool = False) -> Expected:
    return Expected(name, re.compile("|".join(patterns), 0 if case else re.IGNORECASE), strict)


_DATE = _kind(
    "date",
    rf"\b(?:1\d|20)\d\d\b|\b(?:{_MONTHS})\b|\b(?:{_DAYS})\b|\b(?:today|yesterday|tomorrow|noon|"
    rf"midnight|Easter|Christmas)\b",
    r"\b\d{1,2}[.:]\d\d\b|\b\d{1,2}\s?(?:a\.?m|p\.?m|o'clock)|\b(?:morning|evening|afternoon|night|dusk|dawn)\b",
    rf"\b(?:spring|summer|autumn|winter|century)\b|{_NUMBER}\s+{_TIME_UNITS}|\b\d{{1,2}}(?:st|nd|rd|th)\b",
    r"\b(?:when|once|after|before|until|during|while|as soon as|if)\b",
)
_NUMERIC = _kind("number", _NUMBER, r"\b(?:no|none|a|an)\b")
_AMOUNT = _kind("number", _NUMBER)
_LASTING = (
    rf"{_NUMBER}\W+(?:\w+\W+)?{_TIME_UNITS}|\b(?:an?|half an?|the whole|all)\s+{_TIME_UNITS}|"
    r"\b(?:until|forever|since)\b|\d+:\d\d"
)
_RULES: tuple[tuple[str, Expected], ...] = (
    (
        r"\b(?:which|what)\s+(?:\w+\s+)?(?:option|flag|switch|command|variable|parameter|argument|"
        r"setting|header|file|folder|"
        r"directory|method|function|field|key|endpoint|package|module)\b|\bhow (?:do|can|"
        r"does) \w+ (?:install|run|call|start)\b",
        _kind("code", _CODE, case=True, strict=False),
    ),
    (r"\bhow old\b|\bat what age\b|\bage of\b", _kind("age", rf"{_NUMBER}", r"\b(?:aged?|born)\b")),
    (
        r"\bhow (?:often|frequent\w*)\b",
        _kind(
            "frequency",
            r"\b(?:every|each|once|twice|times|daily|weekly|monthly|yearly|annual\w*|per|a (?:day|"
            r"week|month|year)|hourly)\b",
        ),
    ),
    (
        r"\bhow long\b(?! (?:is|was|are|were) the (?:bridge|river|canal|tunnel|road|tail|wall|"
        r"pendulum|course|table|line))",
        Expected("duration or length", re.compile(f"{_LASTING}|{_NUMBER}[^.;]*(?:{_LENGTH})", re.IGNORECASE)),
    ),
    (
        r"\bhow (?:tall|high|deep|wide|far|thick|broad|long|large|big)\b|\b(?:height|depth|width|"
        r"length|altitude|distance|"
        r"diameter|wingspan|elevation|thickness)\b",
        _kind(
            "length",
            rf"{_NUMBER}[^.;]*(?:{_LENGTH}|{_AREA})",
            rf"{_NUMBER}\s*(?:GB|MB|KB|TB|bytes|pages|entries|seats|{_MONEY})",
        ),
    ),
    (r"\b(?:what|which|how much).*\b(?:area|surface)\b", _kind("area", rf"{_NUMBER}[^.;]*(?:{_AREA}|{_LENGTH})")),
    (
        r"\bhow (?:heavy|much .*\bweigh)|\bweight\b|\bmass of\b|\bweigh\b",
        _kind("weight", rf"{_NUMBER}[^.;]*(?:{_WEIGHT})"),
    ),
    (
        r"\bhow (?:hot|cold|warm)\b|\btemperature\b",
        _kind("temperature", rf"{_NUMBER}[^.;]*(?:{_HEAT})", rf"{_NUMBER}\s?[CF]\b"),
    ),
    (
        r"\bhow (?:fast|quick\w*)\b|\bspeed\b",
        _kind("speed", rf"{_NUMBER}[^.;]*(?:{_SPEED})|{_NUMBER}\s+(?:{_TIME_UNITS})"),
    ),
    (
        r"\b(?:how much|what)\b.*\b(?:cost|costs|price|priced|fee|pay|pays|paid|rent|salary|wage|"
        r"worth|charge|charged|toll|"
        r"earn|earned|spend|spent|deposit|fine|bonus|revenue|profit|budget|prize money|expensive|reimbursed)\b|"
        r"\b(?:price|cost|fee) of\b|\bhow expensive\b",
        _kind("money", rf"{_NUMBER}[^.;]*(?:{_MONEY})", rf"(?:{_MONEY})\s*{_NUMBER}", r"\b(?:free|nothing|loaf)\b"),
    ),
    (
        r"\bhow many\b|\bwhat (?:number|percentage|share|fraction|proportion)\b|\bwhich percentage\b|\bhow much\b",
        _AMOUNT,
    ),
    (
        r"\b(?:which|what) (?:port|status|exit|version|dose)\b|\b(?:default|maximum|minimum|"
        r"highest|largest)\b.*\b(?:timeout|size|number|dose|page)\b",
        _kind("number", r"\d", _NUMBER),
    ),
    (r"\b(?:telephone|phone) number\b|\bwhat number\b|\bextension\b", _kind("telephone", r"\d{3,}|\d[\d \-/]{4,}")),
    (
        r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century|time)\b|\bwhat time\b|\bsince when\b|\bby when\b",
        _DATE,
    ),
    (
        r"\bwho\b|\bwhom\b|\bwhose\b|\bwhich (?:person|king|queen|engineer|architect|company|firm|"
        r"composer|painter|family)\b",
        _kind("person", _NAME, r"\b(?:the|a|an)\s+[a-z]+s?\b", case=True, strict=False),
    ),
    (
        r"\bwhere\b|\b(?:which|what) (?:city|town|country|place|village|street|address|room|floor|river)\b|\baddress\b",
        _kind("place", _PLACE),
    ),
    (r"\bwhy\b|\bfor what reason\b|\bwhat (?:was|is) the (?:cause|reason)\b", _kind("reason", _REASON)),
    (r"\b(?:name|title|called|nickname)\b", _kind("name", _NAME, r"[\"“‘'*`]", case=True, strict=False)),
)
_COMPILED = tuple((re.compile(rule, re.IGNORECASE), kind) for rule, kind in _RULES)
ANYTHING = Expected("anything", None, strict=False)


def expected_answer(question: str) -> Expected:
    """The kind of answer that a question expects; :data:`ANYTHING` where no rule says."""
    for rule, kind in _COMPILED:
        if rule.search(question):
            return kind
    return ANYTHING


def answer_places(expected: Expected, question: str, text: str) -> list[tuple[int, int]]:
    """Where ``text`` has what is expected and the question does not say itself: spans of ``text``."""
    if expected.pattern is None:
        return []
    said = {word.casefold() for word in re.findall(r"\w+", question)}
    found = []
    for match in expected.pattern.finditer(text):
        words = re.findall(r"\w+", match[0])
        if not words or any(word.casefold() not in said for word in words):
            found.append(match.span())
    return found


def names_in(text: str, question: str) -> list[str]:
    """The names in a sentence that the question does not have. Its first word is one where another follows it."""
    said = {word.casefold() for word in re.findall(r"\w+", question)}
    found = []
    for match in re.finditer(rf"{_NAME}(?:\s+{_NAME})*", text):
        words = match[0].split()
        alone = len(words) == 1 and not re.search(r"\w", text[: match.start()])
        if not alone and any(word.casefold() not in said for word in words):
            found.append(match[0])
    return found
