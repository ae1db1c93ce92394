"""Agents put together by functions: one as another's tool, a plan before the work, a second look, a vote, a choice.

An agent is whatever takes a task and gives the state that it ended in; see :func:`agent`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scratchlm.agents.loop import ended_by, run_agent
from scratchlm.agents.model import AgentModel
from scratchlm.agents.settings import AgentSettings, Ask, OnEvent
from scratchlm.agents.state import State
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.agents.tool import Tool

Agent = Callable[[str], State]
_TRIES, _MOST_TOKENS = 3, 400


def agent(
    model: AgentModel,
    tools: Sequence[Tool] = (),
    settings: AgentSettings | None = None,
    *,
    on_event: OnEvent | None = None,
    ask: Ask | None = None,
) -> Agent:
    """What works on tasks with this model and these tools."""
    return lambda task: run_agent(task, model, tools, settings, on_event=on_event, ask=ask)


def as_tool(worker: Agent, name: str, description: str, *, timeout: float = 300.0, effects: bool = False) -> Tool:
    """An agent as a tool of another: it gets a task and gives its answer. It ends, as cancelled, where the run that
    called it is cancelled, broken off or out of time.

    Args:
        timeout: seconds after which it ends.
        effects: whether its own tools change something outside.

    Raises:
        UserError: the name is no tool's.
    """
    from scratchlm.agents.tool import Tool

    def work(arguments: dict[str, Any]) -> str:
        until = time.monotonic() + timeout
        with ended_by(lambda: time.monotonic() >= until):
            state = worker(arguments["task"])
        if state.status != "done":
            raise RuntimeError(f"it gave no answer ({state.reason}); ask it for less, or do without")
        return state.answer

    parameters = {
        "type": "object",
        "properties": {"task": {"type": "string"}},
        "required": ["task"],
        "additionalProperties": False,
    }
    return Tool(name, description, parameters, work, effects=effects, timeout=timeout)


def decide(model: AgentModel, question: str, name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """What a model decides, as JSON: the arguments of the one call that it may make. Of a local model they fit by
    construction; another one is told what is wrong, and asked again.

    Args:
        properties: JSON Schemas, by name; all are required.

    Raises:
        UserError: it makes no call that fits.
    """
    from scratchlm.agents.tool import Tool

    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    deciding = Tool(name, "Say what you decide.", schema, dict)
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    for _ in range(_TRIES):
        reply = model.respond(messages, [deciding.schema()], choice={"name": name}, max_new_tokens=_MOST_TOKENS)
        why = f"call {name}"
        if reply.calls:
            outcome = deciding.run(reply.calls[0].arguments)
            if not outcome.failed and reply.calls[0].name == name:
                return dict(outcome.value)
            why = outcome.text
        said = reply.raw or reply.text or json.dumps([one.as_json() for one in reply.calls])
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"That does not fit: {why}"}]
    raise UserError(f"{model.name} makes no {name} that fits ({why}); try a larger model")


def make_plan(task: str, model: AgentModel, *, most: int = 6) -> list[str]:
    """The steps, at most so many, that a model would take.

    Raises:
        UserError: it makes none.
    """
    steps = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": most}
    question = f"Plan how to do this task, in at most {most} short steps. Task: {task}"
    return list(decide(model, question, "plan", {"steps": steps})["steps"])


def plan_and_act(task: str, model: AgentModel, worker: Agent, *, most: int = 6) -> list[State]:
    """Plan, then do one step after the other, each knowing what those before it found. The last state, with the whole
    task before it once more, has the answer. Where a step finds none, it is the last.

    Raises:
        UserError: there is no plan.
    """
    found: list[str] = []
    states: list[State] = []
    for step in [*make_plan(task, model, most=most), ""]:
        known = "".join(f"\n- {line}" for line in found)
        told = f"{task}\n\nWhat is known:{known}" if found else task
        states.append(worker(f"{told}\n\nDo only this step: {step}" if step else told))
        if states[-1].status != "done":
            break
        found.append(f"{step}: {states[-1].answer}")
    return states


def reflect(state: State, model: AgentModel, worker: Agent, *, rounds: int = 1) -> State:
    """Look at an answer again, and have it made anew where it is found wanting, at most so many times.

    Raises:
        UserError: the model gives no judgement.
    """
    task = state.task
    for _ in range(rounds):
        calls = "".join(f"\n- {call.name}({call.arguments}) gave {call.result}" for call in state.calls)
        question = f"Is this answer right and complete? Task: {task}\nCalls:{calls or ' none'}\nAnswer: {state.answer}"
        said = decide(model, question, "judge", {"why": {"type": "string"}, "right": {"type": "boolean"}})
        if said["right"]:
            break
        state = worker(f"{task}\n\nAn earlier answer was: {state.answer}\nIt was found wanting: {said['why']}")
    return state


def agree(task: str, workers: Sequence[Agent]) -> State:
    """The first state with the answer that most of several agents give: self-consistency (Wang et al. 2023), if they
    are one model that draws its words with different seeds. Answers are the same whatever their case, spaces and last
    full stop. An answer that the others cannot overtake any more ends it.

    Raises:
        ValueError: there are no agents.
    """
    if not workers:
        raise ValueError("a vote takes at least one agent")
    found: list[tuple[str, State]] = []
    for left, worker in zip(range(len(workers) - 1, -1, -1), workers, strict=True):
        state = worker(task)
        found.append((" ".join(state.answer.casefold().split()).rstrip("."), state))
        votes = Counter(said for said, one in found if one.status == "done").most_common(2)
        if votes and votes[0][1] > (votes[1][1] if len(votes) > 1 else 0) + left:
            break
    best = votes[0][0] if votes else found[0][0]
    return next(state for said, state in found if said == best and (state.status == "done" or not votes))


def route(task: str, model: AgentModel, workers: Mapping[str, str]) -> str:
    """Which of several agents a task is for.

    Args:
        workers: what each is for, by name.

    Raises:
        UserError: there are none, or the model chooses none of them.
    """
    if not workers:
        raise UserError("there is no agent to choose; give at least one")
    lines = "".join(f"\n- {name}: {what}" for name, what in workers.items())
    question = f"Who is to do this task?{lines}\nTask: {task}"
    return str(decide(model, question, "choose", {"name": {"type": "string", "enum": list(workers)}})["name"])
