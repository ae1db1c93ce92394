from __future__ import annotations

import random

import pytest

from scratchlm.errors import UserError
from scratchlm.generation.stopping import StopWatcher


def test_text_before_a_stop_string_is_shown_however_the_text_is_cut() -> None:
    numbers = random.Random(0)
    for _ in range(2_000):
        text = "".join(numbers.choice("ab\n") for _ in range(numbers.randrange(14)))
        stops = ["".join(numbers.choice("ab\n") for _ in range(numbers.randrange(1, 5))) for _ in range(2)]
        watcher, shown, rest = StopWatcher(stops), "", text
        first = min(((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text), default=None)
        while rest and not watcher.stopped:
            size = numbers.randrange(1, 4)
            shown += watcher.push(rest[:size])
            rest = rest[size:]
            assert text.startswith(shown)
            assert first is None or len(shown) <= first[1]
        shown += watcher.finish()
        assert watcher.stopped == (first is not None)
        assert shown == (text if first is None else text[: first[1]])


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    watcher = StopWatcher(["\n\nQ:"])
    assert watcher.push("one\n") == "one"
    assert watcher.push("two\n\nQ") == "\ntwo"
    assert watcher.push("!") == "\n\nQ!"


def test_without_stop_strings_everything_passes_at_once() -> None:
    assert StopWatcher([]).push("abc") == "abc"


def test_nothing_is_shown_after_the_stop() -> None:
    watcher = StopWatcher(["."])
    assert watcher.push("a.b") == "a"
    assert watcher.push("c") == ""
    assert watcher.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UserError, match="stop string is empty"):
        StopWatcher(["a", ""])
