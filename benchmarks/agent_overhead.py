"""What the agents' loop takes apart from model and tools, beside smolagents' ToolCallingAgent.

    python benchmarks/agent_overhead.py [--json] [--steps N] [--turns N]

Both run the same script: a model that answers at once calls a tool that returns at once, a different call in each of so
many steps, and then answers. What is left is the loop's own work: messages, checked arguments, records. The two take
turns; the figures are medians of milliseconds a step. ``plain`` keeps nothing on the disk; ``kept`` saves the state
after each step and writes a trace, which the peer does not do. ``ratio`` is the peer's time over ``plain``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from generate_speed import machine
from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import Reply, ToolCall
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.tool import tool
from scratchlm.agents.traces import TraceWriter
from scratchlm.errors import UserError


@tool
def note(text: str) -> str:
    """Note a text."""
    return f"noted {text}"


class Scripted:
    """A model that takes no time."""

    name, context = "scripted", 1 << 30

    def __init__(self, steps: int) -> None:
        self._steps, self._made = steps, 0

    def count(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        del messages, tools
        return 0

    def respond(self, *_: Any, **__: Any) -> Reply:
        self._made += 1
        if self._made > self._steps:
            return Reply("Done.")
        return Reply("", (ToolCall("", "note", json.dumps({"text": str(self._made)})),))


def ours(steps: int, folder: Path | None) -> float:
    """Seconds a step."""
    writer = None if folder is None else TraceWriter(folder / "trace.jsonl")
    start = time.perf_counter()
    state = run_agent(
        *("Note", Scripted(steps), [note], AgentSettings(max_steps=steps + 2)),
        on_event=writer,
        file=None if folder is None else folder / "state.json",
    )
    spent = time.perf_counter() - start
    if writer is not None:
        writer.close()
    assert state.answer == "Done."
    assert len(state.calls) == steps
    return (spent - sum(call.seconds for call in state.calls)) / steps


def peer(steps: int) -> Callable[[], float]:
    """The same by smolagents."""
    try:
        from smolagents import ChatMessage, MessageRole, Model, ToolCallingAgent
        from smolagents import tool as their_tool
        from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction
        from smolagents.monitoring import LogLevel, TokenUsage
    except ImportError:
        raise UserError("the peer, smolagents, is missing; run: pip install smolagents") from None

    @their_tool
    def note(text: str) -> str:
        """Note a text.

        Args:
            text: What is noted.
        """
        return f"noted {text}"

    class Peer(Model):
        made = 0

        def generate(self, *_: Any, **__: Any) -> Any:
            self.made += 1
            name, given = (
                ("final_answer", {"answer": "Done."}) if self.made > steps else ("note", {"text": str(self.made)})
            )
            call = ChatMessageToolCall(ChatMessageToolCallFunction(given, name), f"call{self.made}", "function")
            return ChatMessage(MessageRole.ASSISTANT, "", [call], token_usage=TokenUsage(1, 1))

    def run() -> float:
        agent = ToolCallingAgent(tools=[note], model=Peer(), max_steps=steps + 2, verbosity_level=LogLevel.OFF)
        start = time.perf_counter()
        assert agent.run("Note") == "Done."
        return (time.perf_counter() - start) / steps

    return run


def measure(steps: int, turns: int) -> dict[str, Any]:
    """Medians, in milliseconds a step."""
    theirs = peer(steps)
    spent: dict[str, list[float]] = {"plain": [], "kept": [], "peer": []}
    for _ in range(turns):
        spent["plain"].append(ours(steps, None))
        with tempfile.TemporaryDirectory(prefix="scratchlm-") as folder:
            spent["kept"].append(ours(steps, Path(folder)))
        spent["peer"].append(theirs())
    found = {name: round(1000 * statistics.median(values), 3) for name, values in spent.items()}
    return {
        "benchmark": "agent-overhead",
        "unit": "ms a step",
        "steps": steps,
        **found,
        "ratio": round(found["peer"] / found["plain"], 2),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    try:
        found = measure(options.steps, options.turns)
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(found))
        return
    print(f"the loop's own work in a run of {found['steps']} steps, in ms a step")
    for name, what in (("plain", "ours"), ("kept", "ours, state and trace kept"), ("peer", "smolagents")):
        print(f"{what:28} {found[name]:8.2f}")


if __name__ == "__main__":
    main()
