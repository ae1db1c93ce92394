"""Rows for alignment: every form is read as it is meant, and every mistake is one line with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scratchlm.data import read_records, split_records
from scratchlm.data.record_rows import Record
from scratchlm.errors import UserError

USER, YES, NO = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "assistant", "content": "What?"},
)
PAIR = {"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"}
CHATS = {"chosen": [USER, YES], "rejected": [USER, NO]}
JUDGED = {"prompt": "1 + 1 =", "completion": " 2", "label": True}


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def the_row(folder: Path, row: Any, task: Any) -> Record:
    (record,) = read_records(written(folder, row), task=task).rows
    return record


@pytest.mark.parametrize(
    ("row", "prompt", "messages", "texts"),
    [
        (PAIR, "1 + 1 =", (), (" 2", " 3")),
        ({"chosen": "Good.", "rejected": "Bad."}, "", (), ("Good.", "Bad.")),
        ({**PAIR, "prompt": ""}, "", (), (" 2", " 3")),
        (CHATS, "", (USER,), ("Hello!", "What?")),
        ({**CHATS, "prompt": "Hi"}, "", (USER,), ("Hello!", "What?")),
        ({**CHATS, "prompt": [USER]}, "", (USER,), ("Hello!", "What?")),
        ({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, "", (USER,), ("Hello!", "What?")),
        ({"prompt": "Hi", "chosen": [YES], "rejected": [NO]}, "", (USER,), ("Hello!", "What?")),
        ({"prompt": [USER], "chosen": "Yes", "rejected": "No"}, "", (USER,), ("Yes", "No")),
        (
            {"chosen": [USER, YES, USER, YES], "rejected": [USER, YES, USER, NO]},
            "",
            (USER, YES, USER),
            ("Hello!", "What?"),
        ),
    ],
)
def test_a_pair_is_two_texts_after_what_they_share(
    tmp_path: Path, row: Any, prompt: str, messages: Any, texts: Any
) -> None:
    record = the_row(tmp_path, row, "preference")
    assert (record.prompt, record.messages, record.texts, record.margin) == (prompt, messages, texts, 0.0)
    assert the_row(tmp_path, {**row, "margin": 1.5}, "preference").margin == 1.5
    assert the_row(tmp_path, {**row, "margin": "2"}, "preference").margin == 2.0


@pytest.mark.parametrize(
    ("label", "said"),
    [(True, "true"), (1, "true"), (1.0, "true"), ("True", "true"), (False, "false"), (0, "false"), ("0", "false")],
)
def test_a_judged_completion_is_good_or_not(tmp_path: Path, label: Any, said: str) -> None:
    record = the_row(tmp_path, {**JUDGED, "label": label}, "kto")
    assert record == Record(record.place, text=" 2", prompt="1 + 1 =", labels=(said,))
    chat = the_row(tmp_path, {"prompt": [USER], "completion": [YES], "label": label}, "kto")
    assert (chat.messages, chat.labels) == ((USER, YES), (said,))
    assert the_row(tmp_path, {"prompt": "Hi", "completion": [YES], "label": label}, "kto").messages == (USER, YES)


def test_a_prompt_keeps_all_other_columns_for_the_rewards(tmp_path: Path) -> None:
    record = the_row(tmp_path, {"prompt": "1 + 1 =", "answer": 2, "why": None, "completion": "x"}, "rollout")
    assert (record.prompt, record.extra) == ("1 + 1 =", {"answer": 2, "why": None, "completion": "x"})
    chat = the_row(tmp_path, {"prompt": [USER], "answer": 2}, "rollout")
    assert (chat.messages, chat.extra) == ((USER,), {"answer": 2})


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    path = written(tmp_path, {"q": "a", "better": "b", "worse": "c", "gap": 2})
    columns = {"prompt": "q", "chosen": "better", "rejected": "worse", "margin": "gap"}
    (record,) = read_records(path, task="preference", columns=columns).rows
    assert (record.prompt, record.texts, record.margin) == ("a", ("b", "c"), 2.0)
    (record,) = read_records(path, task="rollout", columns={"prompt": "better"}).rows
    assert record.extra == {"q": "a", "worse": "c", "gap": 2}


def test_no_tuning_learns_from_a_rejected_text_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has pairs with a preferred one \(chosen, rejected, prompt\); alignment learns"
    ):
        read_records(written(tmp_path, PAIR))
    assert read_records(written(tmp_path, JUDGED)).task == "prompt"
    assert read_records(written(tmp_path, {"text": "Good.", "rating": 3})).task == "lm"
    with pytest.raises(UserError, match="has the columns prompt; to train on give"):
        read_records(written(tmp_path, {"prompt": "x"}))


def test_the_pairs_of_a_prompt_are_on_one_side_of_a_split(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n // 4} + 1 =", "chosen": f"{n}", "rejected": "x"} for n in range(40)]
    splits = split_records(read_records(written(tmp_path, *rows), task="preference"), 0.3)
    assert splits.validation is not None
    ours, theirs = ({row.prompt for row in part.rows} for part in (splits.train, splits.validation))
    assert (len(splits.validation), len(ours | theirs)) == (12, 10)
    assert not ours & theirs


RATED = {"text": "Good.", "rating": 2.5}
ASKED: dict[str, Any] = {"prompt": "x"}
WRONG_ROLE = {"role": "bot", "content": "x"}


@pytest.mark.parametrize(
    ("task", "good", "bad", "said"),
    [
        ("preference", PAIR, {"prompt": "a", "chosen": "b"}, "the field 'rejected' is missing"),
        ("preference", PAIR, {**PAIR, "chosen": None}, "'chosen' is null"),
        ("preference", PAIR, {**PAIR, "chosen": " "}, "'chosen' is empty"),
        ("preference", PAIR, {**PAIR, "rejected": 3}, "'rejected' is 3, which is no text"),
        ("preference", PAIR, {**PAIR, "rejected": []}, "'rejected' is empty"),
        ("preference", PAIR, {**PAIR, "prompt": None}, "'prompt' is null"),
        ("preference", PAIR, {**PAIR, "prompt": 5}, "'prompt' is 5, which is no text"),
        (
            "preference",
            PAIR,
            {**PAIR, "rejected": " 2"},
            "'chosen' and 'rejected' are the same, so neither is preferred",
        ),
        (
            "preference",
            PAIR,
            {**PAIR, "chosen": [YES]},
            "of 'chosen' and 'rejected' one is a text, the other a list of messages; give both alike",
        ),
        (
            "preference",
            CHATS,
            {"chosen": [USER, YES], "rejected": [USER, YES]},
            "'chosen' and 'rejected' are the same, so neither is preferred",
        ),
        (
            "preference",
            CHATS,
            {"chosen": [USER, YES], "rejected": [USER]},
            "'chosen' and 'rejected' differ in more than their last turn",
        ),
        (
            "preference",
            CHATS,
            {"chosen": [USER, YES, USER, YES], "rejected": [USER, NO]},
            "'chosen' and 'rejected' differ in more than their last turn",
        ),
        (
            "preference",
            CHATS,
            {"chosen": [USER, USER], "rejected": [USER, NO]},
            "'chosen' ends in a turn of the user; answers of the assistant are compared",
        ),
        ("preference", CHATS, {"chosen": [YES], "rejected": [NO]}, "'chosen' has no turn before the answer"),
        (
            "preference",
            CHATS,
            {"chosen": [USER, WRONG_ROLE], "rejected": [USER, NO]},
            "'chosen', message 2, has the role \"bot\"; write system, user, assistant or tool",
        ),
        (
            "preference",
            CHATS,
            {"chosen": [USER, {"role": "assistant"}], "rejected": [USER, NO]},
            "'chosen', message 2, has no content",
        ),
        (
            "preference",
            CHATS,
            {"chosen": [USER, {**YES, "tool_calls": [{"name": "f"}]}], "rejected": [USER, NO]},
            "'chosen' ends in a call of a tool, and only texts can be compared",
        ),
        (
            "preference",
            {**CHATS, "prompt": "Hi"},
            {**CHATS, "prompt": "Ho"},
            "'prompt' is not what 'chosen' begins with",
        ),
        (
            "preference",
            {**CHATS, "prompt": [USER]},
            {**CHATS, "prompt": [USER, YES]},
            "'prompt' ends in a turn of the assistant; end it in the user's",
        ),
        ("preference", {**PAIR, "margin": 1}, {**PAIR, "margin": -1}, "'margin' is -1; a margin is at least 0"),
        ("preference", {**PAIR, "margin": 1}, {**PAIR, "margin": "much"}, "'margin' is \"much\", which is no number"),
        ("preference", {**PAIR, "margin": 1}, {**PAIR, "margin": True}, "'margin' is true, which is no number"),
        ("preference", {**PAIR, "margin": 1}, json.dumps({**PAIR, "margin": float("nan")}), "'margin' is NaN"),
        (
            "preference",
            {**PAIR, "margin": 1},
            json.dumps({**PAIR, "margin": float("inf")}),
            "'margin' is Infinity, which is no number",
        ),
        ("preference", {**PAIR, "margin": 1}, {**PAIR, "margin": None}, "'margin' is null"),
        ("preference", RATED, {"text": "x"}, "the field 'rating' is missing"),
        ("preference", RATED, {"text": "x", "rating": "nan"}, "'rating' is NaN"),
        ("preference", RATED, {"text": "x", "rating": [1, 2]}, "'rating' is [1, 2], which is no number"),
        ("preference", RATED, {"text": "x", "rating": 10**400}, "which is no number"),
        ("preference", RATED, {"text": "", "rating": 1}, "'text' is empty"),
        (
            "kto",
            JUDGED,
            {**JUDGED, "label": "maybe"},
            "'label' is \"maybe\"; write true for a good completion, or false",
        ),
        ("kto", JUDGED, {**JUDGED, "label": 2}, "'label' is \"2\"; write true for a good completion, or false"),
        ("kto", JUDGED, {**JUDGED, "label": None}, "'label' is null"),
        ("kto", JUDGED, {**JUDGED, "label": 0.5}, "'label' is 0.5, which is no class; give whole numbers or names"),
        ("kto", JUDGED, {**JUDGED, "completion": ""}, "'completion' is empty"),
        ("kto", JUDGED, {**JUDGED, "completion": [USER]}, "'completion' is not one turn of the assistant"),
        ("kto", JUDGED, {**JUDGED, "prompt": "", "completion": [YES]}, "'prompt' is empty"),
        ("rollout", ASKED, {"prompt": ""}, "'prompt' is empty"),
        ("rollout", ASKED, {"prompt": None}, "'prompt' is null"),
        ("rollout", ASKED, {"prompt": []}, "'prompt' is empty"),
        ("rollout", ASKED, {"answer": 1}, "the field 'prompt' is missing"),
        ("rollout", ASKED, {"prompt": [USER, YES]}, "'prompt' ends in a turn of the assistant; end it in the user's"),
        (
            "rollout",
            ASKED,
            {"prompt": ["Hi"]},
            '\'prompt\', message 1, is "Hi"; write {"role": "user", "content": "..."}',
        ),
    ],
)
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path: Path, task: Any, good: Any, bad: Any, said: str) -> None:
    path = written(tmp_path, good, bad, good)
    with pytest.raises(UserError) as caught:
        read_records(path, task=task)
    told = str(caught.value)
    assert told.startswith(f"{path}, line 2: ")
    assert told.endswith(f"{said}; mend it, or leave such rows out with --bad skip")
    assert "\n" not in told
    records = read_records(path, task=task, bad="skip")
    assert (len(records), records.skipped.count) == (2, 1)


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        (
            "preference",
            {"chosen": "a"},
            "has the columns chosen; for the task preference give chosen + rejected; text + rating",
        ),
        ("kto", PAIR, "for the task kto give prompt + completion + label; or say which is which"),
        (
            "rollout",
            {"text": "a"},
            "for the task rollout give prompt; or say which is which, such as --columns prompt=text",
        ),
    ],
)
def test_columns_of_another_form_are_refused(tmp_path: Path, task: Any, row: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_records(written(tmp_path, row), task=task)
    assert said in str(caught.value)


def test_a_part_that_alignment_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no part 'tokens' to map a column to; choose one of: chosen, "):
        read_records(written(tmp_path, PAIR), task="preference", columns={"tokens": "prompt"})
