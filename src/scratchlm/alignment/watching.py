"""Signs that a policy is going wrong, in words, and samples of what it says."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from scratchlm.alignment.rollouts import Rollout
from scratchlm.checkpoints.files import disk_errors, write_text
from scratchlm.evaluation.diversity import distinct

SAMPLES = "samples.jsonl"
SHOWN, WIDTH = 3, 160
"""How many samples are told, and characters of each part."""
KEPT = 16
"""Samples that are kept of a rollout."""
SILENT = 3
"""Rollouts in a row of which none has told the policy anything."""


def distinct_2(completions: Sequence[Sequence[Hashable]]) -> float:
    """Distinct pairs of tokens, or words, over all pairs, within completions, over all of them together."""
    pairs = [pair for one in completions for pair in pairwise(one)]
    return distinct(pairs, 1)


@dataclass
class Watch:
    """Compares each rollout with the first."""

    entropy: float = 0.0
    """At the first step; 0 as long as it is not known."""
    variety: float = 0.0
    """Distinct-2 of the first rollout."""
    length: float = 0.0
    """Mean tokens of the first rollout."""
    silent: int = 0
    """Rollouts in a row whose rewards were all equal."""
    told: str = ""
    """The signs that have been told, and have not gone away since."""

    def look(self, rollout: int, rollouts: Sequence[Rollout], figures: dict[str, float]) -> list[str]:
        """What there is to warn of. Adds ``distinct_2`` to the figures."""
        variety = figures["distinct_2"] = distinct_2([one.completion for one in rollouts])
        length, equal = figures["length"], figures["reward_std"] == 0.0
        if rollout == 0 or not self.length:
            self.variety, self.length = variety, length
        self.silent = self.silent + 1 if equal else 0
        signs = {
            "repetition": (
                variety < 0.5 * self.variety,
                f"it repeats itself: {variety:.0%} of its pairs of tokens are different ones, {self.variety:.0%} at "
                "the start; raise the KL coefficient, or reward variety",
            ),
            "length": (
                length > 2.0 * self.length and length >= 16,
                f"its completions grow: {length:.0f} tokens, {self.length:.0f} at the start; reward a length, or see "
                "whether a reward can be had by going on",
            ),
            "silence": (
                self.silent >= SILENT,
                f"all rewards were equal in {self.silent} rollouts in a row, so that nothing is learned; give rewards "
                "that differ, easier prompts, or a higher temperature",
            ),
        }
        return self._new(signs)

    def look_at_entropy(self, entropy: float) -> list[str]:
        """The same of the entropy, nats a token, which the training finds."""
        self.entropy = self.entropy or entropy
        text = (
            f"it is sure of every token: the entropy is {entropy:.3f} nats, {self.entropy:.3f} at the start; raise the "
            "temperature or the KL coefficient, or lower the learning rate"
        )
        return self._new({"entropy": (entropy < 0.1 * self.entropy, text)})

    def _new(self, signs: dict[str, tuple[bool, str]]) -> list[str]:
        """The texts of signs that were not there before."""
        before = set(self.told.split())
        there = {name for name, (yes, _) in signs.items() if yes}
        self.told = " ".join(sorted((before - set(signs)) | there))
        return [signs[name][1] for name in signs if name in there - before]

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def write_samples(
    folder: Path | None,
    rollout: int,
    prompts: Sequence[int],
    texts: Sequence[str],
    rollouts: Sequence[Rollout],
    rewards: Sequence[float],
) -> list[str]:
    """Keep some completions in the folder's ``samples.jsonl``; lines that show the user a few.

    Args:
        prompts: their numbers among the ``texts``, each rollout's as often as it has completions.

    Raises:
        UserError: the disk refuses.
    """
    each = len(rollouts) // len(prompts)
    rows = [
        {
            "rollout": rollout + 1,
            "prompt": texts[prompts[number // each]],
            "completion": one.text,
            "reward": rewards[number],
            "finished": one.finished,
        }
        for number, one in enumerate(rollouts)
    ]
    # Of several prompts rather than all of one.
    rows = [rows[number] for number in sorted(range(len(rows)), key=lambda n: (n % each, n))][:KEPT]
    if folder is not None:
        path = folder / SAMPLES
        with disk_errors(str(path), "free some space, and go on with --resume"):
            write_text(path, "".join([*_before(path, rollout + 1), *map(_line, rows)]))
    return [
        f"  {_short(row['prompt'])} → {_short(row['completion'])}  (reward {row['reward']:.3g})" for row in rows[:SHOWN]
    ]


def _before(path: Path, rollout: int) -> list[str]:
    """The lines of earlier rollouts: a run that goes on from an older checkpoint writes the others again."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            if json.loads(line)["rollout"] < rollout:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # half a line, of a run that was killed
    return kept


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _short(text: Any) -> str:
    line = " ".join(str(text).split())
    return repr(line if len(line) <= WIDTH else line[: WIDTH - 4] + " ...")
