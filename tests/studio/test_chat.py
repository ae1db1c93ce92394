"""The page of chats, what it asks for, and the rows that it keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from scratchlm.data.records import read_records
from scratchlm.errors import UserError
from scratchlm.serving.server import Server
from scratchlm.serving.studio.preferences import JUDGED, PAIRS, Preferences
from scratchlm.serving.studio.settings import StudioSettings

from ..serving.conftest import serving, write_chat_model
from .conftest import findings, home

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def talking(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of chat, other, plain and encoder."""
    place = tmp_path_factory.mktemp("talking")
    names = [str(models / name) for name in ("chat", "other", "plain", "encoder")]
    with serving(*names, studio=StudioSettings(runs=place / "runs", home=place / "made")) as found:
        yield found


# ---- the rows


def test_alignment_reads_what_is_kept(tmp_path: Path) -> None:
    kept = Preferences(tmp_path / "made")
    assert kept.counts()["judged"] == 0
    assert not (tmp_path / "made").exists()
    kept.judge(ASKED, "Blue.", True, "a")
    kept.judge(ASKED, "Well, 7.", False, "b")
    kept.judge(ASKED, "No.", False, "b")
    kept.judge(ASKED[1:], "Red.", True, "a")
    told = kept.judge(ASKED, "Grün 🙂", True, "a")
    assert (told["judged"], told["pairs"]) == (5, 4)
    pairs = read_records(told["files"]["pairs"], task="preference")
    assert [(row.messages, row.texts) for row in pairs.rows] == [
        (tuple(ASKED), (chosen, rejected)) for chosen in ("Blue.", "Grün 🙂") for rejected in ("Well, 7.", "No.")
    ]
    judged = read_records(told["files"]["judged"], task="kto")
    assert [(row.messages[-1]["content"], row.labels) for row in judged.rows] == [
        *(("Blue.", ("true",)), ("Well, 7.", ("false",)), ("No.", ("false",)), ("Red.", ("true",))),
        ("Grün 🙂", ("true",)),
    ]
    assert judged.rows[0].messages[:-1] == tuple(ASKED)


def test_a_judgement_is_changed_and_taken_back(tmp_path: Path) -> None:
    kept = Preferences(tmp_path)
    kept.judge(ASKED, "Blue.", True, "a")
    assert kept.judge(ASKED, "7", False, "a")["pairs"] == 1
    assert kept.judge(ASKED, "7", True, "a") == {**kept.counts(), "judged": 2, "pairs": 0}
    assert kept.judge(ASKED, "7", None, "a")["judged"] == 1
    assert Preferences(tmp_path).judge(ASKED, "8", False, "b")["pairs"] == 1  # after a new start, too


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": 1}', '{"prompt": "a", "completion": "b", "label": "yes"}'])
def test_a_damaged_file_is_told_and_left(tmp_path: Path, line: str) -> None:
    kept = Preferences(tmp_path)
    kept.judge(ASKED, "Blue.", True, "a")
    damaged = (tmp_path / JUDGED).read_text() + line + "\n"
    (tmp_path / JUDGED).write_text(damaged)
    with pytest.raises(UserError, match="line 2: no judged answer"):
        kept.judge(ASKED, "7", False, "a")
    assert (tmp_path / JUDGED).read_text() == damaged


# ---- what the page asks for


def test_only_models_that_talk_are_offered(talking: Server) -> None:
    names = [one["name"] for one in httpx.get(f"{home(talking)}studio/api/chat/").json()["models"]]
    assert names[:2] == ["chat", "other"]
    assert not {"plain", "encoder"} & set(names)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"messages": []}, "at least 1"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "Hm"}]}, "the user's"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages"),
        ({"completion": " \n"}, "completion"),
        ({"good": "perhaps"}, "good"),
        ({"place": "elsewhere"}, "place"),
    ],
)
def test_what_is_no_judgement_is_refused(talking: Server, changes: dict[str, Any], said: str) -> None:
    asked = {"messages": ASKED, "completion": "Blue.", "good": True, "model": "chat"} | changes
    answer = httpx.post(f"{home(talking)}studio/api/chat/judge", json=asked)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


# ---- the page


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def set_tokens(page: Page, most: int) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Tokens at most").fill(str(most))
    page.get_by_label("Temperature").fill("0")


def answered(page: Page, model: str, turn: int = 1) -> Locator:
    found = page.get_by_role("region", name=f"Turn {turn}").get_by_role("article", name=f"Answer of {model}")
    expect(found).to_have_attribute("aria-busy", "false")
    return found


def of_api(server: Server, model: str, messages: list[dict[str, str]], most: int) -> Any:
    body = {"model": model, "messages": messages, "max_tokens": most, "temperature": 0, "logprobs": True}
    return httpx.post(f"{server.url}/chat/completions", json={**body, "top_logprobs": 5}).json()["choices"][0]


def test_two_models_answer_and_their_tokens_tell_how_likely_they_were(
    talking: Server, visit: Callable[..., Page]
) -> None:
    page = visit(talking, "chat?model=chat&model=other")
    set_tokens(page, 12)
    ask(page, "Hello")
    for name in ("chat", "other"):
        made = of_api(talking, name, [{"role": "user", "content": "Hello"}], 12)
        shown = answered(page, name).get_by_role("group")
        assert shown.inner_text().strip() == made["message"]["content"].strip()
    tokens = made["logprobs"]["content"]
    shown.focus()
    page.keyboard.press("ArrowRight")
    chances = answered(page, "other").locator(".chances")
    value = 100 * 2.718281828 ** tokens[0]["logprob"]
    expect(chances).to_contain_text(f"{value:.1f} %")
    expect(chances.locator("small")).to_contain_text("others")
    answered(page, "chat").locator(".piece").first.hover()
    expect(answered(page, "chat").locator(".chances strong")).to_be_visible()
    page.get_by_label("shade unlikely tokens").check()
    expect(answered(page, "chat").locator(".shaded")).to_be_visible()
    assert findings(page) == []
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    assert findings(page) == []


def test_thumbs_become_pairs_that_alignment_takes(talking: Server, visit: Callable[..., Page]) -> None:
    assert talking.settings.studio is not None
    page = visit(talking, "chat?model=chat&model=other")
    set_tokens(page, 8)
    ask(page, "A pair, please")
    answered(page, "chat").get_by_role("button", name="Good answer").click()
    expect(page.get_by_text("1 judged answer, 0 pairs")).to_be_visible()
    answered(page, "other").get_by_role("button", name="Bad answer").click()
    expect(page.get_by_text("2 judged answers, 1 pair")).to_be_visible()
    good = answered(page, "chat").get_by_role("button", name="Good answer")
    expect(good).to_have_attribute("aria-pressed", "true")
    (row,) = read_records(talking.settings.studio.home / PAIRS, task="preference").rows
    prompt = [{"role": "user", "content": "A pair, please"}]
    assert list(row.messages) == prompt
    made = [of_api(talking, name, prompt, 8)["message"]["content"] for name in ("chat", "other")]
    assert list(row.texts) == made
    good.click()
    expect(page.get_by_text("1 judged answer, 0 pairs")).to_be_visible()
    answered(page, "other").get_by_role("button", name="Bad answer").click()
    expect(page.get_by_text("Thumbs are kept")).to_be_visible()


@pytest.mark.usefixtures("slowly")
def test_stop_edit_and_retry(talking: Server, visit: Callable[..., Page]) -> None:
    page = visit(talking, "chat?model=chat")
    set_tokens(page, 900)
    ask(page, "Tell a long story")
    expect(page.get_by_role("article").locator(".piece").nth(3)).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(answered(page, "chat")).to_contain_text("stopped")
    page.get_by_label("Tokens at most").fill("3")
    first = answered(page, "chat").locator(".said").inner_text()
    answered(page, "chat").get_by_role("button", name="Retry").click()
    expect(page.get_by_text("2 of 2")).to_be_visible()
    second = answered(page, "chat").locator(".said").inner_text()
    assert second != first
    page.get_by_role("button", name="The try before").click()
    assert answered(page, "chat").locator(".said").inner_text() == first
    page.get_by_role("button", name="The next try").click()
    ask(page, "And on")
    answered(page, "chat", 2)
    page.get_by_role("button", name="Edit").first.click()
    draft = page.get_by_label("Your message, to be edited")
    expect(draft).to_be_focused()
    draft.fill("Tell a short one")
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_role("region", name="Turn 2")).to_have_count(0)
    expect(page.get_by_role("region", name="Turn 1")).to_contain_text("Tell a short one")
    answered(page, "chat")


def test_each_model_is_asked_with_its_own_answers_or_with_those_picked(
    talking: Server, visit: Callable[..., Page]
) -> None:
    page = visit(talking, "chat?model=chat&model=other")
    sent: list[dict[str, Any]] = []
    page.on("request", lambda one: sent.append(json.loads(one.post_data)) if "/v1/chat" in one.url else None)
    set_tokens(page, 6)
    page.get_by_label("System message").fill("Be brief.")
    ask(page, "One")
    for name in ("chat", "other"):
        answered(page, name)
    ask(page, "Two")
    for name in ("chat", "other"):
        answered(page, name, 2)
    before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One"}]
    own = {name: of_api(talking, name, before, 6)["message"] for name in ("chat", "other")}
    for body in sent[2:4]:
        said = {"role": "assistant", "content": own[body["model"]]["content"]}
        assert body["messages"] == [*before, said, {"role": "user", "content": "Two"}]
    for turn in (1, 2):
        answered(page, "chat", turn).get_by_role("button", name="Both go on from this").click()
    ask(page, "Three")
    for name in ("chat", "other"):
        answered(page, name, 3)
    assert sent[4]["messages"] == sent[5]["messages"]
    assert sent[4]["messages"][2]["content"] == own["chat"]["content"]


def test_a_refusal_is_told_where_the_answer_would_be(talking: Server, visit: Callable[..., Page]) -> None:
    page = visit(talking, "chat?model=chat", told_of="400")
    set_tokens(page, 5000)
    ask(page, "Hello")
    expect(answered(page, "chat").get_by_role("alert")).to_contain_text("maximum context length")
    expect(answered(page, "chat").get_by_role("button", name="Good answer")).to_have_count(0)


def test_a_model_that_is_not_served_yet_is_served_when_it_is_asked(
    models: Path, tmp_path: Path, visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_chat_model(tmp_path / "late")
    from scratchlm.serving.studio import finding

    monkeypatch.setattr(finding, "_fetched", lambda: [("late", tmp_path / "late")])
    with serving(str(models / "chat"), studio=StudioSettings(runs=tmp_path / "runs", home=tmp_path / "made")) as server:
        page = visit(server, "chat?model=late")
        set_tokens(page, 5)
        ask(page, "Hello")
        expect(answered(page, "late").locator(".said")).to_have_text(re.compile(r"\S"))
        assert "late" in server.models.served


def test_without_a_model_that_talks_the_page_says_so(
    models: Path, tmp_path: Path, visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scratchlm.serving.studio import finding

    monkeypatch.setattr(finding, "_fetched", list)
    places = StudioSettings(runs=tmp_path / "runs", home=tmp_path / "made")
    with serving(str(models / "encoder"), studio=places) as server:
        for name in ("chat", "agents"):
            page = visit(server, name)
            expect(page.locator(".empty").get_by_role("link", name="models")).to_be_visible()


def test_answers_are_drawn_as_each_models_makers_advise_until_changed(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    write_chat_model(tmp_path / "plain")
    folder = write_chat_model(tmp_path / "advised", seed=1)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.3, "top_p": 0.9}), encoding="utf-8")
    settings = StudioSettings(runs=tmp_path / "runs", home=tmp_path / "made")
    with serving(str(tmp_path / "plain"), str(folder), studio=settings) as server:
        page = visit(server, "chat")
        page.get_by_text("Settings").click()
        temperature, top_p = page.get_by_label("Temperature"), page.get_by_label("Top p")
        expect(temperature).to_have_value("0.8")
        page.get_by_label("Model", exact=True).select_option("advised")
        expect(temperature).to_have_value("0.3")
        expect(top_p).to_have_value("0.9")
        temperature.fill("1.1")
        page.get_by_label("Model", exact=True).select_option("plain")
        expect(top_p).to_have_value("0.95")
        expect(temperature).to_have_value("1.1")
