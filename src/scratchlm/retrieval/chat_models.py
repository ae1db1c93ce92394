"""The models that write answers, whatever they run on: ours, a run's, or one behind an address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from scratchlm.errors import UserError
from scratchlm.generation.engine import Engine
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import Message, render_chat

OnText = Callable[[str], None]
"""Called with each new piece of a text as it comes."""


class ChatModel(Protocol):
    """A model that answers messages."""

    name: str
    context: int
    """Tokens that it reads and writes at most."""
    writes: bool
    """Whether answers are left to it to write, as :class:`~scratchlm.retrieval.answers.AnswerSettings` says."""

    def count(self, messages: Sequence[Message]) -> int:
        """The tokens that these messages take as a prompt."""

    def chat(self, messages: Sequence[Message], *, max_new_tokens: int, on_text: OnText | None = None) -> str:
        """The answer to messages, each a mapping with "role" and "content"."""


class _Config(Protocol):
    context: int
    width: int
    layers: int


class Loaded(Protocol):
    """What a local chat model needs of a ``scratchlm.LanguageModel``."""

    name: str
    tokenizer: Tokenizer
    config: Any

    def engine(self) -> Engine:
        """What generates its text."""

    def chat(self, messages: Sequence[Message], *, max_new_tokens: int, sampling: SamplingConfig, on_text: Any) -> Any:
        """The answer, as a :class:`~scratchlm.generation.generate.Generation`."""


SMALL = 1_000_000_000
"""Parameters below which a model's own sentences are not relied on: the sources are quoted instead. SmolLM2-135M, given
the question and the top passage, says the span that answers to 44 of 100 questions (``benchmarks/answer_quality.py``).
"""


class LocalChat:
    """A model on this machine, which always says what it finds likeliest.

    Args:
        model: such as ``scratchlm.load(...)`` gives.

    Raises:
        UserError: it is no decoder, or has no chat template.
    """

    def __init__(self, model: Loaded) -> None:
        config = model.config
        if config.architecture != "decoder":
            raise UserError(f"{model.name} is no decoder and cannot answer; give a chat model with --model")
        if model.tokenizer.chat_template is None:
            raise UserError(f"{model.name} has no chat template, so it cannot answer questions; give a chat model")
        self.model, self.name, self.context = model, model.name, int(config.context)
        self.writes = _parameters(config) >= SMALL

    def count(self, messages: Sequence[Message]) -> int:
        """The tokens that these messages take as a prompt."""
        return len(render_chat(self.model.tokenizer, messages, add_generation_prompt=True).ids)

    def chat(self, messages: Sequence[Message], *, max_new_tokens: int, on_text: OnText | None = None) -> str:
        """The likeliest answer, token by token.

        Raises:
            UserError: messages that do not fit the context or the template.
        """
        hear = None if on_text is None else (lambda _number, piece: on_text(piece))
        greedy = SamplingConfig(greedy=True)
        given = self.model.chat(messages, max_new_tokens=max_new_tokens, sampling=greedy, on_text=hear)
        return str(given.completion)


def _parameters(config: Any) -> int:
    """Roughly how many weights a decoder of this shape has."""
    width, inner = config.width, config.ffn_width or 4 * config.width
    return int(config.vocab_size * width + config.layers * (3 * width * inner + 3 * width * width))
