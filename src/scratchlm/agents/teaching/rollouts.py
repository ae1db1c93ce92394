"""Rollouts in which a policy calls tools: it says something, the tools answer, it goes on.

What tools say is part of the text but not the policy's own, so that it is not learned (``Rollout.sampled``). All
conversations of a rollout are worked on side by side: their turns are requests to one engine, which keeps what it has
read of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scratchlm.agents.call_format import CallFormat, format_of
from scratchlm.agents.teaching.task import Task
from scratchlm.agents.teaching.tasks import tools_of
from scratchlm.agents.tool import Tool
from scratchlm.alignment.rollouts import Rollout, Sampler
from scratchlm.generation.engine import Engine, FinishReason, Request, Ticket
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import evaluating
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import render_chat

TURNS = 5
"""Of the policy in one conversation; a call in the last one is not made."""


def prompt_of(task: Task, tokenizer: Tokenizer, form: CallFormat) -> list[int]:
    """The ids of a task as the model is asked it."""
    return _Conversation(task, tokenizer, form).prompt


@dataclass
class _Conversation:
    task: Task
    tokenizer: Tokenizer
    form: CallFormat
    tools: list[Tool] = field(init=False)
    messages: list[dict[str, Any]] = field(init=False)
    prompt: list[int] = field(init=False)
    completion: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    turns: int = 0
    text: str = ""
    """Of the last turn."""
    reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.tools = tools_of(self.task)
        self.messages = [{"role": "user", "content": self.task.question}]
        self.prompt = self._rendered(True)[1]

    def _rendered(self, goes_on: bool) -> tuple[str, list[int]]:
        messages, tools = self.form.prompt(self.messages, [tool.schema() for tool in self.tools])
        chat = render_chat(self.tokenizer, messages, tools=tools, add_generation_prompt=goes_on, masked=False)
        return chat.text, chat.ids

    def take(self, ticket: Ticket, most: int) -> None:
        """A turn of the policy, and what the tools say to it."""
        ids = [token.id for token in ticket.tokens]
        self._add(ids, [float(token.log_probability or 0.0) for token in ticket.tokens], own=True)
        self.turns += 1
        ended = ticket.finish_reason == "end"
        self.text = self.tokenizer.decode(ids[:-1] if ended else ids)
        _, calls = self.form.parse(self.text)
        if not ended or not calls or self.turns == TURNS:
            self.reason = ticket.finish_reason or "length"
            return
        self.messages.append({"role": "assistant", "content": self.text})
        before, _ = self._rendered(False)
        by_name = {tool.name: tool for tool in self.tools}
        for call in calls:
            if call.name in by_name:
                said = by_name[call.name].run(call.arguments).text
            else:
                said = f"error: {call.fault or f'there is no tool {call.name!r}'}"
            self.messages.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": said})
        after, _ = self._rendered(True)
        end = self.tokenizer.token(ids[-1])
        told = self.tokenizer.encode(after[before.rindex(end) + len(end) :], allow_special=True)
        if len(self.completion) + len(told) >= most:
            self.reason = "length"
            return
        self._add(told, [0.0] * len(told), own=False)

    def _add(self, ids: list[int], log_probabilities: list[float], own: bool) -> None:
        self.completion += ids
        self.sampled += [own] * len(ids)
        self.log_probabilities += log_probabilities


def roll_out(
    engine: Engine,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig,
    seed: int = 0,
    first: int = 0,
) -> list[Rollout]:
    """A conversation about each task; ``source`` is its number, ``text`` what was said last.

    Args:
        max_new_tokens: of a conversation, what the tools say included.
        first: the number of the first conversation, which with the seed decides its draws.
    """
    form, ends = format_of(tokenizer), frozenset(tokenizer.eos_ids)
    open_ones = every = [_Conversation(task, tokenizer, form) for task in tasks]
    numbers = {id(one): first + number for number, one in enumerate(every)}
    while open_ones:
        requests = [
            Request(
                [*one.prompt, *one.completion],
                max_new_tokens - len(one.completion),
                sampling,
                seed=seed + one.turns,
                sample=numbers[id(one)],
                end_ids=ends,
                log_probabilities=0,
                as_drawn=True,
            )
            for one in open_ones
        ]
        for one, ticket in zip(open_ones, engine.run(requests), strict=True):
            one.take(ticket, max_new_tokens)
        open_ones = [one for one in open_ones if one.reason is None]
    return [
        Rollout(n, one.prompt, one.completion, one.sampled, one.log_probabilities, one.reason or "length", one.text)
        for n, one in enumerate(every)
    ]


class ToolSampler(Sampler):
    """A policy's engine for tasks with tools.

    Args:
        tasks: by the ids of their prompts.
    """

    def __init__(self, sampler: Sampler, tasks: Mapping[tuple[int, ...], Task]) -> None:
        super().__init__(sampler.model, sampler.precision, sampler.slots)
        self._tasks = tasks

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        per_prompt: int,
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        tokenizer: Tokenizer,
        first: int = 0,
    ) -> list[Rollout]:
        """As :meth:`~scratchlm.alignment.rollouts.Sampler.sample`; the prompts are those of the tasks."""
        if not prompts:
            return []
        tasks = [self._tasks[tuple(prompt)] for prompt in prompts for _ in range(per_prompt)]
        room = max(map(len, prompts)) + max_new_tokens
        with evaluating(self.model):
            engine = self._ready(min(self.slots, len(tasks)), room)
            found = roll_out(
                engine,
                tokenizer,
                tasks,
                max_new_tokens=max_new_tokens,
                sampling=SamplingConfig(temperature=temperature),
                seed=seed,
                first=first,
            )
        return [replace(one, source=one.source // per_prompt) for one in found]
