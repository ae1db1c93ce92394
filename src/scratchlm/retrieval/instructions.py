"""Text in documents is data: what in it tries to be more is made harmless, or left out and told.

Two defences stand before a prompt. Marks that a chat template could take for turns are spelled so that no tokenizer
reads them as such. And sentences that speak to the model rather than about a subject ("ignore the instructions
above") are left out, by rules; rules miss things, so that what comes out is checked against the sources as well.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata

_MARKS = re.compile(
    r"<\s*[|｜]\s*[^<>\n]{0,60}?[|｜]\s*>"
    r"|</?s>|\[/?(?:INST|SYS|SYSTEM|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|ARGS)\]|<</?SYS>>"
    r"|</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|system|assistant|user|human|"
    r"instructions?|prompt|tool_call|tool_response)\b[^<>]{0,40}>"
    r"|\[(?:CLS|SEP|MASK|PAD|UNK)\]",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HIDDEN = re.compile(r"<(script|style|template|noscript)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_FAKE_TURN = re.compile(
    r"<\s*[|｜]\s*im_start\s*[|｜]\s*>.*?<\s*[|｜]\s*im_end\s*[|｜]\s*>|\[INST\].*?\[/INST\]|<<SYS>>.*?<</SYS>>|"
    r"<start_of_turn>.*?<end_of_turn>|<\s*[|｜]\s*start_header_id\s*[|｜]\s*>.*?<\s*[|｜]\s*eot_id\s*[|｜]\s*>",
    re.DOTALL | re.IGNORECASE,
)
_OPENING = re.compile(rf"(?:{_MARKS.pattern})\s*(?:(?:system|assistant|user)\b(?!\s*\w+\s))?\s*", re.IGNORECASE)
_TURN = re.compile(
    r"^\W{0,4}(?:#{1,6}\s*)?\W{0,3}(?:system|assistant|developer|user|human|ai|bot|chatgpt|model|admin(?:istrator)?)"
    r"(?:\s+(?:message|prompt|note|override|instructions?|turn))?\W{0,3}\s*[:>\]]",
    re.IGNORECASE,
)
_ENCODED = re.compile(r"(?<![\w+/=])(?:[A-Za-z0-9+/_-]{24,}={0,2})(?![\w+/=])")
_WHAT = (
    r"(?:instruction|prompt|rule|guideline|direction|command|order|context|message|request|question|conversation|"
    r"constraint|safeguard|polic(?:y|ies)|programming|training|document|source|text|told|said|anything|everything|all)"
)
_OF = (
    r"(?:previous|prior|above|earlier|preceding|former|foregoing|your|any|all|other|system|"
    r"original|initial|these|those|the)"
)
_RULES = tuple(
    re.compile(rule, re.IGNORECASE)
    for rule in (
        rf"\b(?:ignore|disregard|forget|override|bypass|overrule|skip|drop|discard|neglect|cancel|"
        rf"set aside|do not follow|"
        rf"don't follow|stop following|pay no attention to)\b.{{0,40}}\b{_OF}\b.{{0,40}}\b{_WHAT}",
        r"\b(?:new|real|actual|updated|revised|important|urgent|secret|hidden|special|additional|further)\s+"
        r"(?:system\s+)?(?:instructions?|directives?|prompts?|orders?)\b",
        r"\b(?:system|developer)\s+(?:prompt|message|override|instructions?)\b",
        r"\b(?:the|your|correct|right|only|every|any|each)\s+answers?\s+(?:to|for|of)\s+(?:\w+\s+){0,2}?"
        r"(?:every|all|any|each|this|whatever|the)\s+(?:\w+\s+){0,2}?(?:questions?|quer(?:y|ies)|prompts?)",
        r"\b(?:answer|respond|reply|return|output|print|say|write|type|repeat|state|begin|start|end|finish)\b.{0,40}\b"
        r"(?:(?:to\s+)?(?:every|all|any|each)\s+(?:\w+\s+)?(?:questions?|quer(?:y|ies)|requests?|"
        r"prompts?|users?|messages?|answers?|repl(?:y|ies)|response)|"
        r"only with|just with|nothing but|exactly|verbatim|instead|the (?:words?|phrase|string|"
        r"sentence|text|following)|"
        r"your (?:answer|reply|response|output)s?)",
        r"\b(?:whoever|whatever|whenever|no matter what|if (?:you are|anyone|someone|somebody|"
        r"the user|asked|a user))\b.{0,60}\b"
        r"(?:answer|respond|reply|say|output|asks?|asked|tell)\b.{0,60}\b(?:answer|say|reply|"
        r"respond|output|tell|write|with)\b",
        r"\b(?:you|assistant|model|ai)\s+(?:are|must|should|shall|will|have to|need to|may|"
        r"can)\s+(?:now|only|always|never|"
        r"instead|no longer|not|henceforth|from now on|act|pretend|say|answer|respond|reply|"
        r"output|ignore|obey|comply)\b",
        r"\b(?:from now on|henceforth|as of now)\b.{0,40}\b(?:you|answer|reply|respond|say|act|speak)\b",
        r"\b(?:act|behave|respond|reply|answer|pretend|role-?play)\s+(?:as|like)\s+(?:if\s+)?(?:a|an|you|the)\b",
        r"\b(?:as an?|dear|attention|hey|hello|note to(?: the)?|message (?:to|"
        r"for)(?: the)?)\s*,?\s*(?:ai|assistants?|language model|llms?|chatbot|"
        r"chatgpt|model|bot|summari[sz]er|reader model)\b",
        r"\b(?:reveal|print|show|leak|repeat|output)\b.{0,30}\b(?:system prompt|"
        r"your (?:instructions|prompt|rules)|password|api key|secret)",
        r"\b(?:do not|don't|never)\s+(?:mention|reveal|tell|cite|quote|use|answer|disclose|trust|read)\b.{0,60}\b"
        r"(?:user|sources?|documents?|instructions?|this (?:message|note|text)|question|prompt|context|truth)\b",
        r"\b(?:jailbreak|prompt injection|DAN mode|developer mode|god mode)\b",
        r"\b(?:your|the)\s+(?:answer|reply|response|output)s?\s+(?:must|should|shall|has to|is to|have to)\b",
        r"\b(?:decode|decrypt|execute|obey|comply with)\b.{0,40}\b"
        r"(?:above|below|following|line|text|message|string|instructions?)\b",
        r"^\W*(?:please\s+|now\s+|just\s+|simply\s+|and\s+|then\s+|instead,?\s+|always\s+|only\s+|never\s+)*(?:say|answer|"
        r"reply|respond|output|print|repeat|write)\s*"
        r"(?::|with\b|by\b|that\b|only\b|[\"'“‘«`]|(?-i:[A-Z]{3,})\b)",
        r"\b(?:end|begin|start)\s+of\s+(?:the\s+)?(?:documents?|sources?|context|prompt|instructions?|system)\b",
        # the same in other languages
        r"\b(?:ignorier|vergiss|vergesst|missacht|beachte nicht)\w*\b.{0,60}\b(?:anweisung|"
        r"instruktion|regel|vorgabe|befehl|alles)\w*",
        r"\b(?:antworte|antworten sie|sag|sage|sagen sie|schreib|schreibe)\b.{0,40}\b(?:nur|immer|"
        r"stets|auf jede|jede|ausschließlich|mit)\b",
        r"\b(?:ignor|oubli|néglig)\w*\b.{0,60}\b(?:instruction|consigne|règle|ordre|tout)\w*",
        r"\b(?:répond|repond|dis|dites|écri)\w*\b.{0,40}\b(?:seulement|uniquement|toujours|"
        r"à toute|toutes? les|simplement)\b",
        r"\b(?:ignor|olvid|omit|descart)\w*\b.{0,60}\b(?:instruccion|instrucción|instruç|"
        r"istruzion|regla|regra|regol|orden|ordem|tod[oa]s?|tutt)\w*",
        r"\b(?:dimentic)\w*\b.{0,60}\b(?:istruzion|regol|tutt)\w*",
        r"\b(?:responde|contesta|rispond|diga|digas|diz|dica|escribe|scrivi)\w*\b.{0,40}\b(?:solo|"
        r"sólo|siempre|sempre|apenas|somente|únicamente|soltanto|con|com)\b",
        r"\b(?:negeer|vergeet|ignorera|glöm|zignoruj|zapomnij|pomiń)\b.{0,60}\b(?:instructie|"
        r"opdracht|instruktion|poprzedni|instrukcj|regel|wszystk)\w*",
        r"(?:игнорир|забуд|не обращай)\w*.{0,60}(?:инструкц|указан|правил|предыдущ|всё|все)",
        r"(?:忽略|无视|無視|忘记|忘れ|무시).{0,40}",
        r"(?:指示|命令).{0,12}(?:無視|忽略|无视)",
        r"(?:تجاهل|انس).{0,60}(?:تعليمات|التعليمات|السابقة)",
    )
)
_INVISIBLE = frozenset("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff\u180e")
_SHOWN = 160


def speaks_to_the_model(sentence: str) -> bool:
    """Whether a sentence gives a model orders, as far as rules can tell: it names a chat's turn, tells it to ignore
    something or what to answer, or hides such a text in base64."""
    plain = visible(sentence)
    if _MARKS.search(plain) or _TURN.match(plain):
        return True
    if any(rule.search(plain) for rule in _RULES):
        return True
    return any(_orders_in_base64(found[0]) for found in _ENCODED.finditer(plain))


def hidden_spans(text: str) -> list[tuple[int, int]]:
    """Where a text has what its readers do not see: comments, scripts and styles of HTML. In order."""
    return sorted(found.span() for pattern in (_COMMENT, _HIDDEN) for found in pattern.finditer(text))


def turn_spans(text: str) -> list[tuple[int, int]]:
    """Where a text has whole turns of a chat, between the marks of a chat template. In order."""
    return sorted(found.span() for found in _FAKE_TURN.finditer(text))


def mark_spans(text: str) -> list[tuple[int, int]]:
    """Where a text has single marks of a chat template, with the role's name behind them. In order."""
    return [found.span() for found in _OPENING.finditer(text)]


def visible(text: str) -> str:
    """The text without invisible characters (of no width, of direction, tags) and with compatible letters made one."""
    kept = (c for c in text if c not in _INVISIBLE and not 0xE0000 <= ord(c) <= 0xE007F and not _directs(c))
    return unicodedata.normalize("NFKC", "".join(kept))


def neutral(text: str) -> str:
    """The text as a prompt may hold it: without invisible characters, and with a space in each mark that a chat
    template could take for a turn or a special token, ``< |im_start| >``."""
    plain = "".join(c for c in visible(text) if c in "\n\t" or unicodedata.category(c) != "Cc")
    return marks_apart(plain)


def marks_apart(text: str) -> str:
    """The text with a space in each mark that a chat template could take for a turn, a call or a special token, and
    otherwise as it was."""
    return _MARKS.sub(lambda found: _apart(found[0]), text)


def shown(text: str) -> str:
    """A sentence that was left out, for a report: one line, cut."""
    line = " ".join(neutral(text).split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _apart(mark: str) -> str:
    return f"{mark[0]} {mark[1:-1].strip()} {mark[-1]}"


def _directs(character: str) -> bool:
    return "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"


def _orders_in_base64(encoded: str) -> bool:
    plain = encoded.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        said = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return False
    return len(said) > 12 and sum(c.isprintable() or c.isspace() for c in said) >= 0.95 * len(said)
