"""Conversations of a policy with tools: what is its own, and that the tools' part is as in the rows it learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scratchlm.agents.call_format import format_of
from scratchlm.agents.teaching.policy import NUMBER, RightAnswers
from scratchlm.agents.teaching.rollouts import TURNS, ToolSampler, roll_out
from scratchlm.agents.teaching.task import Task
from scratchlm.agents.teaching.tasks import make_tasks
from scratchlm.agents.teaching.traces import rows_of
from scratchlm.alignment.rollouts import Rollout, Sampler
from scratchlm.alignment.sampled import SampledTokens
from scratchlm.generation.engine import Request, Token
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import render_chat

from ..chat_tokenizers import chatty

GREEDY = SamplingConfig(greedy=True)


class Says:
    """An engine that says its turns in order, to all alike; each turn's tokens as likely as its number says."""

    def __init__(self, tokenizer: Tokenizer, *turns: str, ends: bool = True) -> None:
        self.tokenizer, self.turns, self.ends, self.asked = tokenizer, list(turns), ends, list[Request]()

    def run(self, requests: Sequence[Request]) -> list[Any]:
        self.asked += requests
        ids = self.tokenizer.encode(self.turns.pop(0))
        ids += [self.tokenizer.eos_id] * self.ends  # type: ignore[list-item]
        tokens = [Token(one, -0.5) for one in ids]
        return [SimpleNamespace(tokens=tokens, finish_reason="end" if self.ends else "length") for _ in requests]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return chatty()


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return make_tasks("train", 120, 5)


def rolled(
    tokenizer: Tokenizer, task: Task, *turns: str, most: int = 20_000, ends: bool = True
) -> tuple[Rollout, Says]:
    engine = Says(tokenizer, *turns, ends=ends)
    given: Any = engine
    (found,) = roll_out(given, tokenizer, [task], max_new_tokens=most, sampling=GREEDY)
    return found, engine


def own(tokenizer: Tokenizer, rollout: Rollout) -> str:
    return tokenizer.decode([i for i, mine in zip(rollout.completion, rollout.sampled, strict=True) if mine])


def test_a_solved_task_is_the_row_that_is_learned_from(tokenizer: Tokenizer, tasks: list[Task]) -> None:
    two = next(task for task in tasks if len(task.steps) == 3)
    (row,) = rows_of([two], format_of(tokenizer))
    chat = render_chat(tokenizer, row["messages"])
    turns = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    found, engine = rolled(tokenizer, two, *turns)
    end = len(chat.ids) - 1  # the line break after the last turn
    assert [*found.prompt, *found.completion] == chat.ids[:end]
    assert found.sampled == chat.mask[len(found.prompt) : end]
    assert [one.seed for one in engine.asked] == [0, 1, 2, 3]
    assert found.text == two.answer
    assert found.reason == "end"


def test_what_tools_say_is_not_learned(tokenizer: Tokenizer, tasks: list[Task]) -> None:
    task = next(task for task in tasks if task.family == "units")
    call = '<tool_call>{"name": "calculator", "arguments": {"expression": "111 * 3"}}</tool_call>'
    found, _ = rolled(tokenizer, task, call, "So 333.")
    assert "<tool_response>\n333\n</tool_response>" in tokenizer.decode(found.completion)
    assert own(tokenizer, found) == f"{call}<|im_end|>So 333.<|im_end|>"
    table = SampledTokens.of([found], torch.device("cpu"))
    assert table.ids.tolist() == [i for i, mine in zip(found.completion, found.sampled, strict=True) if mine]
    assert table.sampler.tolist() == [-0.5] * len(table.ids)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('<tool_call>{"name": "sing", "arguments": {}}</tool_call>', "there is no tool 'sing'"),
        ("<tool_call>sing</tool_call>", "it is not valid JSON"),
        ('<tool_call>{"name": "weekday", "arguments": {"day": 3}}</tool_call>', "weekday takes: date"),
        ('<tool_call>{"name": "calculator", "arguments": {"expression": "2 +"}}</tool_call>', "error:"),
    ],
)
def test_a_bad_call_is_answered_in_words(tokenizer: Tokenizer, tasks: list[Task], said: str, told: str) -> None:
    found, _ = rolled(tokenizer, tasks[0], said, "Sorry.")
    assert told in tokenizer.decode(found.completion)
    assert found.text == "Sorry."


def test_calls_end_after_some_turns(tokenizer: Tokenizer, tasks: list[Task]) -> None:
    call = '<tool_call>{"name": "today", "arguments": {}}</tool_call>'
    found, engine = rolled(tokenizer, tasks[0], *[call] * (TURNS + 2))
    assert len(engine.asked) == TURNS
    assert found.text == call


def test_a_conversation_ends_where_the_tokens_do(tokenizer: Tokenizer, tasks: list[Task]) -> None:
    call = '<tool_call>{"name": "today", "arguments": {}}</tool_call>'
    found, engine = rolled(tokenizer, tasks[0], call, call, most=len(call) + 20)
    assert found.reason == "length"
    assert not found.finished
    assert len(engine.asked) == 1
    cut, _ = rolled(tokenizer, tasks[0], "half an ans", ends=False)
    assert (cut.reason, cut.text) == ("length", "half an ans")


def test_the_sampler_rolls_out_each_prompts_task(tokenizer: Tokenizer, tasks: list[Task]) -> None:
    torch.manual_seed(0)
    small = {"width": 16, "layers": 1, "heads": 2, "positions": "rotary", "context": 4096}
    model = build_model(ModelConfig(architecture="decoder", vocab_size=tokenizer.vocab_size, **small))  # type: ignore[arg-type]
    given: Any = model
    found = [rolled(tokenizer, task, "x")[0] for task in tasks[:2]]
    prompts = [one.prompt for one in found]
    sampler = ToolSampler(Sampler(given), {tuple(ids): task for ids, task in zip(prompts, tasks[:2], strict=True)})
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "tokenizer": tokenizer}
    rollouts = sampler.sample(prompts, 3, seed=1, **settings)
    assert [one.source for one in rollouts] == [0, 0, 0, 1, 1, 1]
    assert [one.prompt for one in rollouts] == [prompts[0]] * 3 + [prompts[1]] * 3
    assert all(0 < len(one.completion) <= 12 for one in rollouts)
    assert len({tuple(one.completion) for one in rollouts}) == 6
    assert sampler.sample(prompts, 3, seed=1, **settings) == rollouts
    assert sampler.sample(prompts[1:], 3, seed=1, first=3, **settings) == [
        replace(one, source=0) for one in rollouts[3:]
    ]
    assert sampler.sample([], 3, seed=1, **settings) == []


def test_right_answers_are_rewarded(tasks: list[Task]) -> None:
    rewards = RightAnswers(tasks)
    numbers = [4, 4, 9]
    each, total = rewards.score([""] * 3, [tasks[4].answer, "no", tasks[9].answer], {NUMBER: numbers})
    assert total.tolist() == [1.0, 0.0, 1.0]
    assert each.tolist() == [[1.0, 0.0, 1.0]]
