"""The tools that come along: what they say, what a model does wrong with them, and how they are opened by name."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from scratchlm.agents.shipped import open_tools
from scratchlm.agents.table import find_rows, read_table, table_tool
from scratchlm.agents.tool import Tool
from scratchlm.errors import UserError


def one(spec: str, name: str = "") -> Tool:
    return next(tool for tool in open_tools([spec]) if not name or tool.name == name)


def test_calculator() -> None:
    calculator = one("calculator")
    assert calculator.run({"expression": "12 * (3 + 4)"}).text == "84"
    assert calculator.run({"expression": "1/0"}).text == "error: division by zero"


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("weekday", {"date": "2024-02-29"}, "Thursday"),
        ("days_between", {"start": "2024-01-31", "end": "2024-03-01"}, "30"),
        ("days_between", {"start": "2024-03-01", "end": "2024-01-31"}, "-30"),
        ("add_to_date", {"date": "2024-01-31", "months": 1}, "2024-02-29"),
        ("add_to_date", {"date": "2023-01-31", "months": 1}, "2023-02-28"),
        ("add_to_date", {"date": "2024-02-29", "years": -1}, "2023-02-28"),
        ("add_to_date", {"date": "2024-12-30", "days": 3}, "2025-01-02"),
        ("add_to_date", {"date": "2024-01-31", "months": -11, "weeks": 1, "days": -1}, "2023-03-06"),
        ("add_to_date", {"date": "2024-01-31"}, "2024-01-31"),
        ("add_to_date", {"date": "9999-12-31", "days": 1}, "error: that is outside the years 1 to 9999"),
        ("add_to_date", {"date": "0001-01-01", "years": -1}, "error: that is outside the years 1 to 9999"),
        ("add_to_date", {"date": "2024-01-31", "days": 10**40}, "error: that is outside the years 1 to 9999"),
    ],
)
def test_dates(name: str, arguments: dict[str, Any], text: str) -> None:
    assert one("dates", name).run(arguments).text == text


@pytest.mark.parametrize("date", ["2023-02-29", "31.1.2024", "soon", "2024-13-01", "", "10000-01-01"])
def test_what_is_no_date_goes_back(date: str) -> None:
    outcome = one("dates", "weekday").run({"date": date})
    assert outcome.failed
    assert outcome.text.startswith("error: date: ")


def test_today() -> None:
    before = datetime.date.today()
    assert one("dates", "today").run("").value in (before, datetime.date.today())


@pytest.mark.parametrize(
    ("value", "unit", "to", "text"),
    [
        (5, "miles", "km", "8.04672 km"),
        (72, "F", "C", "22.2222 C"),
        (-40, "celsius", "°F", "-40 °F"),
        (300, "kelvin", "degrees celsius", "26.85 degrees celsius"),
        (0.1, "m", "mm", "100 mm"),
        (60, "mph", "km/h", "96.56064 km/h"),
        (2, "kg m/s^2", "N", "2 N"),
        (2, "square meters", "cm^2", "20000 cm^2"),
        (1, "nautical mile", "m", "1852 m"),
        (5, "Kilograms", "lbs", "11.0231 lbs"),
        (123456789, "m", "km", "123456.789 km"),
        (1, "fl oz", "ml", "29.5735 ml"),
        (1, "gigabyte", "megabits", "8000 megabits"),
        (1e300, "m", "km", "1e297 km"),
    ],
)
def test_units(value: float, unit: str, to: str, text: str) -> None:
    assert one("units").run({"value": value, "unit": unit, "to": to}).text == text


@pytest.mark.parametrize(
    ("unit", "to", "says"),
    [
        ("m", "kg", "'m' cannot be converted into 'kg'"),
        ("cup", "fl m", "cannot be converted into 'fl m'"),
        ("usd", "eur", "I do not know the unit 'usd'"),
        ("", "m", "is no unit"),
        ("m**9**9**9", "m", "is no unit"),
        ("m**99999", "m", "is no unit"),
        ("9**9**9**9", "m", "is no unit"),
        ("__import__('os').system('id')", "m", "is no unit"),
        ("a" * 5_000, "m", "is no unit"),
        ("lambda: m", "m", "is no unit"),
        ("m; km", "m", "is no unit"),
        ("(" * 50, "m", "is no unit"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_unit_goes_back(unit: str, to: str, says: str) -> None:
    outcome = one("units").run({"value": 1, "unit": unit, "to": to})
    assert outcome.failed
    assert says in outcome.text


ROWS = [
    {"city": "Paris", "country": "France", "people": 2_102_650},
    {"city": "Lyon", "country": "France", "people": "522,250"},
    {"city": "Rome", "country": "Italy", "people": None},
]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"column": "city", "value": " paris", "show": "people"}, "2102650"),
        ({"column": "people", "value": "522250.0", "show": "city"}, "Lyon"),
        ({"column": "people", "value": "2,102,650", "show": "city"}, "Paris"),
        ({"column": "country", "value": "france", "show": "city"}, "Paris\nLyon"),
        ({"column": "city", "value": "Rome"}, "city: Rome, country: Italy, people: "),
        ({"column": "city", "value": "Pari"}, "error: no row has city = Pari; near: Paris"),
        ({"column": "city", "value": "zzz"}, "error: no row has city = zzz"),
        (
            {"column": "town", "value": "x"},
            "error: column: 'town' is not one of ['city', 'country', 'people']; lookup takes: column, value, show",
        ),
    ],
    ids=lambda given: given.get("value") if isinstance(given, dict) else "",
)
def test_lookups(arguments: dict[str, str], text: str) -> None:
    assert table_tool(ROWS).run(arguments).text == text


def test_many_rows_are_cut() -> None:
    lines = find_rows([{"a": "x", "b": number} for number in range(25)], "a", "x", "b").splitlines()
    assert lines == [*map(str, range(20)), "[5 more rows]"]


def test_a_lookup_without_a_schema_names_the_columns() -> None:
    with pytest.raises(ValueError, match="there is no column 'b'; the columns are: a"):
        find_rows([{"a": 1}], "a", "1", "b")
    with pytest.raises(ValueError, match="needs rows"):
        table_tool([])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", '\ufeffcity,people\nParis,"2,102,650"\n'),
        ("t.tsv", "city\tpeople\nParis\t2,102,650\n"),
        ("t.json", '[{"city": "Paris", "people": "2,102,650"}]'),
        ("t.jsonl", '{"city": "Paris", "people": "2,102,650"}\n\n'),
    ],
)
def test_tables_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_table(tmp_path / name) == [{"city": "Paris", "people": "2,102,650"}]
    lookup = one(f"table:{tmp_path / name}")
    assert lookup.description == "Look up rows of the table t, where a column has a value; show one column, or all."
    assert lookup.run({"column": "city", "value": "Paris", "show": "people"}).text == "2,102,650"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "", "is no table; it needs rows of named values"),
        ("t.csv", "a,b\n", "needs rows"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "row 3 has not as many values"),
        ("t.csv", "a,b\n1\n", "row 2 has not as many values"),
        ("t.csv", 'a,b\n"1,2\n', "is no table"),
        ("t.json", "{", "is no table"),
        ("t.json", '{"a": 1}', "needs rows"),
        ("t.json", "[1, 2]", "needs rows"),
        ("t.json", "[" * 100_000, "is no table"),
        ("t.jsonl", "{}\n", "needs rows"),
        ("t.csv", "a\n\udcff\n", "is no table"),
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError) as error:
        read_table(tmp_path / name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_two_tables_have_two_names(tmp_path: Path) -> None:
    for name in ("people", "big cities"):
        (tmp_path / f"{name}.csv").write_text("a\n1\n")
    tools = open_tools([f"table:{tmp_path / name}.csv" for name in ("people", "big cities")])
    assert [tool.name for tool in tools] == ["lookup_people", "lookup_big_cities"]


OWN = '''
from scratchlm.agents.tool import tool

def double(number: int) -> int:
    """Twice a number."""
    return 2 * number

@tool(name="ready", timeout=1)
def made(number: int) -> int:
    return number

number = 3
def untyped(number): ...
'''


def test_a_users_own_functions(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    double, ready = open_tools([f"{tmp_path / 'own.py'}:double", f"{tmp_path / 'own.py'}:made"])
    assert (double.name, double.description, double.run('{"number": 4}').text) == ("double", "Twice a number.", "8")
    assert (ready.name, ready.timeout) == ("ready", 1)
    schema = one("scratchlm.agents.dates:weekday").schema()
    assert json.loads(json.dumps(schema)) == one("dates", "weekday").schema()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "there is no tool ''; choose of: calculator, dates, units, "),
        ("calculater", "there is no tool 'calculater'; did you mean calculator?"),
        ("rm -rf", "there is no tool 'rm -rf'; choose of"),
        ("calculator:3", "the tool calculator takes no place"),
        ("table", "the tool table needs a place: table:FILE"),
        ("table:", "the tool table needs a place: table:FILE"),
        ("table:missing.csv", "missing.csv: No such file"),
        ("missing.py:look", "there is no file missing.py; name the file of the tool's function"),
        ("{}/own.py:doubel", "has no 'doubel'; did you mean 'double'?"),
        ("{}/own.py:number", "is no function; a tool is a function with types, or a Tool"),
        ("{}/own.py:untyped", "the parameter number of the tool untyped has no type"),
        ("{}/broken.py:f", "broken.py cannot be imported: SyntaxError"),
        ("no_such_module:f", "the module no_such_module cannot be imported"),
    ],
)
def test_names_that_are_no_tools_are_told_in_one_line(tmp_path: Path, spec: str, says: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(UserError) as error:
        open_tools([spec.format(tmp_path)])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_twice_is_told() -> None:
    with pytest.raises(UserError, match="two tools are called calculator; give each name once"):
        open_tools(["calculator", "units", "calculator"])
