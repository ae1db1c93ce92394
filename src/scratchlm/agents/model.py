"""What the loop asks of a model, wherever it runs: messages and tools in, a text or calls out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scratchlm.generation.sampling import SamplingConfig
from scratchlm.tokenizers.chat import Message

Choice = str | Mapping[str, str]
"""``"auto"``: the model decides whether to call; ``"required"``: it must; ``"none"``: it cannot; ``{"name": ...}``: it
must call that tool."""


@dataclass(frozen=True)
class ToolCall:
    """A call as the model wrote it; whether it fits the tool is the tool's to say."""

    id: str
    """Letters and digits, nine of them where we made it: some chat templates take nothing else."""
    name: str
    arguments: str
    """JSON, as the model wrote it: perhaps broken, or not what the tool takes."""
    fault: str = ""
    """What is wrong with a call of which not even the name can be read; ``name`` is then empty."""

    def as_json(self) -> dict[str, Any]:
        """As a message's ``tool_calls`` hold it, in OpenAI's form."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Reply:
    """One turn of a model."""

    text: str
    """What it said beside its calls: its thoughts, or its answer."""
    calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    finish_reason: str = "end"
    """``end``, ``stop``, ``length`` (the token budget), ``cancelled``."""
    raw: str = ""
    """The whole turn as the model wrote it, calls too; empty where only the endpoint has seen it."""
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)
    """Of a local model; empty for others."""
    ids: tuple[int, ...] = field(default=(), repr=False)
    sampled: tuple[bool, ...] = field(default=(), repr=False)
    """For each of ``ids`` whether the model chose it; what the grammar forced it did not."""


class AgentModel(Protocol):
    """A model that can call tools."""

    name: str
    context: int
    """Tokens that it reads and writes at most."""

    def count(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """The tokens that these take as a prompt; of an endpoint's an estimate, rather too many."""

    def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        choice: Choice = "auto",
        max_new_tokens: int = 512,
        sampling: SamplingConfig | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """The next turn.

        Args:
            messages: in OpenAI's form: an assistant's ``tool_calls`` as :meth:`ToolCall.as_json` gives them, results
                as ``{"role": "tool", "tool_call_id": ..., "name": ..., "content": ...}``.
            tools: JSON schemas of functions, ``{"type": "function", "function": {"name", "description",
                "parameters"}}``.
            sampling: greedy unless given.
            on_text: called with new text as it comes.

        Raises:
            UserError: the model cannot be asked: no room in its context, an endpoint that refuses.
        """
