"""What a reader thought of answers, kept as the rows that alignment learns from.

``judged.jsonl`` has each answer that got a thumb, as ``align dpo`` with ``loss=kto`` takes it. ``preferences.jsonl`` is
made of it, as ``align dpo`` takes it: of the answers to the same conversation each good one beside each bad one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlm.checkpoints.files import disk_errors, write_rows
from scratchlm.errors import UserError
from scratchlm.reading import read_text

JUDGED, PAIRS = "judged.jsonl", "preferences.jsonl"
Row = dict[str, Any]


class Preferences:
    """The two files in a folder, which is made with the first row. Rows that others have added to ``judged.jsonl``, or
    taken out of it, count."""

    def __init__(self, folder: Path) -> None:
        self.judged, self.pairs = folder / JUDGED, folder / PAIRS
        self._lock = threading.Lock()

    def judge(self, prompt: Sequence[Row], completion: str, good: bool | None, model: str) -> Row:
        """Keep what was thought of an answer, in place of what was thought of the same before.

        Args:
            prompt: the messages before it, in OpenAI's form.
            good: None takes the judgement back.
            model: by which it was made; not looked at by trainings.

        Returns:
            As :meth:`counts`.

        Raises:
            UserError: ``judged.jsonl`` is damaged, or the folder cannot be written to.
        """
        answer = [{"role": "assistant", "content": completion}]
        with self._lock:
            rows = [row for row in self._read() if (row["prompt"], row["completion"]) != (list(prompt), answer)]
            if good is not None:
                rows.append({"prompt": list(prompt), "completion": answer, "label": good, "model": model})
            with disk_errors(str(self.judged), "name another folder with --studio-dir"):
                self.judged.parent.mkdir(parents=True, exist_ok=True)
                write_rows(self.judged, rows)
                write_rows(self.pairs, _pairs(rows))
            return self._told(rows)

    def counts(self) -> Row:
        """How many are kept, ``judged`` and ``pairs``, and ``files``: where.

        Raises:
            UserError: ``judged.jsonl`` is damaged.
        """
        with self._lock:
            return self._told(self._read())

    def _told(self, rows: Sequence[Row]) -> Row:
        files = {"judged": str(self.judged), "pairs": str(self.pairs)}
        return {"judged": len(rows), "pairs": len(_pairs(rows)), "files": files}

    def _read(self) -> list[Row]:
        if not self.judged.is_file():
            return []
        rows = []
        with disk_errors(str(self.judged), "let its owner's programs read it"):
            lines = read_text(self.judged).splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                good = isinstance(row["prompt"], list | str) and isinstance(row["completion"], list | str)
                if not good or not isinstance(row["label"], bool):
                    raise ValueError("another form")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{self.judged}, line {number}: no judged answer; mend the line, or put the file elsewhere"
                ) from error
            rows.append(row)
        return rows


def _pairs(rows: Sequence[Row]) -> list[Row]:
    """Each good answer beside each bad one to the same conversation."""
    groups: dict[str, dict[bool, list[Any]]] = {}
    for row in rows:
        key = json.dumps(row["prompt"], sort_keys=True)
        groups.setdefault(key, {True: [], False: []})[row["label"]].append(row["completion"])
    return [
        {"prompt": json.loads(key), "chosen": chosen, "rejected": rejected}
        for key, found in groups.items()
        for chosen in found[True]
        for rejected in found[False]
        if chosen != rejected
    ]
