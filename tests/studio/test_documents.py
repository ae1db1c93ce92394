"""The page of documents, and what it asks for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from scratchlm.retrieval.index import Index
from scratchlm.serving.server import Server
from scratchlm.serving.studio.settings import StudioSettings

from ..cli.conftest import library  # noqa: F401
from ..cli.library import DOCUMENTS
from ..serving.conftest import serving, wait_for
from .conftest import findings, home

BEES = DOCUMENTS["guide/bees.md"]
QUESTION = "When was the waggle dance decoded by Karl von Frisch?"


@pytest.fixture(scope="module")
def shelf(models: Path, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    """A server of the models chat and encoder, and of an index that others keep up."""
    home = tmp_path_factory.mktemp("home")
    settings = StudioSettings(runs=home / "runs", home=home / "made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(library)  # where the index finds its model
        names = [str(models / name) for name in ("chat", "encoder")]
        with serving(*names, stores=(str(library / "store"),), studio=settings, body=4096) as found:
            yield found


def get(server: Server, path: str, status: int = 200, **search: Any) -> Any:
    return told(httpx.get(f"{home(server)}studio/api/documents/{path}", params=search, timeout=60), status)


def post(server: Server, path: str, status: int = 200, **asked: Any) -> Any:
    return told(httpx.post(f"{home(server)}studio/api/documents/{path}", json=asked, timeout=60), status)


def told(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]["message"]


def upload(server: Server, name: str, file: str, data: bytes, status: int = 200, **place: int) -> Any:
    search = {"name": name, "file": file, "at": 0, "total": len(data)} | place
    url = f"{home(server)}studio/api/documents/upload"
    return told(httpx.post(url, params=search, content=data, timeout=60), status)


def indexed(server: Server, name: str) -> Any:
    wait_for(lambda: get(server, "files", name=name)["job"]["state"] != "running", 60.0)
    return get(server, "files", name=name)


def ask(server: Server, **asked: Any) -> list[dict[str, Any]]:
    url = f"{home(server)}studio/api/documents/ask"
    with httpx.stream("POST", url, json=asked, timeout=60) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    found = [json.loads(line) for line in lines if line != "[DONE]"]
    assert (lines[-1] == "[DONE]") != ("error" in found[-1])
    return found


@pytest.fixture(scope="module")
def garden(shelf: Server) -> str:
    """A collection with two files, indexed."""
    post(shelf, "make", name="garden", model="encoder")
    for name in ("bees.md", "tea.md"):
        upload(shelf, "garden", name, DOCUMENTS[f"guide/{name}"].encode())
    assert get(shelf, "files", name="garden")["waiting"] == ["bees.md", "tea.md"]
    post(shelf, "index", name="garden")
    assert indexed(shelf, "garden")["job"]["state"] == "done"
    return "garden"


def test_what_is_there_is_listed(shelf: Server, garden: str) -> None:
    found = get(shelf, "")
    assert found["collections"] == [{"name": "store", "own": False}, {"name": garden, "own": True}]
    assert found["embedders"][-1] == "encoder"
    assert found["writers"] == ["chat"]
    assert found["piece"] == 4096
    files = get(shelf, "files", name="store")
    assert {one["path"] for one in files["files"]} == set(DOCUMENTS)
    assert files["waiting"] == []


def test_files_are_added_changed_and_removed(shelf: Server) -> None:
    post(shelf, "make", name="files", model="encoder")
    assert shelf.settings.studio is not None
    folder = shelf.settings.studio.home / "documents" / "files"
    long = "".join(f"Cell {n} has six sides.\n" for n in range(500)).encode()
    for at in range(0, len(long), 4000):
        found = upload(shelf, "files", "Größe 1.txt", long[at : at + 4000], at=at, total=len(long))
        assert found["whole"] == (at + 4000 >= len(long))
    assert (folder / "Größe 1.txt").read_bytes() == long
    upload(shelf, "files", "bees.md", BEES.encode())
    upload(shelf, "files", "no.pdf", b"no pdf at all")
    post(shelf, "index", name="files")
    files = indexed(shelf, "files")
    assert [one["path"] for one in files["files"]] == ["Größe 1.txt", "bees.md"]
    assert files["chunks"] == sum(one["chunks"] for one in files["files"])
    assert [one["path"] for one in files["passed_over"]] == ["no.pdf"]
    assert files["waiting"] == []
    upload(shelf, "files", "bees.md", b"Bees sleep at night.\n")
    post(shelf, "remove", name="files", file="Größe 1.txt")
    files = indexed(shelf, "files")
    assert [one["path"] for one in files["files"]] == ["bees.md"]
    assert files["chunks"] == 1
    assert "no file" in post(shelf, "remove", 404, name="files", file="../files/bees.md")
    index = Index.open(shelf.settings.studio.home / "indexes" / "files")
    assert index.passages("bees.md")[0].text.startswith("Bees sleep")


@pytest.mark.parametrize(
    "name", ["../x.txt", "a/b.txt", "a\\b.txt", ".hidden", "~$x.docx", "", "a\nb.txt", " a.txt", "a" * 201]
)
def test_a_file_has_a_plain_name(shelf: Server, garden: str, name: str) -> None:
    assert "no name for a file" in upload(shelf, garden, name, b"text", 400)


def test_what_cannot_be_added_is_told(shelf: Server, garden: str) -> None:
    assert "hold no text" in upload(shelf, garden, "bees.png", b"picture", 400)
    assert "more than the 100,000,000" in upload(shelf, garden, "bees.txt", b"a", 400, total=10**9)
    assert "is empty" in upload(shelf, garden, "bees.txt", b"", 400)
    assert "added by another page" in upload(shelf, garden, "bees.txt", b"a", 409, at=5, total=6)
    assert "larger than 4,096" in upload(shelf, garden, "bees.txt", b"a" * 5000, 413)
    assert "scratchlm index" in upload(shelf, "store", "bees.txt", b"a", 400)
    assert "scratchlm index" in post(shelf, "index", 400, name="store")
    for name in ("nothing", "..", "../garden", ""):
        assert "no documents" in upload(shelf, name, "bees.txt", b"a", 404)
        assert "no documents" in get(shelf, "files", 404, name=name)
    assert "no good name" in post(shelf, "make", 400, name="../x", model="encoder")
    for taken in (garden, "store", "chat"):
        assert "already" in post(shelf, "make", 400, name=taken, model="encoder")
    assert "no model" in post(shelf, "make", 404, name="other", model="nobody")


def test_an_answer_comes_with_its_places(shelf: Server, garden: str) -> None:
    *pieces, last = ask(shelf, name=garden, question=QUESTION)
    answer = last["answer"]
    assert "".join(one["text"] for one in pieces) == answer["text"]
    assert not answer["refused"]
    cited = answer["sentences"][0]["citations"][0]
    assert cited["file"] == "bees.md"
    source = get(shelf, "source", name=garden, file="bees.md", start=cited["start"], end=cited["end"])
    marked = [(one["line"], text) for one in source["lines"] for text, mark in one["parts"] if mark]
    assert "\n".join(text for _, text in marked).rstrip() == cited["quote"].rstrip()
    assert BEES.splitlines()[marked[0][0] - 1].startswith(marked[0][1][:20])
    assert "no file" in get(shelf, "source", 404, name=garden, file="nothing.md")


def test_a_written_answer_comes_from_the_served_model(shelf: Server, garden: str) -> None:
    *pieces, last = ask(shelf, name=garden, question=QUESTION, writer="chat")
    assert len(pieces) > 1
    assert "".join(one["text"] for one in pieces).strip() == last["answer"]["text"]
    assert last["answer"]["timings"]["writing"] > 0
    (refused,) = ask(shelf, name=garden, question=QUESTION, writer="nobody")
    assert "does not exist" in refused["error"]["message"]
    (refused,) = ask(shelf, name=garden, question=QUESTION, writer="encoder")
    assert "cannot continue text" in refused["error"]["message"]
    (refused,) = ask(shelf, name=garden, question=" ")
    assert "question is empty" in refused["error"]["message"]
    assert "no documents" in ask(shelf, name="nothing", question="a")[0]["error"]["message"]


def test_an_answer_that_nobody_reads_is_stopped(shelf: Server, garden: str) -> None:
    loaded = shelf.models.served["chat"].loaded
    assert loaded is not None
    url = f"{home(shelf)}studio/api/documents/ask"
    with httpx.stream("POST", url, json={"name": garden, "question": QUESTION, "writer": "chat"}, timeout=60) as answer:
        next(answer.iter_lines())
        begun = time.monotonic()
    wait_for(lambda: loaded.load == (0, 0) and shelf.models.served["chat"].users == 0)
    assert time.monotonic() - begun < 10
    assert ask(shelf, name=garden, question=QUESTION)[-1]["answer"]["text"]  # the turn is free


def test_a_served_index_sees_what_is_indexed_meanwhile(models: Path, tmp_path: Path) -> None:
    """Also that a collection may be served by its store's folder, and is still the studio's own."""
    settings = StudioSettings(runs=tmp_path / "runs", home=tmp_path / "made")
    names = [str(models / name) for name in ("chat", "encoder")]
    with serving(*names, studio=settings) as server:
        assert get(server, "")["collections"] == []
        post(server, "make", name="bees", model="encoder")
    store = tmp_path / "made" / "indexes" / "bees"
    with serving(*names, stores=(str(store),), studio=settings) as server:
        assert get(server, "")["collections"] == [{"name": "bees", "own": True}]
        upload(server, "bees", "bees.md", BEES.encode())
        post(server, "index", name="bees")
        indexed(server, "bees")
        asked = {"query": "waggle dance"}
        found = httpx.post(f"{server.url}/vector_stores/bees/search", json=asked, timeout=60).json()
        assert found["data"][0]["filename"] == "bees.md"


def test_the_page_takes_files_answers_and_opens_the_cited_lines(
    shelf: Server, tmp_path: Path, visit: Callable[..., Page]
) -> None:
    for name in ("bees.md", "tea.md"):
        (tmp_path / name).write_text(DOCUMENTS[f"guide/{name}"])
    (tmp_path / "bees.png").write_bytes(b"picture")
    page = visit(shelf, "documents", told_of="400")
    page.get_by_text("A new collection").click()
    page.get_by_label("Its name").fill("hive")
    page.get_by_label("Vectors by").select_option("encoder")
    page.get_by_role("button", name="Make").click()
    expect(page.get_by_label("Collection", exact=True)).to_have_value("hive")
    page.get_by_label("Add files").set_input_files([tmp_path / name for name in ("bees.md", "bees.png", "tea.md")])
    expect(page.get_by_role("alert")).to_contain_text("bees.png is not read")
    files = page.get_by_role("region", name="Files").get_by_role("row")
    expect(files).to_have_count(3)
    expect(files.nth(1)).to_contain_text("bees.md")
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    answer = page.get_by_role("article")
    expect(answer).to_contain_text("The waggle dance was decoded by Karl von Frisch in 1927.")
    expect(answer).to_contain_text("probability")
    assert findings(page) == []
    answer.get_by_role("button", name="Source 1: bees.md, line").first.click()
    source = page.get_by_role("dialog", name="bees.md")
    expect(source.locator("mark")).to_have_text("The waggle dance was decoded by Karl von Frisch in 1927.")
    line = BEES[: BEES.index("The waggle")].count("\n") + 1
    expect(source.locator(".line", has=page.locator("mark")).locator(".line-number")).to_have_text(str(line))
    assert findings(page) == []
    page.keyboard.press("Escape")
    expect(source).to_be_hidden()
    page.get_by_label("Answered").select_option("chat")
    page.get_by_label("Question").fill("And where do the flowers stand?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.get_by_role("article").nth(1).locator(".faint").first).to_be_visible()
    page.get_by_role("button", name="Remove tea.md").click()
    expect(files).to_have_count(2)
    page.get_by_role("button", name="bees.md", exact=True).click()
    expect(source.locator("mark")).to_have_count(0)
    expect(source.locator(".line-text").nth(0)).not_to_be_empty()


@pytest.mark.parametrize(("theme", "width"), [("dark", 1280), ("light", 380)])
def test_it_fits_and_is_accessible(
    shelf: Server, garden: str, visit: Callable[..., Page], theme: str, width: int
) -> None:
    page = visit(shelf, f"documents?name={garden}", theme=theme, width=width)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("article")).to_contain_text("probability")
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("article").get_by_role("button", name="Source 1").first.click()
    expect(page.get_by_role("dialog").locator("mark")).to_be_visible()
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
