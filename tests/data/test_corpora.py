from __future__ import annotations

import hashlib
import re
import unicodedata
from datetime import date, datetime

import pytest

from scratchlm.data import corpus_names, corpus_text, date_pairs
from scratchlm.data.dates import FORMATS
from scratchlm.errors import UserError


def test_rumi_is_the_302_characters_of_the_tutorial():
    text = corpus_text("rumi")
    assert len(text) == 302
    assert len(set(text)) == 48
    assert text.startswith("\nJalāl al-Dīn")
    assert text.endswith("in his verse.")
    assert unicodedata.is_normalized("NFC", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "5a953c751273e483962da2ebab789c994f3aa316f1602aafbf064d71dc1410e7"


def test_the_sentence_on_rumi_has_the_23_words_of_the_tutorial():
    text = corpus_text("rumi-sentence")
    assert len(text.split()) == len(set(text.split())) == 23
    assert corpus_text("rumi").startswith(text)


def test_the_life_of_rumi_has_enough_words():
    words = corpus_text("rumi-life").split()
    assert 180 <= len(words) <= 260
    assert len(set(words)) >= 150


def test_every_word_of_the_life_of_rumi_follows_from_the_seven_others_in_its_window():
    words = corpus_text("rumi-life").split()
    fillers: dict[tuple[int, tuple[str, ...]], set[str]] = {}
    for start in range(len(words) - 7):
        window = words[start : start + 8]
        for place in range(8):
            others = (*window[:place], *window[place + 1 :])
            fillers.setdefault((place, others), set()).add(window[place])
    assert fillers
    assert all(len(words_that_fit) == 1 for words_that_fit in fillers.values())


def test_a_corpus_that_does_not_exist_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'rumi-life'"):
        corpus_text("rumi-live")
    with pytest.raises(UserError, match="choose one of: rumi"):
        corpus_text("xyz")


def test_dates_are_the_same_every_time_and_others_for_another_seed():
    assert date_pairs("train", 50) == date_pairs("train", 50)
    assert date_pairs("train", 50) != date_pairs("train", 50, seed=1)
    assert date_pairs("train", 3) == [
        ("5. 2. 1968", "1968-02-05"),
        ("August 21st, 2064", "2064-08-21"),
        ("23rd Feb 1983", "1983-02-23"),
    ]


def test_no_date_is_in_both_splits_or_twice_in_one():
    train, validation = (date_pairs(split) for split in ("train", "validation"))
    assert len(train) == 20_000
    assert len(validation) == 1_000
    days = [iso for _, iso in train + validation]
    assert len(set(days)) == len(days)


def test_every_format_says_the_date_that_it_was_made_from():
    months = "jan feb mar apr may jun jul aug sep oct nov dec".split()  # noqa: SIM905
    seen = set()
    for written, iso in date_pairs("train", 2_000):
        year, month, day = map(int, iso.split("-"))
        found = [int(number) for number in re.findall(r"\d+", written)]
        name = next((m for m in months if re.search(rf"\b{m}", written, re.I)), None)
        if name is not None:
            assert months.index(name) + 1 == month
            assert found == [day, year]
        elif "/" in written:
            assert found == [month, day, year]
        else:
            assert found == [day, month, year]
        weekday = re.match(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", written)
        if weekday:
            assert date(year, month, day).strftime("%a") == weekday[0]
        seen.add(re.sub(r"[A-Za-z]+|\d+", "x", written))
    assert len(seen) >= 8


def test_ordinals_and_weekdays_are_written_as_in_english():
    written = {day: FORMATS[6](datetime(1987, 3, day).date()) for day in range(1, 32)}
    endings = {day: re.search(r"\d(st|nd|rd|th)", text)[1] for day, text in written.items()}  # type: ignore[index]
    assert [day for day, ending in endings.items() if ending == "st"] == [1, 21, 31]
    assert [day for day, ending in endings.items() if ending == "nd"] == [2, 22]
    assert [day for day, ending in endings.items() if ending == "rd"] == [3, 23]
    assert FORMATS[0](date(1987, 3, 3)) == "Tuesday, 3 March 1987"


def test_more_dates_than_there_are_days_are_refused():
    with pytest.raises(ValueError, match="1,000 days"):
        date_pairs("validation", 1_001)
    with pytest.raises(ValueError, match="split"):
        date_pairs("test")  # type: ignore[arg-type]


def test_every_corpus_has_a_text():
    assert set(corpus_names()) == {"rumi", "rumi-sentence", "rumi-life", "dates"}
    assert all(corpus_text(name) for name in corpus_names())
    written, iso = corpus_text("dates").splitlines()[0].split("\t")
    assert (written, iso) == date_pairs("train", 1)[0]
