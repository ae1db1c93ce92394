"""The families of tasks: how a template of each becomes a question, its answer and the calls that find it."""

from __future__ import annotations

import ast
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from scratchlm.agents.calculator import calculate, shown_number
from scratchlm.agents.dates import add_to_date, days_between, weekday
from scratchlm.agents.teaching.task import Kind, Result, Row, Step, Task, Text
from scratchlm.agents.teaching.templates import Slots, Split, Template, read_templates, words
from scratchlm.agents.units import convert

FAMILIES = ("arithmetic", "tables", "dates", "units", "documents", "no_tool")
_TRIES = 2000
"""Draws until the numbers of a question give a whole, positive result and the like."""
_ROWS, _COLUMNS = 8, 4


@dataclass(frozen=True)
class Table:
    """Rows about things of one kind."""

    kind: str
    kinds: str
    rows: tuple[Row, ...]
    ranges: tuple[str, ...]
    """The columns that hold numbers."""

    @property
    def names(self) -> str:
        """The column that says which thing a row is about."""
        return next(iter(self.rows[0]))


@dataclass(frozen=True)
class Fact:
    """Something that a document says."""

    template: Template
    document: int
    query: str
    question: str
    answer: str


@dataclass(frozen=True)
class World:
    """What tasks can look things up in."""

    table: Table
    documents: tuple[Text, ...]
    facts: tuple[Fact, ...]


@dataclass
class Draft:
    """A question that may still turn out to be unfit."""

    question: str
    answer: str
    kind: Kind
    steps: Sequence[Step]


class Unfit(Exception):  # noqa: N818 - the next draw may be good
    """The drawn values do not make a good question."""


def make_task(template: Template, random: Random, world: World) -> Task:
    """A task of a template. Values are drawn until they fit.

    Raises:
        RuntimeError: none were found.
    """
    for _ in range(_TRIES):
        slots = Slots(random, template.split)
        try:
            draft = _MAKERS[template.family](template, slots, world)
        except Unfit:
            continue
        question = draft.question[0].upper() + draft.question[1:]
        told = (question, draft.answer, draft.kind, template.family, template.name, tuple(draft.steps))
        return Task(*told, world.table.rows, world.documents)
    raise RuntimeError(f"the template {template.name} has no values that fit it")


def _arithmetic(template: Template, slots: Slots, world: World) -> Draft:  # noqa: ARG001
    formula, text = template.parts
    names = [node for node in ast.walk(ast.parse(formula)) if isinstance(node, ast.Name)]
    expression = formula
    for node in sorted(names, key=lambda node: -node.col_offset):
        expression = expression[: node.col_offset] + str(slots[node.id]) + expression[node.end_col_offset :]
    value = calculate(expression)
    if value <= 0 or (value * 100).denominator != 1 or ("m" not in formula and value.denominator != 1):
        raise Unfit  # money has cents; people, things and the rest are whole
    return Draft(slots.fill(text), shown_number(value), "number", [Step("calculator", {"expression": expression})])


def _dates(template: Template, slots: Slots, world: World) -> Draft:  # noqa: ARG001
    call, text = template.parts
    steps: list[Step] = []
    value = _worked_out(ast.parse(call, mode="eval").body, slots, steps)
    kind: Kind = "date" if isinstance(value, datetime.date) else "text" if isinstance(value, str) else "number"
    return Draft(slots.fill(text), str(value), kind, steps)


_FUNCTIONS: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "days_between": (days_between, ("start", "end")),
    "weekday": (weekday, ("date",)),
    "add_to_date": (add_to_date, ("date",)),
}


def _worked_out(node: ast.expr, slots: Slots, steps: list[Step]) -> Any:
    """The value of a call of the dates' functions, whose steps are added to ``steps``."""
    if isinstance(node, ast.Name):
        return slots[node.id]
    if isinstance(node, ast.UnaryOp):
        return -_worked_out(node.operand, slots, steps)
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    function, names = _FUNCTIONS[node.func.id]
    parts = [*zip(names, node.args, strict=False), *((one.arg or "", one.value) for one in node.keywords)]
    values, told = {}, {}
    for name, part in parts:
        values[name] = _worked_out(part, slots, steps)
        shown = str(values[name]) if isinstance(values[name], datetime.date) else values[name]
        told[name] = Result(len(steps) - 1) if isinstance(part, ast.Call) else shown
    steps.append(Step(node.func.id, told))
    return function(**values)


def _units(template: Template, slots: Slots, world: World) -> Draft:  # noqa: ARG001
    kind, text = template.parts
    kinds = ("length", "mass", "volume", "time", "speed", "area", "energy", "data")
    known = [word for word, _ in words(slots.random.choice(kinds) if kind == "any" else kind, slots.split)]
    slots.values["u"], slots.values["w"] = unit, to = slots.random.sample(known, 2)
    amount = slots["v"]
    if kind == "temperature":
        amount = slots.values["v"] = str(slots.random.randint(-20 if unit != "kelvin" else 200, 400))
    answer = convert(float(amount), unit, to).split()[0]
    if "e" in answer or not 0.001 < abs(float(answer)) < 1e9:
        raise Unfit
    value = float(amount) if "." in amount else int(amount)
    step = Step("convert", {"value": value, "unit": unit, "to": to})
    return Draft(slots.fill(text), answer, "rounded", [step])


def _tables(template: Template, slots: Slots, world: World) -> Draft:
    head, text = template.parts
    table, call = world.table, head.partition("(")[0]
    mark, _, name = call.rpartition(" ")
    others = [column for column in table.rows[0] if column != table.names]
    column = slots.random.choice(others if mark != "number" else table.ranges)
    first, second = slots.random.sample(range(len(table.rows)), 2)
    values = [row[column] for row in table.rows]
    value, other = values[first], values[second]
    if (mark == "unique" and values.count(value) > 1) or (name == "difference" and value <= other):
        raise Unfit
    x, y = (str(table.rows[row][table.names]) for row in (first, second))
    slots.values |= {"x": x, "y": y, "column": column.replace("_", " "), "value": value}
    slots.values |= {"kind": table.kind, "kinds": table.kinds}
    shown = [Step("lookup", {"column": table.names, "value": one, "show": column}) for one in (x, y)]
    if name == "find":
        step = Step("lookup", {"column": column, "value": str(value), "show": table.names})
        return Draft(slots.fill(text), x, "text", [step])
    if name == "lookup":
        return Draft(slots.fill(text), str(value), "number" if isinstance(value, int) else "text", shown[:1])
    ways: dict[str, tuple[list[Step], str, int]] = {
        "sum": (shown, "{0} + {1}", value + other),
        "difference": (shown, "{0} - {1}", value - other),
        "times": (shown[:1], f"{slots['k']} * {{0}}", value * slots["k"]),
    }
    steps, expression, answer = ways[name]
    steps = [*steps, Step("calculator", {"expression": expression})]
    return Draft(slots.fill(text), str(answer), "number", steps)


def _documents(template: Template, slots: Slots, world: World) -> Draft:
    known = [fact for fact in world.facts if fact.template == template]
    fact = slots.random.choice(known)
    kind: Kind = "number" if fact.answer.isdecimal() else "text"
    return Draft(fact.question, fact.answer, kind, [Step("search_documents", {"query": fact.query, "count": 1})])


def _no_tool(template: Template, slots: Slots, world: World) -> Draft:  # noqa: ARG001
    wanted, text = template.parts
    question = slots.fill(text)
    answers: dict[str, Callable[[], str]] = {
        "upper": lambda: next(str(slots[one]) for one in ("animal", "fruit") if one in slots.values).upper(),
        "opposite": lambda: slots.answers["adjective"],
        "young": lambda: slots.answers["parent"],
        "capital": lambda: slots.answers["country"],
        "sound": lambda: slots.answers["sound"],
        "hello": lambda: f"Hello, {slots['name']}!",
        "thanks": lambda: f"Thank you for the flowers, {slots['name']}!",
        "repeat": lambda: str(slots["sentence"]),
        "first": lambda: str(slots["sentence"]).split()[0],
        "last": lambda: str(slots["sentence"]).rstrip(".").split()[-1],
        "plural": lambda: f"{slots['noun']}{'es' if slots['noun'].endswith('x') else 's'}",
    }
    answer = answers[wanted]() if wanted in answers else str(slots[wanted])
    return Draft(question, answer, "text", [])


_MAKERS: Mapping[str, Callable[[Template, Slots, World], Draft]] = {
    "arithmetic": _arithmetic,
    "tables": _tables,
    "dates": _dates,
    "units": _units,
    "documents": _documents,
    "no_tool": _no_tool,
}


def make_table(theme: Template, random: Random) -> Table:
    """A table of a theme, with some of its columns."""
    kind, kinds, names, rest = theme.parts
    key, made = names.split()
    columns = dict(one.split() for one in rest.split(", "))
    chosen = [""]
    while not any("-" in columns.get(one, "") for one in chosen):  # sums need a column of numbers
        chosen = sorted(random.sample(sorted(columns), _COLUMNS - 1), key=list(columns).index)
    rows: list[Row] = []
    while len(rows) < _ROWS:
        slots = Slots(random, theme.split)
        row: dict[str, Any] = {key: slots[made]}
        for column in chosen:
            low, dash, high = columns[column].partition("-")
            again = Slots(random, theme.split)  # a name in two columns is not the same one
            row[column] = again.number(int(low), int(high)) if dash else again[columns[column]]
        if all(row[key] != other[key] for other in rows):
            rows.append(row)
    ranges = tuple(column for column in chosen if "-" in columns[column])
    return Table(kind, kinds, tuple(rows), ranges)


def make_documents(split: Split, random: Random, count: int) -> tuple[tuple[Text, ...], tuple[Fact, ...]]:
    """Documents about invented things, and the facts that they hold."""
    templates = [one for one in read_templates("documents") if one.split == split]
    subjects = list(dict.fromkeys(one.subject for one in templates))
    texts, facts = [], []
    for number in range(count):
        title, opening = subjects[number % len(subjects)]
        about = Slots(random, split)
        name = about.fill(title)
        about.values["T"] = name
        sentences: list[str] = []
        for template in (one for one in templates if one.subject == (title, opening)):
            sentence, question, answer = template.parts
            own = replace(about, values={k: v for k, v in about.values.items() if k in ("T", "X", "Y", "person")})
            if "{person}" not in title:
                own.values.pop("person", None)
            own.values["n"] = own.number(4, 900)
            if not sentences:
                sentences.append(about.fill(opening))
            own.values |= {key: about.values[key] for key in ("Y", "city") if key in about.values}
            sentences.append(own.fill(sentence))
            told = name.removeprefix("the ")
            facts.append(Fact(template, number, told, own.fill(question), own.fill(answer)))
        first, *others = sentences
        random.shuffle(others)
        text = " ".join(one[0].upper() + one[1:] for one in (first, *others))
        texts.append(Text(f"{name.removeprefix('the ').lower().replace(' ', '-')}.md", text))
    return tuple(texts), tuple(facts)
