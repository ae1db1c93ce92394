"""Agents on our own server: the same turns as of the model in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import scratchlm
from scratchlm.agents.compositions import decide
from scratchlm.agents.endpoint_model import EndpointModel
from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import AgentSettings
from scratchlm.retrieval.endpoint import Endpoint
from scratchlm.serving.server import Server

from ..agents.scripted import noting

ASK = [{"role": "user", "content": "Note something"}]


@pytest.fixture(scope="module")
def remote(server: Server) -> EndpointModel:
    return EndpointModel(Endpoint(server.url, "chat", context=1024))


@pytest.fixture(scope="module")
def local(models: Path) -> LocalAgentModel:
    return LocalAgentModel(scratchlm.load(str(models / "chat")))


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"name": "note"}], ids=str)
def test_a_turn_is_the_same_in_process_and_on_our_server(
    remote: EndpointModel, local: LocalAgentModel, choice: Any
) -> None:
    tools = [noting()[0].schema()]
    here, there = (model.respond(ASK, tools, choice=choice, max_new_tokens=80) for model in (local, remote))
    assert [(call.name, call.arguments) for call in here.calls] == [(c.name, c.arguments) for c in there.calls]
    assert here.text == there.text.strip()
    assert (here.prompt_tokens, bool(here.calls)) == (there.prompt_tokens, choice not in ("auto", "none"))


def test_a_decision_through_our_server_fits(remote: EndpointModel) -> None:
    said = decide(remote, "Which way?", "pick", {"way": {"enum": ["left", "right"]}, "sure": {"type": "boolean"}})
    assert said["way"] in ("left", "right")
    assert isinstance(said["sure"], bool)


def test_a_run_is_the_same_in_process_and_on_our_server(remote: EndpointModel, local: LocalAgentModel) -> None:
    settings = AgentSettings(max_steps=2, max_new_tokens=40)
    here, there = (run_agent("Note it", model, [noting()[0]], settings) for model in (local, remote))
    assert (here.status, here.reason) == (there.status, there.reason)
    assert here.answer == there.answer.strip()
