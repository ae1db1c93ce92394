"""The data sets known by a short name, and where the file of each lies."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

import yaml

from scratchlm.cache import models_folder
from scratchlm.checkpoints.catalogue import Package
from scratchlm.checkpoints.stored import RECORD, Recorded, check_sizes, read_record, sha256_of
from scratchlm.errors import UserError

_SENTIMENTS = {"0": "negative", "1": "positive"}


@dataclass(frozen=True)
class DataSet:
    """Rows of text that come in a Python package."""

    name: str
    form: Literal["rated", "reviews", "entities"]
    """``rated``: JSON lines with text, rating (the mean) and ratings (each person's, from -4 to 4); ``reviews``: CSV
    with text and label; ``entities``: CoNLL, a token and its tag a line."""
    part: str
    """What is taken of the package's file, which may hold several sets."""
    file: str
    """The name of the file that is made."""
    rows: int
    licence: str
    purpose: str
    package: Package

    @property
    def folder(self) -> Path:
        """Where the file lies in our cache, with its record; need not exist."""
        return models_folder().with_name("data") / self.name

    def convert(self, raw: Path, target: Path) -> dict[str, Recorded]:
        """Make the file in ``target`` of the package's files, which lie in ``raw``; return its record."""
        (source,) = (raw / name for name in self.package.files)
        path = target / self.file
        if self.form == "entities":
            source.replace(path)
        elif self.form == "reviews":
            _take_reviews(source, self.part, path)
        else:
            _take_rated(source, self.part, path)
        return {self.file: Recorded(path.stat().st_size, sha256_of(path))}


@cache
def data_sets() -> dict[str, DataSet]:
    """The catalogue's data sets: short name -> data set."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return {name: _data_set(name, values) for name, values in yaml.safe_load(text).items()}


def data_file(name: str) -> Path | None:
    """The file of a data set that was fetched; None where ``name`` is no data set's.

    Raises:
        UserError: it is known but not on this machine, or its file is damaged; the line says how to fetch it.
    """
    data = data_sets().get(name)
    if data is None:
        return None
    cure = f"scratchlm models pull {name}"
    if not (data.folder / RECORD).exists():
        raise UserError(f"the data set {name} is not on this machine yet; fetch it with: {cure}")
    check_sizes(
        data.folder, read_record(data.folder / RECORD, f"fetch it again with: {cure}"), f"fetch it with: {cure}"
    )
    return data.folder / data.file


def data_overview() -> list[dict[str, Any]]:
    """The data sets as rows for people and programs. ``here`` is ``data``, ``damaged`` or None."""
    rows = []
    for data in data_sets().values():
        path, here = None, None
        if (data.folder / RECORD).exists():
            try:
                path, here = data_file(data.name), "data"
            except UserError:
                here = "damaged"
        kept = {name: getattr(data, name) for name in ("name", "form", "rows", "licence", "purpose")}
        package = f"{data.package.name}=={data.package.version}"
        rows.append({**kept, "package": package, "here": here, "path": str(path) if path is not None else None})
    return rows


# -- what is made of the packages' files ------------------------------------------------------------------------------


def _take_rated(archive: Path, part: str, path: Path) -> None:
    """JSON lines of two tables of an archive: ids with the mean and the text, ids with each person's rating. (The means
    of 199 tweets are not those of their ratings; they are kept as published.)"""
    with tarfile.open(archive) as tables:
        ratings = {row[0]: json.loads(row[-1]) for row in _table(tables, f"{part}_anonDataRatings.txt")}
        with path.open("w", encoding="utf-8", newline="\n") as out:
            for number, mean, text in _table(tables, f"{part}_GroundTruth.txt"):
                row = {"text": text.strip(), "rating": float(mean), "ratings": ratings[number]}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _table(tables: tarfile.TarFile, name: str) -> Iterator[list[str]]:
    """The rows of a table in an archive, whose members are read where they are and never unpacked."""
    member = tables.extractfile(f"hutto_ICWSM_2014/{name}")
    assert member is not None  # the archive's sha256 is known
    with TextIOWrapper(member, encoding="utf-8-sig", newline="\n") as lines:
        yield from (line.rstrip("\r\n").split("\t") for line in lines)


def _take_reviews(table: Path, part: str, path: Path) -> None:
    with table.open(encoding="utf-8", newline="") as rows, path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["text", "label"])
        for row in csv.DictReader(rows):
            if row["source"] == part:
                writer.writerow([row["text"].strip(), _SENTIMENTS[row["label"]]])


def _data_set(name: str, values: dict[str, Any]) -> DataSet:
    package = dict(values["package"])
    files = {file: Recorded(size, sha256) for file, (size, sha256) in package.pop("files").items()}
    return DataSet(name, **{**values, "package": Package(**package, files=files)})
