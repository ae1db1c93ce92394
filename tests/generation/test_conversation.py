"""Conversations: what the model is asked, what is kept, what happens when the context is full or Ctrl-C comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.generation.build import build_engine
from scratchlm.generation.chat import reply
from scratchlm.generation.constraints import Grammar
from scratchlm.generation.conversation import Conversation
from scratchlm.generation.engine import Engine
from scratchlm.generation.generate import Generation, OnText
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.tokenizers.chat import Message

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}[EOS]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CONTEXT = 160


class Talker:
    """A small untrained model that can chat."""

    name = "talker"

    def __init__(self) -> None:
        alphabet = "[]abcdefghijklmnopqrstuvwxyz ?!."
        self.tokenizer: Tokenizer = train_tokenizer("char", [alphabet], special_tokens=("[EOS]",))
        self.tokenizer.chat_template = TEMPLATE
        torch.manual_seed(3)
        config = ModelConfig(vocab_size=self.tokenizer.vocab_size, context=CONTEXT, width=32, layers=2, init_std=0.3)
        model = build_model(config).eval()
        assert isinstance(model, Decoder)
        self.engine: Engine = build_engine(model, rows=2)
        self.heard: list[list[Message]] = []
        self.interrupt_after: int | None = None

    def chat(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int,
        sampling: SamplingConfig,
        on_text: OnText | None,
        speculate: int,
        grammar: Grammar | None = None,
    ) -> Generation:
        self.heard.append(list(messages))
        count = 0

        def hear(number: int, text: str) -> None:
            nonlocal count
            count += 1
            if on_text is not None:
                on_text(number, text)
            if count == self.interrupt_after:
                raise KeyboardInterrupt

        return reply(
            self.engine,
            self.tokenizer,
            messages,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            on_text=hear,
            speculate=speculate,
            grammar=grammar,
        )


def talk(model: Talker, **settings: object) -> Conversation:
    options = {"sampling": SamplingConfig(seed=1), "max_new_tokens": 12} | settings
    return Conversation(model, CONTEXT, **options)  # type: ignore[arg-type]


def test_the_model_hears_the_system_and_all_turns() -> None:
    model = Talker()
    conversation = talk(model, system="be kind")
    first = conversation.ask("hello")
    conversation.ask("and now?")
    assert [message["role"] for message in model.heard[1]] == ["system", "user", "assistant", "user"]
    assert model.heard[1][2]["content"] == first.text
    assert conversation.turns[-1]["role"] == "assistant"
    conversation.reset()
    conversation.ask("again")
    assert [message["content"] for message in model.heard[2]] == ["be kind", "again"]
    conversation.reset("be short")
    conversation.ask("again")
    assert model.heard[3][0]["content"] == "be short"


def test_the_answer_is_shown_as_it_comes_without_the_token_that_ends_it() -> None:
    shown: list[str] = []
    answer = talk(Talker(), max_new_tokens=60).ask("hello", shown.append)
    assert "".join(shown) == answer.text
    assert "[EOS]" not in answer.text
    assert 0 < answer.first <= answer.seconds
    assert answer.tokens > 0


def test_what_the_cache_holds_of_the_conversation_is_not_read_again() -> None:
    model = Talker()
    conversation = talk(model)
    conversation.ask("hello there my friend how are you")
    tickets = []
    submit = model.engine.submit
    model.engine.submit = lambda request: tickets.append(submit(request)) or tickets[-1]  # type: ignore[method-assign,func-returns-value]
    conversation.ask("good")
    assert tickets[0].reused >= len("[user]hello there my friend how are you[assistant]")


def test_ctrl_c_ends_the_answer_and_not_the_conversation() -> None:
    model = Talker()
    conversation = talk(model)
    model.interrupt_after = 3
    answer = conversation.ask("hello")
    assert answer.stopped
    assert len(answer.text) >= 3
    assert conversation.turns[-1] == {"role": "assistant", "content": answer.text}
    model.interrupt_after = None
    assert not conversation.ask("and now?").stopped
    assert model.engine.load == (0, 0)


def test_a_full_context_drops_the_oldest_exchanges_and_never_the_system() -> None:
    model = Talker()
    conversation = talk(model, system="be kind")
    for _ in range(6):
        answer = conversation.ask("tell me a long story please")
        assert answer.used <= CONTEXT
    assert model.heard[-1][0]["content"] == "be kind"
    assert model.heard[-1][1]["role"] == "user"
    assert len(model.heard[-1]) < 12


def test_a_question_that_cannot_fit_leaves_the_conversation_as_it_was() -> None:
    conversation = talk(Talker())
    conversation.ask("hello")
    before = list(conversation.turns)
    with pytest.raises(UserError, match="160"):
        conversation.ask("long " * 50)
    assert conversation.turns == before


def test_an_answer_can_be_had_again() -> None:
    model = Talker()
    conversation = talk(model, sampling=SamplingConfig(temperature=1.0))
    conversation.ask("hello")
    conversation.again()
    assert [message["content"] for message in model.heard[1]] == ["hello"]
    assert len(conversation.turns) == 2
    with pytest.raises(UserError, match="nothing was asked"):
        talk(model).again()


def test_ratings_are_rows_for_alignment_and_saved_conversations_rows_to_train_on(tmp_path: Path) -> None:
    conversation = talk(Talker(), system="be kind")
    with pytest.raises(UserError, match="no answer"):
        conversation.rate(True, tmp_path / "ratings.jsonl")
    with pytest.raises(UserError, match="nothing was said"):
        conversation.save(tmp_path / "talk.jsonl")
    answer = conversation.ask("hello")
    conversation.rate(True, tmp_path / "ratings.jsonl")
    conversation.rate(False, tmp_path / "ratings.jsonl")
    conversation.save(tmp_path / "talk.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "ratings.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [True, False]
    assert rows[0]["prompt"] == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    assert rows[0]["completion"] == [{"role": "assistant", "content": answer.text}]
    assert json.loads((tmp_path / "talk.jsonl").read_text())["messages"] == conversation.messages()
    with pytest.raises(UserError, match="another file"):
        conversation.save(tmp_path / "no" / "talk.jsonl")
