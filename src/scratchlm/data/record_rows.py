"""The forms that rows come in, and what makes a row of each a good one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Task = Literal["lm", "prompt", "chat", "classify", "tag", "embed", "preference", "kto", "rollout"]
ALIGNED: tuple[Task, ...] = ("preference", "kto", "rollout")
"""Tasks of an alignment, whose rows say what is better, or only what is asked."""
Values = Mapping[str, Any]
_ROLES = {
    "system": "system", "developer": "developer", "tool": "tool", "function": "tool", "observation": "tool",
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant",
}  # fmt: skip
"""Of a message, with the names that others give them."""
_MOST_NEGATIVES = 64
"""Of one row."""
_MAY_BE_EMPTY = ("system", "developer", "tool")


class BadRow(Exception):  # noqa: N818 - it is no error of the program's
    """What is wrong with a row."""


@dataclass(frozen=True)
class Record:
    """A checked row. What it holds depends on the task; the rest is empty."""

    place: str = ""
    """Such as "reviews.csv, line 3"."""
    text: str = ""
    """A plain text, the completion of a prompt, or what is to be classified."""
    prompt: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas, for chats."""
    tokens: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """The one label, or each token's tag; for "kto", whether the completion is a good one: "true" or "false"."""
    texts: tuple[str, ...] = ()
    """For "embed": a text, the one that belongs to it, and any that do not. For "preference": the chosen and the
    rejected completion of ``prompt``, or the chosen and the rejected answer to ``messages``."""
    margin: float = 0.0
    """For "preference": by how much the chosen one is better, where that is known."""
    rating: float | None = None
    """Of a text of which pairs are still to be made."""
    extra: dict[str, Any] = field(default_factory=dict)
    """For "rollout": all other columns, for the rewards."""


@dataclass(frozen=True)
class Shape:
    """A form of rows: the parts it needs, those it may have, and how a row is read."""

    name: str
    task: Task
    """What it is for if nobody says."""
    needs: tuple[str, ...]
    read: Callable[[Values, Mapping[str, str], Task], Record]
    """Of a row's values, which column each part has, and the task.

    Raises:
        BadRow: it says the field and what is wrong.
    """
    may: tuple[str, ...] = ()
    also: tuple[Task, ...] = ()
    """Other tasks that it can serve."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (self.task, *self.also)

    def columns(self, present: list[str], wanted: Mapping[str, str]) -> dict[str, str] | None:
        """The column of each part, or None where one that is needed has none, or one that is wanted no part."""
        if not set(wanted) <= {*self.needs, *self.may}:
            return None
        by_name = {name.lower(): name for name in reversed(present) if name not in wanted.values()}
        found: dict[str, str] = {}
        for role in (*self.needs, *self.may):
            names = [by_name[name] for name in (role, *_OTHER_NAMES.get(role, ())) if name in by_name]
            column = wanted.get(role) or (names[0] if names else None)
            if column is not None:
                found[role] = column
            elif role in self.needs:
                return None
        return found


_OTHER_NAMES = {
    "text": ("sentence", "review", "content"),
    "label": ("labels", "class", "sentiment"),
    "completion": ("response",),
    "output": ("response",),
    "tokens": ("words",),
    "tags": ("ner_tags", "labels"),
    "query": ("question",),
    "passage": ("positive", "answer", "document"),
    "negative": ("negatives", "hard_negative", "hard_negatives"),
    "match": ("label", "score"),
}
"""Other names under which a part's column is found."""


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def field_of(values: Values, column: str) -> Any:
    if column not in values:
        raise BadRow(f"the field {column!r} is missing")
    if values[column] is None:
        raise BadRow(f"{column!r} is null")
    return values[column]


def checked_text(value: Any, name: str, *, empty: bool = False) -> str:
    """A text with something in it."""
    if not isinstance(value, str):
        raise BadRow(f"{name} is {shown(value)}, which is no text")
    if not empty and not value.strip():
        raise BadRow(f"{name} is empty")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow(f"{name} is not UTF-8 (character {error.start + 1:,})") from error
    return value


def text_of(values: Values, column: str, *, empty: bool = False) -> str:
    return checked_text(field_of(values, column), repr(column), empty=empty)


def label_of(value: Any, name: str) -> str:
    """Of names and whole numbers, in whatever type; others are no classes."""
    if isinstance(value, float):
        if math.isnan(value):
            raise BadRow(f"{name} is NaN")
        if not value.is_integer():
            raise BadRow(f"{name} is {value:g}, which is no class; give whole numbers or names")
        value = int(value)
    if isinstance(value, bool | int):
        return str(value)
    text = checked_text(value, name).strip()
    if text.lower() == "nan":
        raise BadRow(f"{name} is NaN")
    return text


def _plain(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    return Record(text=text_of(values, columns["text"]))


def _classified(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    label = label_of(field_of(values, columns["label"]), repr(columns["label"]))
    return Record(text=text_of(values, columns["text"]), labels=(label,))


def _answered(prompt: str, completion: str, task: Task, system: str = "") -> Record:
    if task != "chat":
        return Record(prompt=prompt, text=completion)
    first = ({"role": "system", "content": system},) if system else ()
    turns = {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}
    return Record(messages=(*first, *turns))


def _completed(values: Values, columns: Mapping[str, str], task: Task) -> Record:
    return _answered(text_of(values, columns["prompt"]), text_of(values, columns["completion"]), task)


def _question(values: Values, columns: Mapping[str, str], task: Task) -> Record:
    question, answer = (text_of(values, columns[role]) for role in ("question", "answer"))
    if task == "chat":
        return _answered(question, answer, task)
    return _answered(f"Question: {question.strip()}\nAnswer:", f" {answer.strip()}", task)


def _instructed(values: Values, columns: Mapping[str, str], task: Task) -> Record:
    """Alpaca's form (Taori et al. 2023), without its first sentence."""
    instruction, output = (text_of(values, columns[role]) for role in ("instruction", "output"))
    given, system = (
        text_of(values, columns[role], empty=True) if values.get(columns.get(role, "")) is not None else ""
        for role in ("input", "system")
    )
    if task == "chat":
        return _answered(f"{instruction}\n\n{given}" if given.strip() else instruction, output, task, system)
    parts = [
        f"### Instruction:\n{instruction}",
        *([f"### Input:\n{given}"] if given.strip() else []),
        "### Response:\n",
    ]
    return _answered("\n\n".join([*([system] if system.strip() else []), *parts]), output, task)


def _chatted(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    column = columns["messages"] if "messages" in columns else columns["conversations"]
    given = listed(field_of(values, column), column)
    messages = tuple(message_of(one, f"{column!r}, message {number},") for number, one in enumerate(given, 1))
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRow(f"{column!r} has no turn of the assistant, so there is nothing to learn")
    tools: list[Any] = []
    if "tools" in columns and values.get(columns["tools"]):
        tools = listed(values[columns["tools"]], columns["tools"])
        if not all(isinstance(tool, dict) for tool in tools):
            raise BadRow(f"{columns['tools']!r} is no list of objects")
    return Record(messages=messages, tools=tuple(tools))


def listed(value: Any, column: str) -> list[Any]:
    """A list, or its JSON, as a table of texts has it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{column!r} is a text, and no JSON in it; give a list") from error
    if not isinstance(value, list):
        raise BadRow(f"{column!r} is {shown(value)}, which is no list")
    if not value:
        raise BadRow(f"{column!r} is empty")
    return value


def message_of(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise BadRow(f'{where} is {shown(given)}; write {{"role": "user", "content": "..."}}')
    message = {key: value for key, value in given.items() if value is not None}
    for ours, others in (("role", "from"), ("content", "value")):
        if ours not in message and others in message:
            message[ours] = message.pop(others)
    role = message.get("role")
    if role is None:
        raise BadRow(f"{where} has no role")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise BadRow(f"{where} has the role {shown(role)}; write system, user, assistant or tool")
    message["role"] = role = _ROLES[role.lower()]
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if content is None and not message.get("tool_calls"):
        raise BadRow(f"{where} has no content")
    may_be_empty = role in _MAY_BE_EMPTY or bool(message.get("tool_calls"))
    return {
        **message,
        "content": checked_text("" if content is None else content, f"{where} content", empty=may_be_empty),
    }


def _tagged(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    found: list[list[Any]] = []
    for role in ("tokens", "tags"):
        value = field_of(values, columns[role])
        value = value.split() if isinstance(value, str) else value
        if not isinstance(value, list):
            raise BadRow(f"{columns[role]!r} is {shown(value)}, which is no list")
        found.append(value)
    tokens, tags = found
    if len(tokens) != len(tags):
        raise BadRow(f"{columns['tokens']!r} has {len(tokens)} and {columns['tags']!r} {len(tags)}; give each a tag")
    if not tokens:
        raise BadRow(f"{columns['tokens']!r} is empty")
    return Record(
        tokens=tuple(checked_text(one, f"{columns['tokens']!r}, number {n},") for n, one in enumerate(tokens, 1)),
        labels=tuple(label_of(one, f"{columns['tags']!r}, number {n},") for n, one in enumerate(tags, 1)),
    )


def _paired(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    """Two texts that belong together, which are the first two parts, and any number of texts that do not."""
    match = values.get(columns.get("match", ""))
    if match is not None and match not in (1, "1", "1.0", "true", "True"):
        raise BadRow(f"{columns['match']!r} is {shown(match)}, and texts are learned from that belong together (1)")
    first, second = (text_of(values, columns[role]) for role in list(columns)[:2])
    given = values.get(columns.get("negative", ""))
    others = given if isinstance(given, list) else [] if given in (None, "") else [given]
    named = (checked_text(other, f"{columns['negative']!r}, number {n},") for n, other in enumerate(others, 1))
    texts = first, second, *named
    if len(texts) > _MOST_NEGATIVES + 2:
        raise BadRow(f"{columns['negative']!r} has {len(texts) - 2:,} texts; give at most {_MOST_NEGATIVES}")
    if second in texts[2:]:
        raise BadRow(f"{columns['negative']!r} has the text that belongs to the first; leave it out there")
    return Record(texts=texts)


SHAPES = (
    Shape("messages", "chat", ("messages",), _chatted, ("tools",)),
    Shape("conversations", "chat", ("conversations",), _chatted, ("tools",)),
    Shape(
        "instruction + output", "prompt", ("instruction", "output"), _instructed, ("input", "system"), ("chat", "lm")
    ),
    Shape("prompt + completion", "prompt", ("prompt", "completion"), _completed, (), ("chat", "lm")),
    Shape("question + answer", "prompt", ("question", "answer"), _question, (), ("chat", "lm")),
    Shape("tokens + tags", "tag", ("tokens", "tags"), _tagged),
    Shape("anchor + positive", "embed", ("anchor", "positive"), _paired, ("negative",)),
    Shape("query + passage", "embed", ("query", "passage"), _paired, ("negative",)),
    Shape("sentence1 + sentence2", "embed", ("sentence1", "sentence2"), _paired, ("negative", "match")),
    Shape("text + label", "classify", ("text", "label"), _classified),
    Shape("text", "lm", ("text",), _plain),
)
"""In the order in which they are tried."""
