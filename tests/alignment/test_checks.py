"""Checks: what passes, what does not, and that nothing of a completion can do harm."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from scratchlm.alignment.arithmetic import calculated
from scratchlm.alignment.checks import (
    CHECKS,
    arithmetic,
    banned_words,
    exact_answer,
    json_schema,
    length,
    regex,
)
from scratchlm.alignment.json_schemas import JsonSchema
from scratchlm.errors import UserError
from scratchlm.tokenizers import train_tokenizer


@pytest.mark.parametrize(
    ("completion", "answer", "passes"),
    [
        ("Paris", "paris", True),
        ("  The  Eiffel\nTower. ", "the eiffel tower", True),
        ("12", 12, True),
        ("12.", 12, True),
        ("Paris, France", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_an_exact_answer_is_the_column_but_for_case_and_spaces(completion: str, answer: Any, passes: bool) -> None:
    assert exact_answer()(["?"], [completion], answer=[answer]) == [float(passes)]


def test_an_exact_answer_can_stand_behind_a_mark() -> None:
    check = exact_answer("gold", after="####")
    completions = ["3 and 4\n#### 7", "#### 6 no #### 7", "7", "#### 7 #### 6"]
    assert check([""] * 4, completions, gold=["7"] * 4) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("answer", [None, "", " ", True, ["7"]])
def test_a_column_without_an_answer_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"the column 'answer' has .*, which is no answer"):
        exact_answer()(["?"], ["7"], answer=[answer])


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("What is 23 + 45?", 68),
        ("2 * (3 + 4) =", 14),
        ("2*(3+4)-10/4", Fraction(23, 2)),
        ("1 - 2 - 3", -4),
        ("12 / 3 / 2", 2),
        ("-3 + 5", 2),
        ("2 - -3", 5),
        ("3 x 4", 12),
        ("3 × 4 ÷ 6 − 1", 1),
        ("1,000 + 0.5", Fraction(2001, 2)),
        ("1 + 1 = 2\n3 + 4 =", 7),
        ("Add 007 + 1.", 8),
        ("Problem 3: 5 - 7", -2),
    ],
)
def test_the_last_expression_is_worked_out_exactly(text: str, result: Any) -> None:
    assert calculated(text) == result


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no expression in ''"),
        ("Who are you?", "there is no expression"),
        ("7", "there is no expression"),
        ("1 / 0", "divides by zero"),
        ("1 / (2 - 2)", "divides by zero"),
        ("2 ** 99999999", "is no expression"),
        ("9" * 60 + " + 1", "has a number of 60 digits"),
        ("(" * 30 + "1 + 1" + ")" * 30, "nested too deeply"),
        ("1" + " + 1" * 100, "is too long"),
        ("(1 + 2", "has a bracket that is not closed"),
        ("1 + 2)", "is no expression"),
        ("1 2 + 3", "is no expression"),
        ("__import__('os').system('true') + exit()", "there is no expression"),
    ],
)
def test_what_is_no_expression_is_refused_and_never_run(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        calculated(text)


@pytest.mark.parametrize(
    ("prompt", "completion", "passes"),
    [
        ("2 + 3 =", " 5", True),
        ("2 + 3 =", "2 and 3 make 5.", True),
        ("2 + 3 =", "5, not 6", False),
        ("2 + 3 =", "five", False),
        ("2 + 3 =", "", False),
        ("2 + 3 =", "15", False),
        ("2 - 6 =", "-4", True),
        ("2 - 6 =", "−4", True),
        ("2 - 6 =", "2-6=-4", True),
        ("2 - 6 =", "4", False),
        ("10 - 6 =", "10-4", True),
        ("999 + 1 =", "1,000", True),
        ("1 / 8 =", "0.125", True),
        ("1 / 8 =", "0.13", False),
        ("1 / 3 =", "0.33", True),
        ("2 / 3 =", "0.67", True),
        ("2 / 3 =", "0.7", False),
        ("2 / 3 =", "0.66", False),
        ("2 + 3 =", "5.0", True),
        ("2 + 3 =", "9" * 100_000, False),
        ("2 + 3 =", "٥", False),
        ("2 + 3 =", "1e1000000000", False),
    ],
)
def test_the_last_number_must_be_the_result(prompt: str, completion: str, passes: bool) -> None:
    assert arithmetic()([prompt], [completion]) == [float(passes)]


def test_the_expression_can_be_a_columns() -> None:
    check = arithmetic("sum")
    assert check(["What?"] * 3, ["7", "7", "7"], sum=["3 + 4", 7, 8]) == [1.0, 1.0, 0.0]


def test_a_regular_expression_is_found_or_fits() -> None:
    assert regex(r"\d+")([""] * 2, ["a 12 b", "none"]) == [1.0, 0.0]
    assert regex(r"\d+", whole=True)([""] * 3, ["12\n", "a 12", "12 b"]) == [1.0, 0.0, 0.0]


SCHEMA = {
    "type": "object",
    "title": "A person",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"enum": ["a", 1, {"b": [True]}]}},
    },
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ('{"name": "Ada"}', True),
        (' {"name": "Ada", "age": 36, "tags": ["a", 1, {"b": [true]}]}\n', True),
        ('{"name": "Ada", "age": null}', True),
        ('{"name": "Ada", "age": 36.0}', True),
        ('{"name": "Ada", "age": 36.5}', False),
        ('{"name": "Ada", "age": true}', False),
        ('{"name": 3}', False),
        ('{"age": 36}', False),
        ('{"name": "Ada", "sex": 1}', False),
        ('{"name": "Ada", "tags": ["c"]}', False),
        ('{"name": "Ada", "tags": [true]}', False),
        ('{"name": "Ada", "tags": [{"b": [1]}]}', False),
        ('["name"]', False),
        ("", False),
        ('{"name": "Ada"} and more', False),
        ('```json\n{"name": "Ada"}\n```', False),
        ('{"name": "Ada", "age": NaN}', False),
        ("[" * 100_000, False),
        ('{"name": "Ada", "age": ' + "1" * 10_000 + "}", False),
        ('{"name": "' + "a" * 2_000_000 + '"}', False),
    ],
)
def test_json_must_fit_its_schema_and_be_nothing_else(text: str, passes: bool) -> None:
    assert json_schema(SCHEMA)([""], [text]) == [float(passes)]


def test_a_schema_can_be_json_a_file_or_a_column(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    texts = ['{"name": "Ada"}', "{}"]
    for check in (json_schema(json.dumps(SCHEMA)), json_schema(str(path))):
        assert check(["", ""], texts) == [1.0, 0.0]
    columns = {"form": [{"type": "object"}, '{"type": "array"}']}
    assert json_schema(column="form")(["", ""], ["{}", "{}"], **columns) == [1.0, 0.0]
    assert JsonSchema.of({"const": 1}).fits(True) is False


def test_a_length_is_rewarded_in_proportion() -> None:
    texts = ["", "a b", "a b c d", "a b c d e", "a b c d e f g h", "a " * 99]
    assert length(target=4)([""] * 6, texts) == [0.0, 0.5, 1.0, 0.75, 0.0, 0.0]
    assert length(most=4)([""] * 6, texts) == [1.0, 1.0, 1.0, 0.75, 0.0, 0.0]
    assert length(most=4, unit="characters")([""] * 2, ["abcd", "abcdef"]) == [1.0, 0.5]
    tokenizer = train_tokenizer("char", ["abc "], vocab_size=10)
    assert length(target=3, unit="tokens", tokenizer=tokenizer)([""], ["abc"]) == [1.0]


def test_banned_words_are_words_in_whatever_case() -> None:
    check = banned_words(["bad", "no good", "c++"])
    texts = ["It is BAD.", "Badger!", "no\n good", "nogood", "I like C++!", "", "a bad"]
    assert check([""] * 7, texts) == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("regex", {"pattern": "("}, "the check regex has '(', which is no regular expression: "),
        ("regex", {"pattern": 3}, "the check regex has 3, which is no regular expression: "),
        ("json_schema", {}, "the check json_schema needs a schema or a column that has them; give one of the two"),
        ("json_schema", {"schema": {}, "column": "x"}, "give one of the two"),
        (
            "json_schema",
            {"schema": "none.json"},
            "the schema 'none.json' is no JSON object and no file that can be read; give one",
        ),
        ("json_schema", {"schema": "{oops"}, "the schema is no JSON (Expecting property name"),
        (
            "json_schema",
            {"schema": {"pattern": "a"}},
            "the schema has the keyword 'pattern', which is not checked; use: ",
        ),
        ("json_schema", {"schema": {"type": "text"}}, "the schema has the type 'text'; choose one of: object, "),
        ("json_schema", {"schema": {"type": 3}}, "the schema has the type 3; choose one of: object, "),
        (
            "json_schema",
            {"schema": {"properties": {"a": 3}}},
            "the schema, property 'a', is '3', which is no JSON object",
        ),
        ("json_schema", {"schema": {"items": {"not": {}}}}, "the schema, items, has the keyword 'not'"),
        ("json_schema", {"schema": {"required": "a"}}, "the schema has required 'a'; give a list"),
        ("json_schema", {"schema": {"required": [1]}}, "the schema has required '[1]'; give names of properties"),
        ("json_schema", {"schema": {"additionalProperties": {}}}, "additionalProperties '{}'; give true or false"),
        ("length", {}, "the check length needs target or most; give one of the two"),
        ("length", {"target": 1, "most": 1}, "the check length needs target or most; give one of the two"),
        ("length", {"most": 0}, "the check length has 0; give a whole number of at least 1"),
        ("length", {"target": 1.5}, "the check length has 1.5; give a whole number of at least 1"),
        ("length", {"most": 3, "unit": "lines"}, "the check length counts words, tokens, characters, not 'lines'"),
        ("length", {"most": 3, "unit": "tokens"}, "has no tokenizer to count tokens with; count words or characters"),
        ("banned_words", {"words": "bad"}, "the check banned_words has 'bad'; give a list of words"),
        ("banned_words", {"words": []}, "the check banned_words has []; give a list of words"),
        ("banned_words", {"words": ["a", " "]}, "give a list of words"),
    ],
)
def test_a_check_that_cannot_be_made_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        CHECKS[name](**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"items": schema}
    with pytest.raises(UserError, match="is nested more than 50 levels deep; give a flatter one"):
        JsonSchema.of(schema)
