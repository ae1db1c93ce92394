"""Checks: rewards that can be verified, without a model. Each function here makes one, which gives 1 for a completion
that passes and 0 for one that does not (:func:`length` also what lies between).

Nothing of a prompt, a column or a completion is ever run as code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from scratchlm.alignment.arithmetic import calculated, same_number
from scratchlm.alignment.json_schemas import JsonSchema
from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer

Unit = Literal["words", "tokens", "characters"]


class MissingColumn(UserError):  # noqa: N818
    """The rows have no such column."""


@dataclass(frozen=True)
class Check:
    """A reward of each completion by itself.

    Raises:
        MissingColumn: when it is called, and the rows do not have its column.
    """

    name: str
    score: Callable[[str, str, Any], float]
    """Of a prompt, a completion and the column's value, or None."""
    column: str | None = None

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]) -> list[float]:
        values: Sequence[Any] = [None] * len(completions)
        if self.column is not None:
            if self.column not in columns:
                has = f"have: {', '.join(columns)}; name another" if columns else "have none but the prompt; name one"
                raise MissingColumn(
                    f"the check {self.name} reads the column {self.column!r}, and the rows {has} with column="
                )
            values = columns[self.column]
        rows = zip(prompts, completions, values, strict=True)
        return [float(self.score(prompt, completion, value)) for prompt, completion, value in rows]


def exact_answer(column: str = "answer", after: str = "") -> Check:
    """The completion is the column's text or number, but for case, white space and a full stop at the end.

    Args:
        after: only what follows the last of these texts counts, such as ``"####"``; without one there is no answer.
    """

    def plain(text: str) -> str:
        return " ".join(text.casefold().split()).removesuffix(".").rstrip()

    def score(_prompt: str, completion: str, answer: Any) -> bool:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise ValueError(f"the column {column!r} has {answer!r}, which is no answer")
        _, found, given = completion.rpartition(after) if after else ("", "-", completion)
        return bool(found) and plain(given) == plain(str(answer))

    return Check("exact_answer", score, column)


def arithmetic(column: str | None = None) -> Check:
    """The last number of the completion is what an expression comes to: the last one of the prompt, or the column's.

    Expressions have numbers, ``+ - * /`` (also ``× ÷ −``) and brackets, and are worked out exactly. A result without an
    end as a decimal may be rounded, to two places or more.
    """

    def score(prompt: str, completion: str, value: Any) -> bool:
        given: Any = prompt if column is None else value
        result = Fraction(given) if isinstance(given, int) and not isinstance(given, bool) else calculated(str(given))
        return same_number(completion, result)

    return Check("arithmetic", score, column)


def regex(pattern: str, whole: bool = False) -> Check:
    """The regular expression is found in the completion, or with ``whole`` fits all of it but white space around.

    A pattern with nested repetitions can take very long at some texts; avoid such.

    Raises:
        UserError: it is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"the check regex has {pattern!r}, which is no regular expression: {error}") from error

    def score(_prompt: str, completion: str, _value: Any) -> bool:
        return (compiled.fullmatch(completion.strip()) if whole else compiled.search(completion)) is not None

    return Check("regex", score)


def json_schema(schema: Mapping[str, Any] | str | None = None, column: str | None = None) -> Check:
    """The completion is JSON, and nothing else, and fits a schema.

    Args:
        schema: as a mapping, as JSON, or the name of a JSON file; :class:`~scratchlm.alignment.json_schemas.JsonSchema`
            says what it may use.
        column: has the schema of each row instead, as a mapping or as JSON.

    Raises:
        UserError: neither is given or both are, or it is a schema that cannot be checked.
    """
    if (schema is None) == (column is None):
        raise UserError("the check json_schema needs a schema or a column that has them; give one of the two")
    fixed = None if schema is None else JsonSchema.of(_schema_text(schema))

    def score(_prompt: str, completion: str, value: Any) -> bool:
        return (JsonSchema.of(value) if fixed is None else fixed).fits_text(completion)

    return Check("json_schema", score, column)


def _schema_text(schema: Mapping[str, Any] | str) -> Mapping[str, Any] | str:
    if not isinstance(schema, str) or schema.lstrip().startswith("{"):
        return schema
    try:
        return Path(schema).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"the schema {schema!r} is no JSON object and no file that can be read; give one") from error


def length(
    target: int | None = None, most: int | None = None, unit: Unit = "words", tokenizer: Tokenizer | None = None
) -> Check:
    """How near the completion is to ``target`` words: 1 there, and in proportion less to 0 at none or twice as many. Or
    whether it has ``most`` words at most: 1, and above that in proportion less to 0 at twice as many.

    Args:
        unit: what is counted: "words" (between white space), "tokens" or "characters".
        tokenizer: counts tokens.

    Raises:
        UserError: not one of ``target`` and ``most``, or no such unit.
    """
    wanted = target if most is None else most
    if (target is None) == (most is None):
        raise UserError("the check length needs target or most; give one of the two")
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise UserError(f"the check length has {wanted!r}; give a whole number of at least 1")
    if unit not in get_args(Unit):
        raise UserError(f"the check length counts {', '.join(get_args(Unit))}, not {unit!r}")
    if unit == "tokens" and tokenizer is None:
        raise UserError("the check length has no tokenizer to count tokens with; count words or characters")

    def count(text: str) -> int:
        if unit == "tokens":
            assert tokenizer is not None
            return len(tokenizer.encode(text))
        return len(text.split() if unit == "words" else text)

    def score(_prompt: str, completion: str, _value: Any) -> float:
        off = count(completion) - wanted
        return max(0.0, 1.0 - (abs(off) if most is None else max(off, 0)) / wanted)

    return Check("length", score)


def banned_words(words: Sequence[str]) -> Check:
    """None of the words, or phrases, is in the completion, as a word of its own and in whatever case.

    Raises:
        UserError: no words, or something else among them.
    """
    if isinstance(words, str) or not words or not all(isinstance(one, str) and one.strip() for one in words):
        raise UserError(f"the check banned_words has {words!r}; give a list of words")
    parts = (r"\s+".join(map(re.escape, one.casefold().split())) for one in words)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")

    def score(_prompt: str, completion: str, _value: Any) -> bool:
        return pattern.search(completion.casefold()) is None

    return Check("banned_words", score)


CHECKS: dict[str, Callable[..., Check]] = {
    "exact_answer": exact_answer,
    "arithmetic": arithmetic,
    "regex": regex,
    "json_schema": json_schema,
    "length": length,
    "banned_words": banned_words,
}
"""By name."""
