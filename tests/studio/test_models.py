"""The page of models, and what it asks for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from playwright.sync_api import Page, expect

from scratchlm.checkpoints.meter import Meter
from scratchlm.opening import open_model
from scratchlm.serving.errors import ApiError
from scratchlm.serving.server import Server
from scratchlm.serving.studio.jobs import Jobs
from scratchlm.serving.studio.settings import StudioSettings

from ..checkpoints.hub_server import MODEL, Hub
from ..checkpoints.hub_server import serving as serving_hub
from ..serving.conftest import serving, wait_for, write_adapter
from .conftest import findings, home


@pytest.fixture
def hub(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this machine with one model, and caches that are empty."""
    for name in ("SCRATCHLM_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "theirs"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Hub()
    made.files = {path.name: path.read_bytes() for path in (models / "chat").iterdir()}
    with serving_hub(made) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def server(hub: Hub, models: Path, tmp_path: Path) -> Iterator[Server]:
    """A server of chat and of an adapter for it, with a folder of runs and caches of its own."""
    assert hub.url
    write_adapter(models / "chat", tmp_path / "tuned")
    settings = StudioSettings(runs=tmp_path / "runs", home=tmp_path / "made")
    with serving(str(models / "chat"), adapters=(str(tmp_path / "tuned"),), studio=settings) as found:
        yield found


def listed(server: Server) -> Any:
    return httpx.get(f"{home(server)}studio/api/models/", timeout=20).json()


def post(server: Server, path: str, status: int = 200, **asked: Any) -> Any:
    answer = httpx.post(f"{home(server)}studio/api/models/{path}", json=asked, timeout=20)
    assert answer.status_code == status, answer.text
    return answer.json()


def ended(server: Server) -> dict[str, Any]:
    """The newest job, once it has ended."""
    wait_for(lambda: listed(server)["jobs"][0]["state"] != "running")
    found: dict[str, Any] = listed(server)["jobs"][0]
    return found


def test_what_is_served_is_told_with_its_sizes(server: Server, models: Path) -> None:
    found = listed(server)
    chat, tuned = found["served"]
    assert (chat["name"], tuned["name"]) == ("chat", "tuned")
    assert chat["bytes"] == (models / "chat" / "model.safetensors").stat().st_size
    assert (chat["loaded"], tuned["loaded"]) == (True, False)
    assert found["used"] == chat["memory"] <= found["budget"] == 10**9
    assert (tuned["kind"], tuned["base"]) == ("adapter", str(models / "chat"))
    assert {row["here"] for row in found["catalogue"]} == {None}  # the caches are empty
    assert found["runs"] == found["jobs"] == []


def test_a_pulled_model_is_offered_and_can_be_served(server: Server, hub: Hub) -> None:
    assert post(server, "pull", name=MODEL)["state"] == "running"
    done = ended(server)
    assert (done["state"], done["what"], done["name"]) == ("done", "pull", MODEL)
    assert (Path(done["path"]) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert [row["name"] for row in listed(server)["runs"]] == [MODEL]
    assert post(server, "serve", name=MODEL)["model"] == MODEL
    assert listed(server)["runs"] == []
    asked = {"prompt": "a", "temperature": 0, "max_tokens": 8}
    texts = [
        httpx.post(f"{server.url}/completions", json={**asked, "model": name}, timeout=20).json()["choices"][0]["text"]
        for name in ("chat", MODEL)
    ]
    assert texts[0] == texts[1]


def test_a_pull_that_fails_says_why(server: Server, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    post(server, "pull", name="no model")
    assert "the catalogue has no model" in ended(server)["said"]
    hub.sent["model.safetensors"] = b"other"
    post(server, "pull", name=MODEL)
    failed = ended(server)
    assert (failed["state"], failed["path"]) == ("failed", None)
    monkeypatch.setenv("SCRATCHLM_OFFLINE", "1")
    post(server, "pull", name=MODEL)
    assert "switched off" in ended(server)["said"]


def test_an_adapter_is_exported_merged_and_both_forms_are_the_same_model(server: Server, tmp_path: Path) -> None:
    ids = torch.tensor([[5, 99, 7, 200]])
    with torch.no_grad():
        ours = open_model(tmp_path / "tuned").model(ids)
    for to, kind, near in (("huggingface", "f16", 1e-5), ("gguf", "f16", 0.1)):
        post(server, "export", model="tuned", to=to, kind=kind, name="merged")
        done = ended(server)
        assert done["state"] == "done", done["said"]
        with torch.no_grad():
            theirs = open_model(done["path"]).model(ids)
        assert torch.allclose(theirs, ours, atol=near, rtol=0)
    exports = tmp_path / "made" / "exports"
    assert sorted(path.name for path in exports.iterdir()) == ["merged", "merged.gguf"]
    post(server, "export", model="tuned", to="huggingface", name="merged")
    assert "exists already" in ended(server)["said"]


@pytest.mark.parametrize("name", ["", "..", "../out", "/tmp/out", "a/b", ".hidden", "a\\b", "a\x00", "x" * 101])
def test_an_export_stays_in_its_folder(server: Server, tmp_path: Path, name: str) -> None:
    assert "no good name" in post(server, "export", 400, model="chat", to="gguf", name=name)["error"]["message"]
    assert not (tmp_path / "made").exists()


def test_only_what_is_offered_is_served_or_exported(server: Server, models: Path) -> None:
    for name in (str(models / "other"), "nobody", "runs/none"):
        assert "no model" in post(server, "serve", 404, name=name)["error"]["message"]
        refused = post(server, "export", 404, model=name, to="gguf", name="out")
        assert "no model" in refused["error"]["message"]
    assert "not on this machine" in post(server, "serve", 400, name="gpt2")["error"]["message"]


def test_jobs_are_few_at_a_time_and_one_of_a_kind() -> None:
    jobs, go = Jobs(), threading.Event()

    def work(job: Meter) -> Path:
        job.show("file", 3, 10)
        assert go.wait(20)
        return Path("there")

    first = jobs.begin("pull", "a", work)
    with pytest.raises(ApiError, match="already"):
        jobs.begin("pull", "a", work)
    jobs.begin("export", "a", work)
    with pytest.raises(ApiError, match="wait until one has ended") as caught:
        jobs.begin("pull", "b", work)
    assert caught.value.status == 429
    wait_for(lambda: jobs.told()[1]["done"] == 3)
    assert jobs.told()[1]["number"] == first["number"]
    go.set()
    wait_for(lambda: all(job["state"] == "done" for job in jobs.told()))
    assert {job["path"] for job in jobs.told()} == {"there"}
    for number in range(30):
        jobs.begin("pull", str(number), lambda _job: Path())
        wait_for(lambda: jobs.told()[0]["state"] == "done")
    assert len(jobs.told()) <= 22


def test_the_page_fetches_serves_and_exports(
    server: Server, hub: Hub, runs: Path, tmp_path: Path, visit: Callable[..., Page]
) -> None:
    shutil.copytree(runs / "gpt", tmp_path / "runs" / "gpt")
    page = visit(server, "models", told_of="400")
    row = page.get_by_role("region", name="Served", exact=True).get_by_role("row", name="chat", exact=False)
    expect(row.first).to_contain_text("32,096")
    page.get_by_role("button", name="Serve runs/gpt").click()
    expect(page.get_by_role("region", name="Served", exact=True)).to_contain_text("runs/gpt")
    hub.stall_at = 2000
    page.get_by_label("Or any model of the hub").fill(MODEL)
    page.get_by_label("Or any model of the hub").press("Enter")
    expect(page.get_by_role("progressbar", name=f"Of {MODEL}")).to_be_visible()
    hub.stall_at = None
    hub.resume.set()
    expect(page.get_by_text(f"Fetching {MODEL}: done")).to_be_visible()
    expect(page.get_by_role("button", name=f"Serve {MODEL}")).to_be_visible()
    page.get_by_label("Model", exact=True).select_option("runs/gpt")
    page.get_by_label("As", exact=True).select_option("huggingface")
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_text("Exporting runs/gpt: done")).to_be_visible()
    assert (tmp_path / "made" / "exports" / "gpt" / "model.safetensors").is_file()
    page.get_by_label("By the name").fill("../out")
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_role("alert")).to_contain_text("no good name")
    assert findings(page) == []
