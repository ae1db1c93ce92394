"""The page of runs: what there is in the folder of runs, how each training goes, and what its model says."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from scratchlm.adapters.run import TUNING
from scratchlm.alignment.watching import SAMPLES
from scratchlm.checkpoints.run import CARD, DESCRIPTION, METRICS, SETTINGS, RunFolder
from scratchlm.errors import UserError
from scratchlm.evaluation.plots import read_metrics
from scratchlm.evaluation.tuned import REPORT, read_report
from scratchlm.models.config import TAUGHT
from scratchlm.reading import read_text
from scratchlm.serving.errors import JSON, ApiError
from scratchlm.serving.registry import Loaded, Registry
from scratchlm.serving.studio.finding import run_folder, runs_below, served_name
from scratchlm.training.card import how_it_ended

_MOST_POINTS, _MOST_SAMPLES = 1500, 64
_SILENCE = 120.0
"""Seconds without a sign after which a training that did not end is taken for one that was broken off."""
_SHOWN = ("step", "loss", "validation_loss", "reward", "tokens_per_second", "seconds")
"""Of the last record, what the list shows."""


class SampleRequest(BaseModel):
    """A text for a run's model to answer, to fill, or to judge."""

    model_config = ConfigDict(extra="forbid")
    run: str
    text: str = Field(max_length=20_000)
    max_tokens: int = Field(default=100, ge=1, le=2048)


class RunRequest(BaseModel):
    """A run to be served."""

    model_config = ConfigDict(extra="forbid")
    run: str


def routes(models: Registry) -> APIRouter:
    """What the page of runs asks for."""
    router = APIRouter()
    assert models.settings.studio is not None
    root = models.settings.studio.runs

    @router.get("/")
    async def listed() -> Response:
        """Every run, the newest first."""
        runs = await models.work(_runs, root)
        return JSON({"folder": str(root), "runs": runs})

    @router.get("/curves")
    async def curves(run: str = Query()) -> Response:
        """The numbers of one, column by column."""
        return JSON(await models.work(_curves, _folder(root, run)))

    @router.get("/about")
    async def about(run: str = Query()) -> Response:
        """Its settings, its report, its card, and the samples that its training kept."""
        return JSON(await models.work(_about, _folder(root, run)))

    @router.post("/serve")
    async def serve(asked: RunRequest) -> Response:
        """Serve a run's model, as far as it is trained by now; from here on the API has it."""
        return JSON({"model": await _served(models, root, asked.run)})

    @router.post("/sample")
    async def sample(asked: SampleRequest) -> Response:
        """What a model says that is no decoder; of a decoder the API's ``/v1/completions`` tells, word by word."""
        name = await _served(models, root, asked.run)
        async with models.use(name) as loaded, models.turn():
            return JSON(await models.work(_sample, loaded, asked))

    return router


def _folder(root: Path, name: str) -> RunFolder:
    return RunFolder(run_folder(root, name))


async def _served(models: Registry, root: Path, run: str) -> str:
    folder = run_folder(root, run)
    return (await models.add(str(folder), served_name(root, folder))).name


# -- the list -------------------------------------------------------------------------------------------------------


def _runs(root: Path) -> list[dict[str, Any]]:
    rows = [_row(root, folder) for folder in runs_below(root)]
    return sorted(rows, key=lambda row: -row["changed"])


def _row(root: Path, folder: Path) -> dict[str, Any]:
    """One run in short. What is damaged is told in its row, and hides no other."""
    changed = max(_changed(folder / name) for name in (DESCRIPTION, METRICS, CARD, REPORT))
    name = folder.relative_to(root).as_posix()
    try:
        told = _described(folder, _changed(folder / DESCRIPTION), _changed(folder / SETTINGS))
        records = _records(folder)
    except UserError as error:
        return {"name": name, "changed": changed, "state": "damaged", "error": str(error)}
    last = {key: value for record in records[-50:] for key, value in record.items()}
    state = _state(folder, changed)
    shown = {key: _finite(last.get(key)) for key in _SHOWN}
    return {**told, "name": name, "changed": changed, "state": state, "stamp": _stamp(folder), "last": shown}


@lru_cache(maxsize=512)
def _described(folder: Path, _description: float, _settings: float) -> dict[str, Any]:
    """What does not change while a run trains; the stamps tell when it has changed all the same."""
    run = RunFolder(folder)
    description, settings = run.description(), run.settings()
    tuned = description.get(TUNING) or {}
    return {
        "preset": description.get("preset"),
        "use": _use(description["model"]),
        "verb": tuned.get("verb", "train"),
        "method": tuned.get("method"),
        "data": str((description.get("data") or {}).get("name", "")),
        "steps": settings.get("steps"),
    }


def _use(model: Mapping[str, Any]) -> str:
    """What the model does with a text: ``write`` on, ``answer``, ``fill`` gaps, ``judge`` it, or make ``vectors``."""
    head = model.get("head", "linear")
    if head in TAUGHT or head == "none":
        return "judge" if head in TAUGHT else "vectors"
    return {"encoder": "fill", "seq2seq": "answer"}.get(str(model.get("architecture")), "write")


def _state(folder: Path, changed: float) -> str:
    """``finished``, ``training`` or ``stopped``. A lock that is left over from a process that was killed looks like
    one that is held, so that what has been silent for long counts as stopped."""
    if (folder / ".lock").exists() and time.time() - changed < max(_SILENCE, _patience(folder)):
        return "training"
    card = folder / CARD  # one that is older than the log is of the training before a resumed one
    if _changed(card) >= _changed(folder / METRICS) > 0 and how_it_ended(read_text(card)) in ("finished", "patience"):
        return "finished"
    return "stopped"


def _patience(folder: Path) -> float:
    """Five times the seconds between two records, where there are two."""
    seconds = [record.get("seconds") for record in _records(folder)[-2:]]
    pair = [one for one in seconds if isinstance(one, int | float)]
    return 5.0 * (pair[1] - pair[0]) if len(pair) == 2 else 0.0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _stamp(folder: Path) -> str:
    """Changes when there are new records."""
    try:
        found = (folder / METRICS).stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


# -- the curves -----------------------------------------------------------------------------------------------------


def _records(folder: Path) -> Sequence[dict[str, Any]]:
    """What a run has logged; nothing before its first record."""
    stamp = _stamp(folder)
    return () if not stamp or stamp.endswith("-0") else _read(folder, stamp)


@lru_cache(maxsize=32)
def _read(folder: Path, _stamp: str) -> Sequence[dict[str, Any]]:
    return tuple(read_metrics(folder / METRICS))


def _curves(run: RunFolder) -> dict[str, Any]:
    records = _records(run.path)
    kept = _thinned(records, _MOST_POINTS)
    names = dict.fromkeys(key for record in kept for key, value in record.items() if isinstance(value, int | float))
    columns = {name: [_finite(record.get(name)) for record in kept] for name in names}
    return {"records": len(records), "stamp": _stamp(run.path), "columns": columns}


def _thinned(records: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Evenly spaced records, the last among them, and those with more to tell than others, such as a validation."""
    if len(records) <= most:
        return list(records)
    usual = len(records[0])
    chosen = {round(number * (len(records) - 1) / (most - 1)) for number in range(most)}
    rare = [number for number, record in enumerate(records) if len(record) > usual]
    chosen |= set(rare) if len(rare) <= most else set(rare[:: -(-len(rare) // most)])
    return [records[number] for number in sorted(chosen)]


def _finite(value: Any) -> float | None:
    """A number that JSON has."""
    number = isinstance(value, int | float) and math.isfinite(value)
    return value if number else None


# -- the rest of a run ----------------------------------------------------------------------------------------------


def _about(run: RunFolder) -> dict[str, Any]:
    description = run.description()
    report = read_report(run.path) if (run.path / REPORT).is_file() else None
    card = run.path / CARD
    return {
        "settings": _flat(run.settings()),
        "model": _flat(description["model"]),
        "made_of": _flat({name: description.get(name) for name in ("preset", "tokenizer", "data", TUNING)}),
        "report": None if report is None else _flat(report),
        "samples": _samples(run.path, report),
        "card": read_text(card) if card.is_file() else None,
        "resume": run.resume_command(),
        "path": str(run.path),
    }


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values as one level, ``data.name``; what is empty, and lists of long things, are left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        elif isinstance(value, list):
            if value and all(isinstance(one, str | int | float | bool) for one in value):
                found[before + name] = ", ".join(map(str, value[:32]))
        elif value is not None:
            found[before + name] = str(value) if isinstance(value, float) and not math.isfinite(value) else value
    return found


def _samples(folder: Path, report: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Texts that the training kept: of a fine-tuning the continuations before and after, of PPO and GRPO those of the
    last rollouts."""
    found: list[dict[str, Any]] = []
    for when in ("before", "after"):
        figures = (report or {}).get(when) or {}
        parts = ("prompt", "reference", "output")
        found += [{"when": when, **{key: one.get(key) for key in parts}} for one in figures.get("samples") or []]
    path = folder / SAMPLES
    lines = read_text(path).splitlines()[-_MOST_SAMPLES:] if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
            when = f"rollout {row['rollout']}"
            kept = {"prompt": row["prompt"], "output": row["completion"], "reward": _finite(row["reward"])}
        except (ValueError, KeyError, TypeError):  # a line that is being written
            continue
        found.append({"when": when, **kept})
    return found


def _sample(loaded: Loaded, asked: SampleRequest) -> dict[str, Any]:
    model = loaded.model
    if model.config.head in TAUGHT:
        (judged,) = model.predict([asked.text])
        return {"kind": "judged", "judged": judged.to_dict()}
    if model.config.architecture == "encoder":
        gaps = [[{"word": word, "probability": p} for word, p in gap] for gap in model.fill(asked.text)]
        return {"kind": "gaps", "gaps": gaps}
    if model.config.architecture == "seq2seq":
        most = min(asked.max_tokens, model.config.context - 1)
        (made,) = model.generate(asked.text, max_new_tokens=most, greedy=True)
        return {"kind": "text", "text": made.completion}
    raise ApiError(400, f"{loaded.name} writes on; ask /v1/completions", param="run")
