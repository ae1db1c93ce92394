"""Tasks: whole questions, right answers, and templates that are in one part alone."""

from __future__ import annotations

import ast
import datetime
import operator
import re
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest

from scratchlm import UserError
from scratchlm.agents.call_format import format_of
from scratchlm.agents.teaching.answers import check, dates_in, numbers_in
from scratchlm.agents.teaching.families import FAMILIES
from scratchlm.agents.teaching.task import Task
from scratchlm.agents.teaching.tasks import make_tasks, tools_of
from scratchlm.agents.teaching.templates import SPLITS, Split, read_templates, words
from scratchlm.agents.teaching.traces import rows_of, trace_of

from ..chat_tokenizers import chatty

COUNT = 120
EVERY: dict[Split, list[Task]] = {split: make_tasks(split, COUNT) for split in SPLITS}
TASKS = [task for tasks in EVERY.values() for task in tasks]
SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def worked_out(node: Any) -> Fraction:
    """Python's own reading of an expression."""
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    left, right = worked_out(node.left), worked_out(node.right)
    return Fraction(SIGNS[type(node.op)](left, right))


def test_the_same_seed_makes_the_same_tasks() -> None:
    assert make_tasks("train", 60, 3) == make_tasks("train", 60, 3)
    assert make_tasks("train", 60, 3) != make_tasks("train", 60, 4)


@pytest.mark.parametrize("split", SPLITS)
def test_each_family_has_its_share_and_each_template_its_turn(split: Split) -> None:
    tasks = EVERY[split]
    assert Counter(task.family for task in tasks) == dict.fromkeys(FAMILIES, COUNT // len(FAMILIES))
    for family in FAMILIES:
        known = [one.name for one in read_templates(family) if one.split == split]
        used = Counter(task.template for task in tasks if task.family == family)
        assert set(used) <= set(known)
        assert max(used.values()) - min(used[name] for name in known) <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_template_makes_tasks_that_its_steps_solve(family: str) -> None:
    for split in SPLITS:
        count = sum(one.split == split for one in read_templates(family))
        tasks = make_tasks(split, count, 7, {family: 1.0})
        assert len({task.template for task in tasks}) == count
        for task in tasks:
            messages = trace_of(task)
            assert check(task, messages[-1]["content"])
            assert not task.steps or not messages[-2]["content"].startswith("error")


def test_more_of_a_family_can_be_asked_for() -> None:
    found = Counter(task.family for task in make_tasks("train", 100, shares={"dates": 3, "units": 1}))
    assert found == {"dates": 75, "units": 25}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_many_templates_and_those_of_the_test_are_others(family: str) -> None:
    parts = {split: [one for one in read_templates(family) if one.split == split] for split in SPLITS}
    assert len(parts["train"]) >= 25
    assert len(parts["test"]) >= 10
    texts = [
        {" ".join(one.parts[-1 if family != "documents" else 1].lower().split()) for one in parts[s]} for s in SPLITS
    ]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]


@pytest.mark.parametrize("kind", ["name", "things", "city", "animal", "adjective", "country", "noun"])
def test_training_leaves_out_words_and_has_others(kind: str) -> None:
    train, test = words(kind, "train"), words(kind, "test")
    left_out = set(test) - set(train)
    assert len(left_out) == len(test) // 4
    assert words(kind, "validation") == test
    assert len(set(train)) == len(train)
    for word, answer in left_out:  # nor the other way round
        assert (answer, word) not in train or word == answer
    more = {*train} - {*test}
    assert bool(more) == (kind not in ("name", "city"))


def test_of_some_traces_only_the_first_call_is_told() -> None:
    tasks = make_tasks("train", 24, 5, {"arithmetic": 1.0, "tables": 1.0})
    form = format_of(chatty())
    rows, cut = rows_of(tasks, form), rows_of(tasks, form, {"arithmetic": 4})
    assert len(cut) == len(rows) == 24
    by_question = {row["messages"][1]["content"]: row["messages"] for row in cut}
    for task in tasks:
        messages = form.prompt(trace_of(task), [tool.schema() for tool in tools_of(task)])[0]
        assert by_question[task.question] in (messages, messages[:3])
    brief = [row for row in cut if len(row["messages"]) == 3]
    assert len(brief) == 9
    assert all("calculator" in row["messages"][-1]["content"] for row in brief)


@pytest.mark.parametrize("task", TASKS[::3], ids=lambda task: task.template)
def test_a_question_is_whole_and_its_answer_right(task: Task) -> None:
    assert not re.search(r"[{}\[\]|]", task.question)
    assert task.question[0] == task.question[0].upper()
    assert check(task, task.answer)
    assert not check(task, "")
    assert not check(task, "I do not know.")
    assert len(tools_of(task)) == 8


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.template)
def test_the_tools_lead_to_the_answer(task: Task) -> None:
    messages = trace_of(task)
    assert messages[0] == {"role": "user", "content": task.question}
    assert messages[-1] == {"role": "assistant", "content": task.answer}
    assert [message["role"] for message in messages[1:-1]] == ["assistant", "tool"] * len(task.steps)
    results = [message["content"] for message in messages if message["role"] == "tool"]
    assert not any(result.startswith("error") for result in results)
    if task.family == "no_tool":
        assert results == []
    elif task.family == "documents":
        assert task.answer in results[-1]
    else:
        assert check(task, results[-1])


@pytest.mark.parametrize("task", [one for one in TASKS if one.family == "arithmetic"], ids=lambda task: task.template)
def test_sums_are_what_python_says_and_their_numbers_are_in_the_question(task: Task) -> None:
    expression = task.steps[0].arguments["expression"]
    assert worked_out(ast.parse(expression, mode="eval").body) == Fraction(task.answer)
    asked = numbers_in(task.question)
    constants = {Fraction(2), Fraction(3), Fraction(100)}  # of a fence, a mean and a percentage
    assert set(numbers_in(expression.replace("- ", "+ "))) <= {*asked, *constants}


@pytest.mark.parametrize("task", [one for one in TASKS if one.family == "dates"], ids=lambda task: task.template)
def test_dates_are_those_of_the_question(task: Task) -> None:
    asked = {day.isoformat() for day in dates_in(task.question)}
    given = {value for step in task.steps for value in step.arguments.values() if isinstance(value, str)}
    assert given <= asked
    days = [datetime.date.fromisoformat(one) for one in sorted(given)]
    if task.steps[0].tool == "days_between":
        assert str((days[1] - days[0]).days) == task.answer
    if [step.tool for step in task.steps] == ["weekday"]:
        assert days[0].strftime("%A") == task.answer


@pytest.mark.parametrize("task", [one for one in TASKS if one.family == "tables"], ids=lambda task: task.template)
def test_look_ups_are_of_the_tasks_own_table(task: Task) -> None:
    columns = set(task.table[0])
    for step in task.steps:
        if step.tool == "lookup":
            found = [row for row in task.table if str(row[step.arguments["column"]]) == step.arguments["value"]]
            assert len(found) == 1
            assert step.arguments["show"] in columns


@pytest.mark.parametrize(("split", "count"), [("training", 3), ("train", 0)])
def test_no_such_tasks(split: Any, count: int) -> None:
    with pytest.raises(UserError, match="train, validation, test"):
        make_tasks(split, count)
