"""A chat model for LangChain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, PrivateAttr, SecretStr, ValidationError, model_validator

from scratchlm.errors import UserError
from scratchlm.generation.generate import Generation
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.integrations.langchain.asking import Asked, Asking, asked
from scratchlm.integrations.langchain.messages import plain_messages
from scratchlm.language_model import LanguageModel
from scratchlm.tokenizers.chat import render_chat

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
_PER_CALL = (*_SAMPLING, "max_tokens", "speculate", "timeout", "model", "stream")
"""What may be given with a call, in place of the model's own settings."""
_UNSUPPORTED = {
    "tools": "calls no tools",
    "tool_choice": "calls no tools",
    "functions": "calls no tools",
    "response_format": "has no structured output",
}
_REASONS = {"end": "stop", "stop": "stop", "length": "length"}
"""Why an answer ended, in the words that LangChain's users know."""


class ChatScratchlm(BaseChatModel):
    """A chat model that runs on this machine.

        ChatScratchlm(model="smollm2-135m-instruct", temperature=0, max_tokens=100).invoke("Hello")

    Answers that are asked for together (``batch``, ``abatch``, threads) are computed side by side, and the beginnings
    that they have in common once. Instances with the same model, device and precision share its memory. An answer's
    ``usage_metadata`` counts tokens, those that were in the cache among them; its ``response_metadata`` says why it
    ended and which seed makes it again. What looks like a special token in a message is read as text.

    A setting may also be given with a call: ``model.invoke("Hello", temperature=0)``. Tools, structured output and
    anything but text are not supported, and told in one line.

    Raises:
        UserError: there is no such model on this machine, a setting is unknown or out of range.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str | Path | LanguageModel = "smollm2-135m-instruct"
    """As :func:`scratchlm.load` takes it, or what it gives. An open one may not be asked elsewhere at the same time."""
    device: str = "auto"
    precision: str = "auto"
    """Of the weights: ``fp32``, ``bf16``, ``int8``, ``int4`` or ``auto``; see :func:`scratchlm.load`."""
    temperature: float = 0.8
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """For these four see :class:`~scratchlm.generation.sampling.SamplingConfig`."""
    seed: int | None = None
    """Same seed, same answer; None draws a fresh one for each."""
    max_tokens: int = 512
    """Of an answer, at most."""
    stop: str | list[str] | None = None
    """Texts that end an answer; they are not part of it. Those given with a call take their place."""
    speculate: int = 0
    """Guess up to so many tokens from what was said before, and check them in one pass; the answer is the same."""
    timeout: float | None = None
    """Seconds that an answer may take; None for any."""
    streaming: bool = False
    """Whether ``invoke`` tells callbacks each piece of text as it comes."""
    max_retries: int = 0
    """Accepted, since all of LangChain's chat models take it. There is no server to be asked again."""
    api_key: SecretStr | None = None
    """The same: there is no server that wants one."""

    _asked: Asked = PrivateAttr()

    @model_validator(mode="wrap")
    @classmethod
    def _told_in_one_line(cls, values: Any, build: Callable[[Any], Self]) -> Self:
        try:
            return build(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"][:1])) or "a setting"
            if first["type"] == "extra_forbidden":
                raise UserError(f"ChatScratchlm has no setting {name!r}; check its spelling") from error
            raise UserError(f"ChatScratchlm's {name} is {first['input']!r}: {first['msg']}; change it") from error

    def model_post_init(self, context: Any, /) -> None:
        """Open the model, so that what is wrong is told here and not at the first question."""
        super().model_post_init(context)
        _settings(self.__dict__)
        self._asked = asked(self.model, self.device, self.precision)

    @property
    def name_of_model(self) -> str:
        """What the model was opened by."""
        return _name(self.model)

    # ---- what LangChain asks of a chat model

    @property
    def _llm_type(self) -> str:
        return "scratchlm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that decides an answer, for LangChain's cache."""
        settings = {name: getattr(self, name) for name in (*_SAMPLING, "max_tokens", "device", "precision")}
        return {"model": self.name_of_model, "stops": self._stops(None), **settings}  # "stop" is a call's own

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        found = super()._get_ls_params(stop=stop, **kwargs)
        found["ls_provider"] = "scratchlm"
        found["ls_model_name"] = _name(kwargs.get("model") or self.model)
        stops = self._stops(stop)
        if stops:
            found["ls_stop"] = stops
        return found

    def _resolve_model_profile(self) -> ModelProfile | None:
        context = self._asked.model.config.context
        return ModelProfile(
            name=self.name_of_model,
            open_weights=True,
            max_input_tokens=context,
            max_output_tokens=context,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            tool_calling=False,
            structured_output=False,
        )

    def get_token_ids(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        return list(self._asked.model.tokenizer.encode(text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """How many tokens the model reads of a conversation, up to where it answers.

        Raises:
            UserError: it has tools, or something else than text.
        """
        if tools:
            raise UserError("ChatScratchlm calls no tools; leave them out")
        tokenizer = self._asked.model.tokenizer
        return len(render_chat(tokenizer, plain_messages(messages, tokenizer), add_generation_prompt=True).ids)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        asking, name = self._ask(messages, stop, kwargs)
        for _ in asking.pieces():
            pass
        generation = asking.generation
        assert generation is not None
        metadata, usage = _metadata(generation, name), _usage(asking, generation)
        message = AIMessage(content=generation.completion, response_metadata=metadata, usage_metadata=usage)
        return ChatResult(
            generations=[ChatGeneration(message=message, generation_info=metadata)],
            llm_output={"model_name": name, "token_usage": dict(usage)},
        )

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asking, name = self._ask(messages, stop, kwargs)
        for text in asking.pieces():
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager is not None:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        generation = asking.generation
        assert generation is not None
        last = AIMessageChunk(content="", usage_metadata=_usage(asking, generation), chunk_position="last")
        yield ChatGenerationChunk(message=last, generation_info=_metadata(generation, name))

    def _ask(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> tuple[Asking, str]:
        for name in given:
            if name not in _PER_CALL:
                other = _UNSUPPORTED.get(name, f"takes no {name!r} with a call; it takes {', '.join(_PER_CALL)}")
                raise UserError(f"ChatScratchlm {other}; leave {name!r} out")
        settings = self.__dict__ | {name: value for name, value in given.items() if value is not None}
        sampling = _settings(settings)
        model = settings["model"]
        answerer = self._asked if model is self.model else asked(model, self.device, self.precision)
        asking = answerer.begin(
            plain_messages(messages, answerer.model.tokenizer),
            max_tokens=settings["max_tokens"],
            sampling=sampling,
            stop=self._stops(stop),
            speculate=settings["speculate"],
            timeout=settings["timeout"],
        )
        return asking, _name(model)

    def _stops(self, given: str | list[str] | None) -> list[str]:
        stops = self.stop if given is None else given
        return [stops] if isinstance(stops, str) else list(stops or ())


def _name(model: str | Path | LanguageModel) -> str:
    return model.name if isinstance(model, LanguageModel) else str(model)


def _settings(values: dict[str, Any]) -> SamplingConfig:
    """How to choose tokens, once all settings are seen to be in their ranges."""
    if values["max_tokens"] < 1:
        raise UserError(f"max_tokens is {values['max_tokens']}; give how many an answer may have, 1 or more")
    if values["speculate"] < 0:
        raise UserError(f"speculate is {values['speculate']}; give how many tokens to guess, or 0 for none")
    if values["timeout"] is not None and not values["timeout"] > 0:
        raise UserError(f"timeout is {values['timeout']}; give a positive number of seconds, or None for any")
    return SamplingConfig(**{name: values[name] for name in _SAMPLING})


def _metadata(generation: Generation, model: str) -> dict[str, Any]:
    reason = _REASONS[generation.finish_reason]
    return {"model_name": model, "model_provider": "scratchlm", "finish_reason": reason, "seed": generation.seed}


def _usage(asking: Asking, generation: Generation) -> UsageMetadata:
    read, made = asking.prompt_tokens, len(generation.ids)
    details: Any = {"cache_read": asking.cached_tokens}
    return UsageMetadata(input_tokens=read, output_tokens=made, total_tokens=read + made, input_token_details=details)
