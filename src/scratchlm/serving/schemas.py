"""What clients send, in OpenAI's words.

A field that neither OpenAI's protocol nor we know is refused, as OpenAI refuses it: a misspelled one would go unnoticed
otherwise. Fields of OpenAI's that cannot change what a model here says (``user``, ``store``, ``metadata``, ...) are
taken and not looked at. Those that would change it and that we lack are refused unless they ask for nothing. Within
messages, unknown fields are passed over: clients send whole answers back. ``top_k``, ``min_p`` and
``repetition_penalty`` are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_CHOICES, MOST_PROMPTS, MOST_LOG_PROBABILITIES, MOST_STOPS, MOST_INPUTS, MOST_TOOLS = 128, 128, 20, 16, 2048, 128
MOST_BIASES = 1024
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


def _several(given: Any) -> list[Any]:
    """One text, or the tokens of one, as a list of one; several as they are."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else given


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


# ---- messages


class TextPart(_Lenient):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: str


class CalledFunction(_Lenient):
    """What is called, and with what: JSON in a string."""

    name: str
    arguments: str


class CalledTool(_Lenient):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Lenient):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a message of the role {self.role!r} needs content")
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a tool's message needs tool_call_id")
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


# ---- tools


class Function(_Lenient):
    """What a tool is told of."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolParam(_Lenient):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class ChosenFunction(_Strict):
    """The name of one."""

    name: str


class ChosenTool(_Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


# ---- what the answer may be


class PlainText(_Strict):
    """Anything."""

    type: Literal["text"]


class JSONObject(_Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(_Lenient):
    """A JSON Schema; what is written always fits it, ``strict`` or not."""

    name: str = Field(default="answer", pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class JSONSchema(_Strict):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainText | JSONObject | JSONSchema, Field(discriminator="type")]


class StreamOptions(_Lenient):
    """Of an answer that comes in pieces."""

    include_usage: bool | None = None


class _Drawing(_Strict):
    """What both ways of asking have in common."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[TokenId, Bias] | None = Field(default=None, max_length=MOST_BIASES)
    user: str | None = None
    # ours
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """Tokens and what is added to their logits."""
        return tuple(sorted((int(token), bias) for token, bias in (self.logit_bias or {}).items()))

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        given = [stop] if isinstance(stop, str) else stop or []
        if len(given) > MOST_STOPS or any(not one for one in given):
            raise ValueError(f"give at most {MOST_STOPS} stop strings, none of them empty")
        return stop

    @model_validator(mode="after")
    def _streams(self) -> _Drawing:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for answers with stream: true")
        return self


class ChatRequest(_Drawing):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOG_PROBABILITIES)
    tools: list[ToolParam] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    # taken and not looked at
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prediction: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        names = [tool.function.name for tool in self.tools or []]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, ChosenTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names no tool: {self.tool_choice.function.name!r}")
        shaped = self.response_format is not None and self.response_format.type != "text"
        if names and shaped and self.tool_choice != "none":
            raise ValueError("response_format goes with tools only where tool_choice is none")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one")
        return self


class CompletionRequest(_Drawing):
    """``POST /v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(min_length=1)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOG_PROBABILITIES)
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _together(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is not to be had here; leave it out, or make it n")
        if self.suffix:
            raise ValueError("suffix is not to be had here; leave it out")
        if len(self.prompts) * (self.n or 1) > MOST_PROMPTS:
            raise ValueError(f"at most {MOST_PROMPTS} texts come of one request; ask for fewer at a time")
        if any(not prompt for prompt in self.prompts if isinstance(prompt, list)):
            raise ValueError("a prompt has no tokens")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One prompt or several, as texts or tokens."""
        return _several(self.prompt)


class SearchRequest(_Strict):
    """``POST /v1/vector_stores/{store}/search``."""

    query: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    max_num_results: int | None = Field(default=None, ge=1, le=50)
    rewrite_query: bool | None = None


class EmbeddingRequest(_Strict):
    """``POST /v1/embeddings``."""

    model: str
    input: str | list[str] | list[int] | list[list[int]] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """One text or several, as texts or tokens."""
        return _several(self.input)

    @field_validator("input")
    @classmethod
    def _few(cls, given: Any) -> Any:
        if isinstance(given, list) and not isinstance(given[0], int) and len(given) > MOST_INPUTS:
            raise ValueError(f"at most {MOST_INPUTS} texts at a time")
        return given
