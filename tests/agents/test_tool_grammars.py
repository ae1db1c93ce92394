"""Every tool's schema is one that constrained decoding takes, and what it writes is one that the tool takes."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from pydantic import BaseModel, Field
from tests.agents.chat_tokenizers import chatty
from tests.agents.test_tool import Node, paint

from scratchlm.agents.shipped import open_tools
from scratchlm.agents.table import table_tool
from scratchlm.agents.tool import Tool, tool
from scratchlm.generation.constraints import Grammar
from scratchlm.generation.generate import generate
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, ModelConfig, build_model


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str] = set()


@tool
def depth(tree: Node) -> int:
    return tree.value


@tool
def adopt(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> str:
    return pet.kind


@tool
def pay(price: Decimal, at: datetime.datetime | None = None, after: datetime.timedelta | None = None) -> str:
    return f"{price} {at} {after}"


@tool
def count(names: set[str], either: int | str | None = None) -> str:
    return f"{names} {either}"


@tool
def order(pair: tuple[int, str]) -> str:
    return f"{pair}"


NAMES = ["calculator", "dates", "units", "python", "web", f"files-write:{Path(__file__).parent}"]
TOOLS = [
    *open_tools(NAMES),
    table_tool([{"town": "Halden", "big town": 1}]),
    tool(paint),
    depth,
    adopt,
    pay,
    count,
    order,
]


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(3)
    made = build_model(ModelConfig(vocab_size=chatty().vocab_size, context=400, width=32, layers=1, heads=2))
    assert isinstance(made, Decoder)
    return made.eval()


@pytest.mark.parametrize("tool_", TOOLS, ids=lambda tool_: tool_.name)
def test_what_a_grammar_writes_is_what_the_tool_takes(tool_: Tool, model: Decoder) -> None:
    grammar, sampling = Grammar.json_schema(tool_.parameters), SamplingConfig(seed=5, temperature=2.0)
    for written in generate(
        model,
        chatty(),
        "call:",
        samples=3,
        max_new_tokens=grammar.least(chatty()) + 60,
        sampling=sampling,
        grammar=grammar,
    ):
        assert tool_._checked(written.completion) == json.loads(written.completion)
