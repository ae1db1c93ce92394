"""Records: every format and form is read and told, and every mistake is one line with its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from scratchlm.data import join_validation, read_records, split_records
from scratchlm.errors import UserError

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
CHAT = {"messages": [USER, ASSISTANT]}


def written(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    """Rows as JSON lines; a row that is a text or bytes stands as it is."""
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path = folder / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize(
    ("row", "task", "columns"),
    [
        ({"text": "Once upon a time.", "id": 7}, "lm", {"text": "text"}),
        ({"Text": "Once upon a time."}, "lm", {"text": "Text"}),
        ({"prompt": "1 + 1 =", "completion": " 2"}, "prompt", {"prompt": "prompt", "completion": "completion"}),
        ({"prompt": "1 + 1 =", "response": " 2"}, "prompt", {"prompt": "prompt", "completion": "response"}),
        ({"question": "Who?", "answer": "He."}, "prompt", {"question": "question", "answer": "answer"}),
        ({"instruction": "Add.", "output": "2"}, "prompt", {"instruction": "instruction", "output": "output"}),
        (CHAT, "chat", {"messages": "messages"}),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
            "chat",
            {"conversations": "conversations"},
        ),
        ({"text": "Good.", "label": 1}, "classify", {"text": "text", "label": "label"}),
        ({"sentence": "Good.", "label": 1}, "classify", {"text": "sentence", "label": "label"}),
        ({"tokens": ["Ada"], "ner_tags": ["B-PER"]}, "tag", {"tokens": "tokens", "tags": "ner_tags"}),
    ],
)
def test_a_form_is_recognised_by_its_columns(tmp_path: Path, row: Any, task: str, columns: dict[str, str]) -> None:
    other = {**row, "label": 0} if task == "classify" else row
    records = read_records(written(tmp_path, [row, other]))
    assert (records.task, records.columns, len(records)) == (task, columns, 2)
    for column in columns.values():
        assert repr(column) in records.description()


def test_conversations_in_other_words_are_messages(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    records = read_records(written(tmp_path, [{"conversations": turns}]))
    assert records.rows[0].messages == ({"role": "system", "content": ""}, USER, ASSISTANT)


def test_an_answered_question_can_be_a_prompt_or_a_chat(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "Who?", "answer": "Ada."}])
    row = read_records(path).rows[0]
    assert (row.prompt, row.text) == ("Question: Who?\nAnswer:", " Ada.")
    messages = read_records(path, task="chat").rows[0].messages
    assert messages == ({"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."})


def test_an_instruction_has_its_input_where_there_is_one(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        [{"instruction": "Add.", "input": "1, 1", "output": "2"}] * 2 + [{"instruction": "Go.", "output": "!"}],
    )
    first, _, last = read_records(path).rows
    assert first.prompt == "### Instruction:\nAdd.\n\n### Input:\n1, 1\n\n### Response:\n"
    assert last.prompt == "### Instruction:\nGo.\n\n### Response:\n"
    assert read_records(path, task="chat").rows[0].messages[0]["content"] == "Add.\n\n1, 1"


def test_columns_can_be_mapped_and_the_task_forced(tmp_path: Path) -> None:
    path = written(tmp_path, [{"body": "Good.", "stars": 5, "text": "x"}, {"body": "Bad.", "stars": 1, "text": "y"}])
    records = read_records(path, columns={"text": "body", "label": "stars"})
    assert (records.task, records.labels, records.rows[0].text) == ("classify", ("1", "5"), "Good.")
    assert read_records(path, task="lm", columns={"text": "body"}).task == "lm"
    assert [row.text for row in read_records(path).rows] == ["x", "y"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_file_is_read_with_its_separator_and_line_breaks_in_quotes(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "rows.csv"
    lines = ["text|label", '"one, two; ""three""\nfour"|pos', "", "fünf|neg", '"a|b\tc"|pos']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace("|", separator).encode())
    records = read_records(path)
    assert [row.text for row in records.rows][:2] == ['one, two; "three"\nfour', "fünf"]
    assert [row.labels for row in records.rows] == [("pos",), ("neg",), ("pos",)]
    assert [row.place.rsplit(" ", 1)[1] for row in records.rows] == ["2", "5", "6"]


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra finetune is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"messages": [[USER, ASSISTANT]] * 2, "extra": [1, 2]}), path)
    assert read_records(path).rows[1].messages == (USER, ASSISTANT)
    parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "label": [0.0, 1.0, float("nan")]}), path)
    with pytest.raises(UserError, match=r"row 3: 'label' is NaN"):
        read_records(path)
    assert read_records(path, bad="skip").labels == ("0", "1")


def test_a_folder_of_texts_is_a_row_a_file_or_a_row_a_line(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two\n\nthree\n")
    (tmp_path / "a.md").write_text("one")
    assert [row.text for row in read_records(tmp_path).rows] == ["one", "two\n\nthree\n"]
    assert [row.text for row in read_records(tmp_path, lines=True).rows] == ["one", "two", "three"]
    assert read_records("rumi").task == "lm"


def test_a_folder_of_parts_is_read_as_one_table(tmp_path: Path) -> None:
    written(tmp_path, [{"text": "one"}], "part-0.jsonl")
    written(tmp_path, [{"text": "two"}], "part-1.jsonl")
    assert [row.text for row in read_records(tmp_path).rows] == ["one", "two"]


@pytest.mark.parametrize("name", ["rows.conll", "rows.txt"])
def test_conll_sentences_are_tokens_and_tags(tmp_path: Path, name: str) -> None:
    text = "-DOCSTART- -X- O\n\n# a comment of words\nAda NNP B-PER\nruns VB O\n\n\n# x O\nParis NNP B-LOC"
    (tmp_path / name).write_text(text)
    records = read_records(tmp_path / name, task="tag")
    assert [row.tokens for row in records.rows] == [("Ada", "runs"), ("#", "Paris")]
    assert records.rows[1].labels == ("O", "B-LOC")
    assert records.labels == ("O", "B-LOC", "B-PER")


def test_a_json_array_is_read_and_an_object_a_line_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": "one"}, {"text": ""}], indent=1))
    records = read_records(path, bad="skip")
    assert (records.rows[0].place, records.skipped.reasons) == (f"{path}, row 1", [f"{path}, row 2: 'text' is empty"])
    path.write_text('{"text": "one"}\n')
    assert read_records(path).rows[0].text == "one"


class _Dataset(list[dict[str, Any]]):
    features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=["neg", "pos"])}  # noqa: RUF012


def test_a_dataset_of_the_hub_has_its_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*names: Any, split: str) -> _Dataset:
        asked.extend((*names, split))
        return _Dataset([{"text": "good", "label": 1}, {"text": "bad", "label": 0}, {"text": "?", "label": -1}])

    module = ModuleType("datasets")
    module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    records = read_records("hub:owner/movies:plain", split="test", bad="skip")
    assert asked == ["owner/movies", "plain", "test"]
    assert (records.labels, records.rows[0].labels) == (("neg", "pos"), ("pos",))
    assert records.skipped.reasons == ["hub:owner/movies:plain, row 3: 'label' is null"]


def test_without_the_package_a_dataset_of_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratchlm.data.record_files.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install datasets"):
        read_records("hub:imdb")
    monkeypatch.setattr("scratchlm.data.record_files.Path.exists", lambda _: True)
    with pytest.raises(UserError, match=r"pip install 'scratchlm\[finetune\]'"):
        read_records("x.parquet")


TEXT, PAIR, LABELLED = {"text": "fine"}, {"prompt": "a", "completion": "b"}, {"text": "fine", "label": "a"}
TAGGED = {"tokens": ["Ada", "runs"], "tags": ["B-PER", "O"]}


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (TEXT, '{"text": "cut', "line 2: it is no JSON (Unterminated string"),
        (TEXT, "{'text': 'x'}", "line 2: it is no JSON (Expecting property name"),
        (TEXT, "plain words", "line 2: it is no JSON"),
        (TEXT, '["text"]', "line 2: it is no JSON object"),
        (TEXT, "[" * 100_000, "line 2: it is no JSON"),
        (TEXT, '{"text": ' + "1" * 5000 + "}", "line 2: it is no JSON"),
        (TEXT, b'{"text": "caf\xe9"}', "line 2: it is not UTF-8 (byte 14 of the line)"),
        (TEXT, {"txt": "fine"}, "line 2: the field 'text' is missing"),
        (TEXT, {"text": None}, "line 2: 'text' is null"),
        (TEXT, {"text": 12}, "line 2: 'text' is 12, which is no text"),
        (TEXT, {"text": ["a", "b"]}, 'line 2: \'text\' is ["a", "b"], which is no text'),
        (TEXT, {"text": " \n"}, "line 2: 'text' is empty"),
        (TEXT, '{"text": "half \\ud83d"}', "line 2: 'text' is not UTF-8 (character 6)"),
        (PAIR, {"prompt": "a"}, "line 2: the field 'completion' is missing"),
        (PAIR, {"prompt": "a", "completion": ""}, "line 2: 'completion' is empty"),
        (PAIR, {"prompt": "", "completion": "b"}, "line 2: 'prompt' is empty"),
        (PAIR, {"prompt": [USER], "completion": "b"}, "line 2: 'prompt' is [{"),
        (CHAT, {"messages": "Hi"}, "line 2: 'messages' is a text, and no JSON in it"),
        (CHAT, {"messages": {}}, "line 2: 'messages' is {}, which is no list"),
        (CHAT, {"messages": []}, "line 2: 'messages' is empty"),
        (CHAT, {"messages": ["Hi", "Hello"]}, "line 2: 'messages', message 1, is \"Hi\"; write {"),
        (CHAT, {"messages": [{"content": "Hi"}, ASSISTANT]}, "line 2: 'messages', message 1, has no role"),
        (CHAT, {"messages": [USER, {"role": "bot", "content": "x"}]}, 'message 2, has the role "bot"; write system'),
        (CHAT, {"messages": [USER, {"role": 3, "content": "x"}]}, "message 2, has the role 3"),
        (CHAT, {"messages": [USER, {"role": "assistant"}]}, "message 2, has no content"),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": ""}]}, "message 2, content is empty"),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": 4}]}, "message 2, content is 4, which is no text"),
        (CHAT, {"messages": [USER]}, "line 2: 'messages' has no turn of the assistant"),
        ({**CHAT, "tools": []}, {**CHAT, "tools": "x"}, "'tools' is a text, and no JSON in it"),
        ({**CHAT, "tools": []}, {**CHAT, "tools": ["x"]}, "'tools' is no list of objects"),
        (LABELLED, '{"text": "x", "label": NaN}', "line 2: 'label' is NaN"),
        (LABELLED, {"text": "x", "label": "nan"}, "line 2: 'label' is NaN"),
        (LABELLED, {"text": "x", "label": None}, "line 2: 'label' is null"),
        (LABELLED, {"text": "x", "label": ""}, "line 2: 'label' is empty"),
        (LABELLED, {"text": "x", "label": 0.5}, "line 2: 'label' is 0.5, which is no class"),
        (LABELLED, {"text": "x", "label": ["a"]}, "line 2: 'label' is [\"a\"], which is no text"),
        (TAGGED, {"tokens": ["Ada"], "tags": ["O", "O"]}, "line 2: 'tokens' has 1 and 'tags' 2; give each a tag"),
        (TAGGED, {"tokens": [], "tags": []}, "line 2: 'tokens' is empty"),
        (TAGGED, {"tokens": ["Ada", ""], "tags": ["O", "O"]}, "line 2: 'tokens', number 2, is empty"),
        (TAGGED, {"tokens": ["Ada", 3], "tags": ["O", "O"]}, "line 2: 'tokens', number 2, is 3, which is no text"),
        (TAGGED, {"tokens": ["Ada"], "tags": [None]}, "line 2: 'tags', number 1, is null, which is no text"),
        (TAGGED, {"tokens": 5, "tags": ["O"]}, "line 2: 'tokens' is 5, which is no list"),
    ],
)
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path: Path, good: Any, bad: Any, said: str) -> None:
    second = {**good, "label": "b"} if "label" in good else good
    path = written(tmp_path, [good, bad, second])
    with pytest.raises(UserError) as caught:
        read_records(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "--bad skip" in str(caught.value)
    records = read_records(path, bad="skip")
    assert (len(records), records.skipped.count) == (2, 1)
    assert said in records.skipped.reasons[0]
    assert "skipped 1 bad rows" in records.description()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label\na,b,c\nd,e\nf,g\n", "line 2: it has 3 fields where the header has 2"),
        ("x.csv", 'text,label\nd,e\nf,g\n"open,h\ni,j\n', "line 4: it is no CSV (a quote that is opened here"),
        ("x.csv", 'text,label\n"a"b,c\nd,e\nf,g\n', "line 2: it is no CSV ('"),
        ("x.csv", b"text,label\ncaf\xe9,c\nd,e\nf,g\n", "line 2: 'text' is not UTF-8 (character 4)"),
        ("x.conll", "a O\nb\n\nc O\nd B-X\n\ne O\n", "line 2: it has 1 columns where 2 are needed"),
        ("x.json", '[{"text": "a"}, 3, {"text": "b"}]', "row 2: it is no JSON object"),
    ],
)
def test_a_bad_row_of_another_format_is_named_too(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_records(path)
    assert said in str(caught.value)
    records = read_records(path, bad="skip")
    assert (len(records), records.skipped.count) == (2, 1)


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("none.jsonl", None, {}, "is no file, folder or corpus"),
        ("x.xyz", "a", {}, "is of no known kind; give a file that ends in one of: .jsonl"),
        ("x.jsonl", "", {}, "holds no rows; give at least one"),
        ("x.jsonl", "oops\n", {"bad": "skip"}, "holds no rows: skipped 1 bad rows"),
        ("x.jsonl", '{"text": ""}\n', {"bad": "skip"}, "has no good row (skipped 1 bad rows: "),
        ("x.jsonl", '{"text": "a"}\n'.encode("utf-16"), {}, "is UTF-16 text, not UTF-8"),
        ("x.jsonl", b"\0\1\2", {}, "is a binary file"),
        ("x.json", '[{"text": ', {}, "is no JSON (Expecting value"),
        ("x.txt", b"caf\xe9", {}, "it is not UTF-8 text"),
        ("x.txt", "", {}, "'text' is empty"),
        ("x.parquet", "PAR1", {}, "cannot be read as Parquet"),
        ("x.csv", "text,text\na,b\n", {}, "the header has the column 'text' twice"),
        ("x.csv", "good,1\nbad,0\n", {}, "has the columns good, 1; to train on give messages; conversations"),
        ("x.csv", 'a,"b\nc"\nd,e\n', {}, "has the columns a, b c; to train on"),
        ("x.jsonl", '{"txt": "a"}\n', {}, "has the columns txt; to train on"),
        ("x.jsonl", '{"text": "a"}\n', {"task": "tag"}, "for the task tag give tokens + tags"),
        ("x.jsonl", '{"text": "a"}\n', {"task": "sing"}, "there is no task 'sing'; choose one of: lm, prompt"),
        ("x.jsonl", '{"text": "a"}\n', {"bad": "fix"}, "bad rows can be: stop, skip; not 'fix'"),
        ("x.jsonl", '{"text": "a"}\n', {"columns": {"txt": "text"}}, "there is no part 'txt' to map a column to"),
        ("x.jsonl", '{"text": "a"}\n', {"columns": {"text": "texte"}}, "'texte' for 'text'; did you mean 'text'?"),
        ("x.jsonl", '{"text": "a", "label": 1}\n', {}, "has one label in all rows, '1'"),
        ("x.jsonl", LABELLED, {"labels": ("b", "c")}, "line 1: 'label' has \"a\", not among b, c"),
    ],
)
def test_a_file_or_an_option_that_does_not_fit_is_one_clear_line(
    tmp_path: Path, name: str, content: Any, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        content = json.dumps(content) if isinstance(content, dict) else content
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_records(path, **options)
    assert said.replace('"', "'") in str(caught.value).replace('"', "'")
    assert "\n" not in str(caught.value)


def test_a_folder_of_several_kinds_is_refused(tmp_path: Path) -> None:
    written(tmp_path, [TEXT], "a.jsonl")
    (tmp_path / "b.csv").write_text("text\nx\n")
    with pytest.raises(UserError, match="files of several kinds"):
        read_records(tmp_path)


def test_more_labels_than_classes_can_be_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, [{"text": "x", "label": n} for n in range(1001)])
    with pytest.raises(UserError, match="1,001 different labels in 'label'"):
        read_records(path)


def test_labels_are_in_one_order_whatever_the_rows(tmp_path: Path) -> None:
    numbers = read_records(written(tmp_path, [{"text": "x", "label": n} for n in (10, "9", 2.0)]))
    names = read_records(written(tmp_path, [{"text": "x", "label": n} for n in ("pos", "neg", True)]))
    assert (numbers.labels, names.labels) == (("2", "9", "10"), ("True", "neg", "pos"))


def test_a_split_depends_on_the_seed_alone_and_keeps_duplicates_together(tmp_path: Path) -> None:
    rows = [{"text": f"text {n // 2}" if n % 2 else f" TEXT  {n // 2}"} for n in range(100)]
    records = read_records(written(tmp_path, rows))
    splits = split_records(records, 0.2, seed=3)
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (80, 20)
    sides = [{" ".join(row.text.lower().split()) for row in part.rows} for part in (splits.train, splits.validation)]
    assert not sides[0] & sides[1]
    assert split_records(records, 0.2, seed=3) == splits
    assert split_records(records, 20, seed=4).validation != splits.validation
    assert split_records(records, 0).validation is None


@pytest.mark.parametrize("share", [-0.1, 2.5, 3, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path, share: float) -> None:
    records = read_records(written(tmp_path, [{"text": f"text {n}"} for n in range(3)]))
    with pytest.raises(UserError, match="validation is"):
        split_records(records, share)


def test_training_rows_that_are_held_out_too_are_taken_out_and_told(tmp_path: Path) -> None:
    train = read_records(written(tmp_path, [LABELLED, {"text": "x", "label": "b"}, {"text": "A  b", "label": "a"}]))
    held = read_records(written(tmp_path, [{"text": "a B", "label": "b"}, {"text": "z", "label": "c"}], "held.jsonl"))
    splits = join_validation(train, held)
    assert [row.text for row in splits.train.rows] == ["fine", "x"]
    assert splits.validation is not None
    assert splits.train.labels == splits.validation.labels == ("a", "b", "c")
    assert "took 1 rows out of" in splits.notes[0]
    assert "only validation rows have: c" in splits.notes[1]
    with pytest.raises(UserError, match="every row of"):
        join_validation(train, train)
