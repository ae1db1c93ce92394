"""Several models and adapters: names, memory, and coming and going."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import openai
import pytest

from scratchlm.errors import UserError
from scratchlm.serving.errors import ApiError
from scratchlm.serving.registry import Registry
from scratchlm.serving.settings import ServerSettings

from .conftest import serving, write_adapter, write_chat_model

ASK: list[Any] = [{"role": "user", "content": "What is it?"}]


def registry(models: Path, *names: str, **settings: Any) -> Registry:
    return Registry([str(models / name) for name in names], (), ServerSettings(**settings))


def gigabytes(models: Path, count: float) -> float:
    """The memory of so many of our small models."""
    one = registry(models, "chat", memory=1.0).served["chat"]
    return count * one.bytes(8, 4096) / 1e9


async def test_the_one_used_longest_ago_makes_room(models: Path) -> None:
    some = registry(models, "chat", "other", "plain", memory=gigabytes(models, 2.5))
    there = {name: some.served[name] for name in ("chat", "other", "plain")}
    for name in ("chat", "other", "chat"):
        async with some.use(name):
            pass
    assert [name for name, one in there.items() if one.loaded] == ["chat", "other"]
    away = weakref.ref(there["other"].loaded)
    async with some.use("plain"):
        assert [name for name, one in there.items() if one.loaded] == ["chat", "plain"]
    gc.collect()
    assert away() is None
    assert len([t for t in threading.enumerate() if t.name.startswith("scratchlm-engine other")]) == 0
    some.close()


async def test_what_is_in_use_stays_and_others_wait_for_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = registry(models, "chat", "other", memory=gigabytes(models, 1.5))

    async def ask() -> None:
        async with some.use("other"):
            pass

    async with some.use("chat"):
        waiting = asyncio.create_task(ask())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert some.served["chat"].loaded is not None
    await asyncio.wait_for(waiting, 20)
    assert some.served["chat"].loaded is None
    monkeypatch.setattr("scratchlm.serving.registry._WAIT", 0.1)
    async with some.use("chat"):
        with pytest.raises(ApiError, match="memory is taken") as caught:
            await ask()
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers
    some.close()


async def test_asked_for_twice_at_once_it_is_read_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = registry(models, "chat", memory=1.0)
    read: list[str] = []
    true = Registry._read
    monkeypatch.setattr(Registry, "_read", lambda self, one: (read.append(one.name), true(self, one))[1])

    async def ask() -> object:
        async with some.use("chat") as loaded:
            return loaded

    first, second = await asyncio.gather(ask(), ask())
    assert first is second
    assert read == ["chat"]
    some.close()


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (["nowhere"], {}, "'nowhere'"),
        (["chat", "chat"], {}, "two models are called 'chat'"),
        (["chat"], {"memory": 0.0001}, "--slots"),
        ([], {}, "nothing to serve"),
    ],
)
def test_mistakes_are_one_line(models: Path, names: list[str], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Registry([str(models / n) if n == "chat" else n for n in names], (), ServerSettings(**settings))
    assert "\n" not in str(caught.value)


def test_an_adapter_is_a_model_of_its_own_and_names_can_be_given(models: Path, tmp_path: Path) -> None:
    write_adapter(models / "chat", tmp_path / "tuned")
    with pytest.raises(UserError, match="is no adapter"):
        Registry([], [str(models / "chat")], ServerSettings())
    with serving(f"base={models / 'chat'}", adapters=(str(tmp_path / "tuned"),)) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none")
        assert [one.id for one in client.models.list().data] == ["base", "tuned"]
        assert [bool(one.loaded) for one in client.models.list().data] == [True, False]  # type: ignore[attr-defined]
        texts = [
            client.chat.completions.create(model=name, messages=ASK, temperature=0, max_tokens=20)
            for name in ("base", "tuned")
        ]
        assert texts[0].choices[0].message.content != texts[1].choices[0].message.content
        assert client.models.retrieve("tuned").loaded  # type: ignore[attr-defined]


async def test_models_are_added_while_it_serves(models: Path, tmp_path: Path) -> None:
    found = registry(models, "chat")
    other = str(models / "other")
    twice = await asyncio.gather(*(found.add(other, "more") for _ in range(4)))
    assert {id(one) for one in twice} == {id(found.served["more"])}
    assert (await found.add(other, "by another name")).name == "more"
    with pytest.raises(UserError, match="another model is called 'more'"):
        await found.add(str(models / "plain"), "more")
    with pytest.raises(UserError, match="nowhere"):
        await found.add(str(tmp_path / "nowhere"), "nowhere")
    found.budget = 1000
    with pytest.raises(UserError, match="raise --memory"):
        await found.add(str(models / "plain"), "plain")
    assert list(found.served) == ["chat", "more"]
    found.close()


async def test_a_model_whose_files_have_changed_is_read_anew_when_nobody_uses_it(models: Path) -> None:
    found = registry(models, "chat")
    path = str(models / "chat")
    async with found.use("chat") as before:
        os.utime(models / "chat" / "model.safetensors")
        await found.add(path, "chat")
        assert found.served["chat"].loaded is before
    await found.add(path, "chat")
    assert found.served["chat"].loaded is None
    async with found.use("chat") as after:
        assert after is not before
    await found.add(path, "chat")
    assert found.served["chat"].loaded is after
    found.close()


def test_a_chat_that_says_nothing_of_it_is_drawn_as_the_models_makers_advise(tmp_path: Path) -> None:
    folder = write_chat_model(tmp_path / "advised")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 1.5, "top_k": 1}), encoding="utf-8")
    with serving(str(folder)) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none")

        def said(seed: int, extra: Any = None, **more: Any) -> str | None:
            asked: dict[str, Any] = {"model": "advised", "messages": ASK, "max_tokens": 8, "seed": seed} | more
            return client.chat.completions.create(**asked, extra_body=extra).choices[0].message.content

        assert said(1) == said(2) == said(3, temperature=0)
        assert len({said(seed, {"top_k": 0}) for seed in range(4)}) == 4
        raw = [client.completions.create(model="advised", prompt="the", max_tokens=8, seed=n) for n in range(4)]
        assert len({one.choices[0].text for one in raw}) == 4  # a completion is as OpenAI has it


def test_advice_that_cannot_be_followed_is_told_at_the_start(tmp_path: Path) -> None:
    folder = write_chat_model(tmp_path / "advised")
    (folder / "generation_config.json").write_text('{"top_p": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"generation_config\.json: top_p is 3"), serving(str(folder)):
        pass
