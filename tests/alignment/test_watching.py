"""What is told of a policy that goes wrong, and what is kept of what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scratchlm.alignment.rollouts import Rollout
from scratchlm.alignment.watching import KEPT, Watch, distinct_2, write_samples


def rollouts(*completions: list[int]) -> list[Rollout]:
    return [Rollout(0, [1], one, [True] * len(one), [0.0] * len(one), "end", f"say {one}") for one in completions]


def figures(length: float = 20.0, std: float = 1.0) -> dict[str, float]:
    return {"length": length, "reward_std": std}


def test_distinct_pairs_are_counted_within_completions() -> None:
    assert distinct_2([[1, 2, 1, 2], [1, 2]]) == pytest.approx(2 / 4)
    assert distinct_2([[1], []]) == 0.0


def test_repetition_and_growth_are_told_once_until_they_have_gone() -> None:
    watch, varied, same = Watch(), rollouts([*range(20)]), rollouts([1] * 20)
    assert watch.look(0, varied, figures()) == []
    assert watch.look(1, varied, figures(39.0)) == []
    told = watch.look(2, same, figures(41.0))
    assert [text[:20] for text in told] == ["it repeats itself: 5", "its completions grow"]
    assert watch.look(3, same, figures(41.0)) == []
    assert watch.look(4, varied, figures()) == []
    assert len(watch.look(5, same, figures())) == 1


def test_rewards_that_are_all_equal_are_told_after_three_rollouts() -> None:
    watch = Watch()
    told = [len(watch.look(n, rollouts([1, 2]), figures(std=std))) for n, std in enumerate([0, 0, 1, 0, 0, 0, 0])]
    assert told == [0, 0, 0, 0, 0, 1, 0]


def test_a_collapse_of_entropy_is_told_and_what_is_known_goes_into_a_checkpoint() -> None:
    watch = Watch()
    assert watch.look_at_entropy(2.0) == []
    again = Watch()
    again.restore(json.loads(json.dumps(watch.state())))
    assert again.look_at_entropy(0.3) == []
    assert again.look_at_entropy(0.1)[0].startswith("it is sure of every token: the entropy is 0.100 nats, 2.000 at")
    again.look(0, rollouts([1, 2]), figures())
    assert again.look_at_entropy(0.1) == []


def test_samples_are_of_many_prompts_and_written_again_after_an_older_checkpoint(tmp_path: Path) -> None:
    made = rollouts(*([n] for n in range(40)))

    def write(rollout: int) -> list[str]:
        return write_samples(tmp_path, rollout, [3, 1], ["a", "b", "c", "d"], made, [float(n) for n in range(40)])

    shown = write(0)
    assert shown[0] == "  'd' → 'say [0]'  (reward 0)"
    assert shown[1] == "  'b' → 'say [20]'  (reward 20)"
    write(5)
    whole = (tmp_path / "samples.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["rollout"] for row in rows] == [1] * KEPT + [6] * KEPT
    assert rows[1] == {"rollout": 1, "prompt": "b", "completion": "say [20]", "reward": 20.0, "finished": True}
    (tmp_path / "samples.jsonl").write_text(whole + whole[:30], encoding="utf-8")  # killed while it wrote
    write(5)
    assert (tmp_path / "samples.jsonl").read_text(encoding="utf-8") == whole


def test_a_long_sample_is_shown_on_one_short_line() -> None:
    (line,) = write_samples(None, 0, [0], ["a\nb"], rollouts([1] * 400), [0.5])
    assert line.startswith("  'a b' → 'say [1, 1,")
    assert len(line) < 400
