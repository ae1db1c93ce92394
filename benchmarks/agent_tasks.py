"""SmolLM2-135M calls tools: how many calls are valid, and how many tasks it solves, before and after being taught.

    python benchmarks/agent_tasks.py [--folder FOLDER] [--json] [--tasks N] [--calls N]

1. ``valid``: of 200 tasks with six tools the share in which the base model's first call, which it has to make, parses
   and fits the tool's schema; ``valid_free`` is the same where it writes as it likes.
2. ``base_smolagents``: right answers of the base model in smolagents' ToolCallingAgent, with the same tools, of the
   first 60 of 300 tasks whose templates no training has seen; the model is asked by the same engine. Its prompt has
   over 2,000 tokens, and more with every turn, so that all of them would take hours.
3. ``base``: the same in our loop, calls held to the tools' schemas; ``base_free`` without that.
4. ``tuned`` and ``tuned_grpo``: after ``scratchlm teach-tools``, whose seconds are told. ``tuned_agree``: the latter,
   five times a task, once greedily and four times drawn, of which the answer counts that most give.

All others decode greedily, at most 200 tokens a turn and six turns a task; an answer is right as
``scratchlm.agents.teaching.answers`` says. Each part is kept in FOLDER and not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any

import scratchlm
from generate_speed import machine
from scratchlm.agents.compositions import agent, agree
from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.teaching.answers import check
from scratchlm.agents.teaching.recipe import ALIGNED, TUNED, Teaching, teach_tools
from scratchlm.agents.teaching.task import Task
from scratchlm.agents.teaching.tasks import make_tasks, tools_of
from scratchlm.agents.tool import Tool
from scratchlm.generation.chat import reply
from scratchlm.generation.engine import Engine, Request, Ticket
from scratchlm.generation.sampling import SamplingConfig

MODEL, SEED = "smollm2-135m-instruct", 8
SIDE_BY_SIDE, TURNS, NEW_TOKENS = 16, 6, 200
VOTES, HEAT = 5, 0.7
SIX = ("calculator", "weekday", "days_between", "convert", "search_documents", "lookup")
GREEDY = SamplingConfig(greedy=True)


class Together:
    """One engine for several threads: each submits and waits, and one thread works. What an agent sees of a model.

    Tokenizers keep what they have split, and are one thread's at a time: an agent holds ``turn`` but while it waits.
    """

    def __init__(self, model: scratchlm.LanguageModel) -> None:
        self.name, self.tokenizer, self.config = model.name, model.tokenizer, model.config
        self._engine = model.engine_for(SIDE_BY_SIDE)
        self.backend = self._engine.backend
        self.turn = threading.Lock()
        self._news = threading.Condition()
        self._failures: list[BaseException] = []
        self._closed = False
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def engine(self) -> Any:
        """Another object each time: an agent keeps others from the engine that it uses."""
        return copy(self)

    def run(self, requests: Sequence[Request]) -> list[Ticket]:
        """As :meth:`Engine.run`, for a thread that holds ``turn``."""
        self.turn.release()
        try:
            with self._news:
                tickets = [self._engine.submit(request) for request in requests]
                self._news.notify_all()
                self._news.wait_for(lambda: self._failures or all(one.finish_reason for one in tickets))
        finally:
            self.turn.acquire()
        if self._failures:
            raise self._failures[0]
        return tickets

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._worker.join()

    def _work(self) -> None:
        engine: Engine = self._engine
        while not self._closed:
            try:
                worked = engine.step()
            except BaseException as error:
                self._failures.append(error)
                self._closed, worked = True, False
            with self._news:
                self._news.notify_all()
                if not worked:
                    self._news.wait_for(lambda: self._closed or any(engine.load))


def each(model: Together, tasks: Sequence[Task], work: Callable[[Task], Any]) -> list[Any]:
    """The results of tasks, several at a time; says how far it is."""
    found, began = [], time.perf_counter()

    def alone(task: Task) -> Any:
        with model.turn:
            return work(task)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for number, one in enumerate(pool.map(alone, tasks), 1):
            found.append(one)
            if number % 50 == 0:
                print(f"  {number} of {len(tasks)}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return found


# ---- valid calls


def fits(tools: Sequence[Tool], calls: Sequence[Any]) -> bool:
    """Whether there is a call, and every one parses and fits the schema of the tool that it names."""
    from jsonschema import Draft202012Validator

    by_name = {tool.name: tool for tool in tools}
    for call in calls:
        if call.fault or call.name not in by_name:
            return False
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            return False
        if not Draft202012Validator(by_name[call.name].parameters).is_valid(arguments):
            return False
    return bool(calls)


def valid(model: Together, tasks: Sequence[Task], constrained: bool) -> float:
    """The share of tasks in which the first turn is nothing but valid calls, or has one and text."""

    def first(task: Task) -> bool:
        tools = [tool for tool in tools_of(task) if tool.name in SIX]
        asked = [{"role": "user", "content": task.question}]
        agent = LocalAgentModel(model, constrained=constrained)
        choice = "required" if constrained else "auto"
        made = agent.respond(asked, [tool.schema() for tool in tools], choice=choice, max_new_tokens=NEW_TOKENS)
        return fits(tools, made.calls)

    return sum(each(model, tasks, first)) / len(tasks)


# ---- agents


def ours(model: Together, constrained: bool = True) -> Callable[[Task], str]:
    """Our loop."""
    settings = AgentSettings(max_steps=TURNS, max_new_tokens=NEW_TOKENS)

    def answer(task: Task) -> str:
        agent = LocalAgentModel(model, constrained=constrained)
        return run_agent(task.question, agent, tools_of(task), settings).answer or ""

    return answer


def voting(model: Together) -> Callable[[Task], str]:
    """Our loop five times."""
    draws = [GREEDY, *(SamplingConfig(temperature=HEAT, seed=seed) for seed in range(VOTES - 1))]
    settings = [AgentSettings(max_steps=TURNS, max_new_tokens=NEW_TOKENS, sampling=one) for one in draws]

    def answer(task: Task) -> str:
        tools = tools_of(task)
        return agree(task.question, [agent(LocalAgentModel(model), tools, one) for one in settings]).answer

    return answer


def smolagents(model: Together) -> Callable[[Task], str]:
    """smolagents' loop, with its own prompt and parser; the model sees what ``TransformersModel`` would show it."""
    from smolagents import ChatMessage, MessageRole, Model, ToolCallingAgent
    from smolagents import Tool as TheirTool

    class Ours(Model):  # type: ignore[misc]
        def generate(self, messages: Any, stop_sequences: Any = None, **_told: Any) -> Any:
            given = self._prepare_completion_kwargs(messages, flatten_messages_as_text=True)["messages"]
            chat = [{"role": str(getattr(m["role"], "value", m["role"])), "content": m["content"]} for m in given]
            made = reply(
                model,  # type: ignore[arg-type]
                model.tokenizer,
                chat,
                max_new_tokens=NEW_TOKENS,
                sampling=GREEDY,
                stop=stop_sequences or (),
            )
            return ChatMessage(role=MessageRole.ASSISTANT, content=made.completion)

    def theirs(tool: Tool) -> Any:
        needed, properties = tool.parameters.get("required", ()), tool.parameters["properties"]
        inputs = {}
        for name, part in properties.items():
            about = ", ".join(map(str, part["enum"])) if "enum" in part else str(part.get("description", name))
            kind = part.get("type", "any")
            inputs[name] = {"type": kind, "description": about, **({} if name in needed else {"nullable": True})}
        forward = lambda self, **given: tool.run({k: v for k, v in given.items() if v is not None}).text  # noqa: E731, ARG005
        told = {"name": tool.name, "description": tool.description, "inputs": inputs, "output_type": "string"}
        return type(tool.name, (TheirTool,), {**told, "forward": forward, "skip_forward_signature_validation": True})()

    def answer(task: Task) -> str:
        tools = [theirs(tool) for tool in tools_of(task)]
        agent = ToolCallingAgent(tools, Ours(), max_steps=TURNS - 1, verbosity_level=-1)
        try:
            return str(agent.run(task.question))
        except Exception as error:  # of the agent, in the middle of a task: no answer
            return f"error: {type(error).__name__}"

    return answer


def right(model: Together, tasks: Sequence[Task], answer: Callable[[Task], str]) -> dict[str, float]:
    """The share of tasks that are solved, and that of each family."""
    solved = [check(task, said) for task, said in zip(tasks, each(model, tasks, answer), strict=True)]
    shares: dict[str, list[bool]] = {"right": solved}
    for task, good in zip(tasks, solved, strict=True):
        shares.setdefault(task.family, []).append(good)
    return {name: round(sum(some) / len(some), 4) for name, some in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("agent-tasks"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--peer", type=int, default=60, help="tasks of those for smolagents")
    parser.add_argument("--only", default="", help="parts with commas between; all by default")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder / "parts.json"
    parts: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    tasks, calls = make_tasks("test", given.tasks, SEED), make_tasks("test", given.calls, SEED + 1)

    def part(name: str, model: str, work: Callable[[Together], Any]) -> None:
        if name in parts or (given.only and name not in given.only.split(",")):
            return
        print(name, file=sys.stderr)
        began, together = time.perf_counter(), Together(scratchlm.load(model, precision="fp32"))
        found = work(together)
        together.close()
        told = found if isinstance(found, dict) else {"share": found}
        parts[name] = {**told, "seconds": round(time.perf_counter() - began)}
        kept.write_text(json.dumps(parts, indent=1))

    part("valid", MODEL, lambda model: valid(model, calls, True))
    part("valid_free", MODEL, lambda model: valid(model, calls, False))
    part("base", MODEL, lambda model: right(model, tasks, ours(model)))
    part("base_free", MODEL, lambda model: right(model, tasks, ours(model, constrained=False)))
    part("base_smolagents", MODEL, lambda model: right(model, tasks[: given.peer], smolagents(model)))
    taught = given.folder / "taught"
    if "teaching" not in parts and (not given.only or "teaching" in given.only):
        parts["teaching"] = teach_tools(MODEL, taught, Teaching(tasks=0), resume=(taught / "report.json").exists())
        kept.write_text(json.dumps(parts, indent=1))
    part("tuned", str(taught / TUNED), lambda model: right(model, tasks, ours(model)))
    part("tuned_grpo", str(taught / ALIGNED), lambda model: right(model, tasks, ours(model)))
    part("tuned_agree", str(taught / ALIGNED), lambda model: right(model, tasks, voting(model)))
    told = {name: one.get("right", one.get("share")) for name, one in parts.items() if name != "teaching"}
    teaching = parts.get("teaching", {})
    minutes = sum(teaching.get(f"{one}_seconds", 0.0) for one in ("tuning", "aligning")) / 60
    busy = sum(teaching.get(f"{one}_processor_seconds", 0.0) for one in ("tuning", "aligning")) / 60
    told |= {"training_minutes": round(minutes, 1), "training_processor_minutes": round(busy, 1)}
    if given.json:
        print(
            json.dumps(
                {
                    **told,
                    "tasks": len(tasks),
                    "peer_tasks": given.peer,
                    "calls": len(calls),
                    "parts": parts,
                    "machine": machine(),
                }
            )
        )
        return
    for name, value in told.items():
        print(f"{name:28} {value:.1f}" if "minutes" in name else f"{name:28} {value:.1%}")


if __name__ == "__main__":
    main()
