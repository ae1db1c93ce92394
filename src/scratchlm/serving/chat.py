"""``/v1/chat/completions``: messages in, the assistant's turn out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scratchlm.agents.call_grammar import MOST_CALLS
from scratchlm.agents.local_model import Said
from scratchlm.agents.model import Choice
from scratchlm.generation.constraints import Grammar
from scratchlm.generation.engine import Token
from scratchlm.serving.drawing import begin, room, sampling_of
from scratchlm.serving.events import Running
from scratchlm.serving.registry import Loaded, Registry
from scratchlm.serving.scheduler import News
from scratchlm.serving.schemas import ChatRequest, ChosenTool
from scratchlm.serving.texts import LEAST_LOG_PROBABILITY, Text, envelope, log_probability, token_text, usage
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import render_chat


@dataclass
class Chat:
    """One request for an assistant's turn."""

    asked: ChatRequest
    running: Running = field(init=False)
    _loaded: Loaded = field(init=False)

    async def begin(self, models: Registry, client: str) -> None:
        """Take it in.

        Raises:
            ApiError, UserError: it is refused.
        """
        self.running = await begin(models, self.asked.model, client, self._texts)
        self._head = envelope("chat.completion", "chatcmpl", self.asked.model)

    # ---- what is asked of the engine

    def _texts(self, loaded: Loaded, client: str, news: News) -> list[Text]:
        asked, self._loaded = self.asked, loaded
        tokenizer = loaded.tokenizer
        ids = self._prompt(loaded)
        most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        new = room(loaded.context, len(ids), most, "messages")
        sampling = sampling_of(asked, tokenizer.vocab_size, loaded.advised)
        grammar = self._grammar(loaded)
        tools = self._tools
        filtered = None if not tools else partial(Said, loaded.caller.form)
        return [
            Text(
                *(number, tokenizer, ids, new, sampling, client, news),
                sample=number,
                stop=asked.stops,
                constraint=grammar.constraint(tokenizer)
                if grammar is not None
                else loaded.call_constraint(tools, self._choice, self._most_calls)
                if tools
                else None,
                log_probabilities=(asked.top_logprobs or 0) if asked.logprobs else None,
                skip_special=not tools,
                filtered=filtered,
            )
            for number in range(asked.n or 1)
        ]

    def _prompt(self, loaded: Loaded) -> list[int]:
        messages: list[dict[str, Any]] = []
        names: dict[str, str] = {}
        for message in self.asked.messages:
            made: dict[str, Any] = {
                "role": "system" if message.role == "developer" else message.role,
                "content": message.text,
            }
            if message.tool_calls:
                made["tool_calls"] = [call.model_dump() for call in message.tool_calls]
                names |= {call.id: call.function.name for call in message.tool_calls}
            if message.role == "tool":
                made |= {"tool_call_id": message.tool_call_id, "name": names.get(message.tool_call_id or "", "tool")}
            messages.append(made)
        if self._tools or any(made["role"] == "tool" or "tool_calls" in made for made in messages):
            return loaded.caller.rendered(messages, self._tools).ids
        return render_chat(loaded.tokenizer, messages, add_generation_prompt=True, masked=False).ids

    @property
    def _tools(self) -> list[dict[str, Any]]:
        tools = [tool.model_dump(exclude_none=True) for tool in self.asked.tools or []]
        for tool in tools:
            tool["function"].setdefault("parameters", {"type": "object", "properties": {}})
        return tools

    @property
    def _choice(self) -> Choice:
        chosen = self.asked.tool_choice or "auto"
        return {"name": chosen.function.name} if isinstance(chosen, ChosenTool) else chosen

    @property
    def _most_calls(self) -> int:
        one = self.asked.parallel_tool_calls is False or isinstance(self.asked.tool_choice, ChosenTool)
        return 1 if one else MOST_CALLS

    def _grammar(self, loaded: Loaded) -> Grammar | None:
        form = self.asked.response_format
        if form is None or form.type == "text":
            return None
        schema: dict[str, Any] = {"type": "object"}
        if form.type == "json_schema":
            schema = {} if form.json_schema.json_schema is None else form.json_schema.json_schema
        return loaded.grammars.get(json.dumps(schema), lambda: Grammar.json_schema(schema))

    # ---- what comes of it

    def answer(self) -> dict[str, Any]:
        """The whole answer, once all have ended."""
        choices = [self._choice_of(text) for text in self.running.texts]
        prompt = len(self.running.texts[0].request.ids)
        return {**self._head, "choices": choices, "usage": usage(prompt, self.running.texts)}

    def _choice_of(self, text: Text) -> dict[str, Any]:
        piece = text.fetch()
        message: dict[str, Any] = {"role": "assistant", "content": piece.text if piece else "", "refusal": None}
        calls, reason = self._calls(text), text.finish_reason
        if calls:
            message |= {"content": message["content"].strip() or None, "tool_calls": calls}
            reason = "tool_calls"
        else:
            message["content"] += text.rest
        shown = self._logprobs(piece.tokens if piece else [])
        return {"index": text.index, "message": message, "logprobs": shown, "finish_reason": reason}

    def _calls(self, text: Text) -> list[dict[str, Any]]:
        """The calls of a whole text, each with an id that its conversation does not have yet."""
        if not self._tools or self._choice == "none":
            return []
        before = sum(len(message.tool_calls or ()) for message in self.asked.messages)
        _, calls = self._loaded.caller.form.parse(text.raw, before + 1)
        kept = [call for call in calls if not call.fault][: self._most_calls]
        return [call.as_json() for call in kept]

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        tokenizer = self._loaded.tokenizer
        content = []
        for token in tokens:
            top = [_scored(tokenizer, one, value) for one, value in token.top]
            content.append({**_scored(tokenizer, token.id, log_probability(token)), "top_logprobs": top})
        return {"content": content, "refusal": None}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces."""
        head = {**self._head, "object": "chat.completion.chunk"}
        if self.asked.tells_usage:
            head["usage"] = None

        def chunk(text: Text, delta: dict[str, Any], reason: str | None = None, shown: Any = None) -> dict[str, Any]:
            choice = {"index": text.index, "delta": delta, "logprobs": shown, "finish_reason": reason}
            return {**head, "choices": [choice]}

        for text in self.running.texts:
            yield chunk(text, {"role": "assistant", "content": "", "refusal": None})
        async for text, piece, ended in self.running.pieces():
            if piece is not None:
                yield chunk(text, {"content": piece.text}, shown=self._logprobs(piece.tokens))
            if not ended:
                continue
            if text.error is not None:
                raise text.error
            calls, reason = self._calls(text), text.finish_reason
            if not calls and text.rest:
                yield chunk(text, {"content": text.rest})
            for index, call in enumerate(calls):
                named = {**call["function"], "arguments": ""}
                yield chunk(text, {"tool_calls": [{**call, "index": index, "function": named}]})
                written = {"arguments": call["function"]["arguments"]}
                yield chunk(text, {"tool_calls": [{"index": index, "function": written}]})
            yield chunk(text, {}, "tool_calls" if calls else reason)
        if self.asked.tells_usage:
            prompt = len(self.running.texts[0].request.ids)
            yield {**head, "choices": [], "usage": usage(prompt, self.running.texts)}


def _scored(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    spelled = tokenizer.bytes_of(token) if token < tokenizer.vocab_size else b""
    return {"token": token_text(tokenizer, token), "logprob": max(value, LEAST_LOG_PROBABILITY), "bytes": list(spelled)}
