"""Chats: text and ids as ``transformers`` renders them, the mask exact, and no template that does harm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer, render_chat, train_tokenizer

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for message in messages %}{%- if message.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}\n"
    "{%- else %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{%- set ns = namespace(last=messages|length - 1) %}{%- for m in messages %}"
    "{%- set content = m.content %}{%- if m.role == 'assistant' and not loop.last %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson(indent=2) }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}" + CHATML
)
CHAT = [
    {"role": "user", "content": "Hello <|im_end|> there, naïve 🧑\u200d🌾?"},
    {"role": "assistant", "content": "Hi! 123"},
    {"role": "user", "content": "  And\n\nnow?  "},
    {"role": "assistant", "content": "def f(x):\n    return x\n"},
]


@pytest.fixture(scope="module")
def chatty(folders: dict[str, Path]) -> dict[str, tuple[Tokenizer, object]]:
    return {
        style: (Tokenizer.open(folders[style]), transformers.AutoTokenizer.from_pretrained(folders[style]))
        for style in ("smollm", "qwen2", "llama3", "llama2")
    }


def learnt(tokenizer: Tokenizer, chat) -> list[str]:
    """The runs of tokens that are to be learnt, as text."""
    runs: list[list[int]] = []
    before = False
    for token, flag in zip(chat.ids, chat.mask, strict=True):
        if flag and not before:
            runs.append([])
        if flag:
            runs[-1].append(token)
        before = flag
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("style", ["smollm", "qwen2", "llama3", "llama2"])
@pytest.mark.parametrize("template", [CHATML, LLAMA2, MARKED, THINKING])
@pytest.mark.parametrize("prompt", [False, True])
def test_text_and_ids_are_those_of_transformers(chatty, style: str, template: str, prompt: bool) -> None:
    ours, theirs = chatty[style]
    messages = CHAT[:3] if prompt else CHAT
    chat = render_chat(ours, messages, template=template, add_generation_prompt=prompt)
    options = {"chat_template": template, "add_generation_prompt": prompt}
    assert chat.text == theirs.apply_chat_template(messages, tokenize=False, **options)
    assert chat.ids == theirs.apply_chat_template(messages, **options)
    assert len(chat.mask) == len(chat.ids)


def test_tools_are_shown_as_transformers_shows_them(chatty) -> None:
    ours, theirs = chatty["qwen2"]
    tools = [{"type": "function", "function": {"name": "größe", "parameters": {"type": "object", "a<b": "c&d"}}}]
    chat = render_chat(ours, CHAT, tools=tools, template=TOOLS)
    assert chat.text == theirs.apply_chat_template(CHAT, tools=tools, chat_template=TOOLS, tokenize=False)


@pytest.mark.parametrize("style", ["smollm", "qwen2"])
@pytest.mark.parametrize("template", [CHATML, MARKED, THINKING])
def test_the_answers_with_their_ends_are_learnt_and_nothing_else(chatty, style: str, template: str) -> None:
    ours, _ = chatty[style]
    chat = render_chat(ours, CHAT, template=template)
    assert learnt(ours, chat) == ["Hi! 123<|im_end|>", "def f(x):\n    return x\n<|im_end|>"]


def test_the_mask_of_generation_blocks_is_that_of_transformers(chatty) -> None:
    ours, theirs = chatty["smollm"]
    reference = theirs.apply_chat_template(
        CHAT, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    chat = render_chat(ours, CHAT, template=MARKED)
    assert chat.ids == reference["input_ids"]
    assert chat.mask == [bool(flag) for flag in reference["assistant_masks"]]


def test_sentencepiece_answers_are_found_by_their_offsets(chatty) -> None:
    ours, _ = chatty["llama2"]
    chat = render_chat(ours, CHAT, template=LLAMA2)
    assert learnt(ours, chat) == ["Hi! 123 </s>", "def f(x):\n    return x </s>"]


def test_earlier_thoughts_that_the_template_drops_are_not_learnt(chatty) -> None:
    ours, _ = chatty["qwen2"]
    chat = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "<think>hm</think>\nuno"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "<think>well</think>\ndos"},
    ]
    rendered = render_chat(ours, chat, template=THINKING)
    assert learnt(ours, rendered) == ["uno<|im_end|>", "<think>well</think>\ndos<|im_end|>"]


def test_an_answer_that_begins_with_line_breaks_is_cut_where_the_prompt_ends(chatty) -> None:
    ours, _ = chatty["smollm"]
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\n\n\nHi"}]
    rendered = render_chat(ours, chat, template=CHATML)
    prompt = render_chat(ours, chat[:1], template=CHATML, add_generation_prompt=True)
    assert rendered.ids[: len(prompt.ids)] == prompt.ids, "the model answers what it is asked, token by token"
    assert rendered.mask[: len(prompt.ids)] == [False] * len(prompt.ids)
    assert learnt(ours, rendered) == ["\n\n\nHi<|im_end|>"]
    assert ours.decode(rendered.ids) == rendered.text


def test_two_equal_answers_and_an_answer_equal_to_a_question_are_told_apart(chatty) -> None:
    ours, _ = chatty["smollm"]
    chat = [{"role": role, "content": "yes"} for role in ("user", "assistant", "user", "assistant")]
    rendered = render_chat(ours, chat, template=CHATML)
    assert learnt(ours, rendered) == ["yes<|im_end|>"] * 2
    assert sum(rendered.mask) == 2 * len(ours.encode("yes<|im_end|>", allow_special=True))


def test_a_prompt_is_not_learnt(chatty) -> None:
    ours, _ = chatty["smollm"]
    assert not any(render_chat(ours, CHAT[:1], template=CHATML, add_generation_prompt=True).mask)


def test_our_own_tokenizers_chat_too() -> None:
    text = "user assistant: hello there\n|"
    for kind in ("char", "bpe"):
        tokenizer = train_tokenizer(
            kind, [text * 3], special_tokens=["[EOS]"], vocab_size=300 if kind == "bpe" else None
        )
        template = (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        chat = render_chat(
            tokenizer,
            [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "there"}],
            template=template,
        )
        assert learnt(tokenizer, chat) == ["there[EOS]"]
        assert tokenizer.decode(chat.ids) == "user: hello[EOS]\nassistant: there[EOS]\n"


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"content": "x"}], "message 1 has no role"),
        ([{"role": "user", "content": "x"}, "hello"], "message 2 has no role"),
        ([{"role": "system", "content": "x"}], "Only user and assistant roles"),
        ([{"role": "assistant"}], "'content'|no attribute"),
    ],
)
def test_messages_of_the_wrong_form_are_one_line(chatty, messages: list, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        render_chat(chatty["smollm"][0], messages, template=LLAMA2 if "content" in str(messages) else CHATML)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_template_says_so(chatty) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        render_chat(chatty["smollm"][0], CHAT)


def test_answers_that_the_template_hides_are_an_error_and_not_a_guess(chatty) -> None:
    hiding = "{% for m in messages %}{{ m.content | upper }}{{ messages | length }}{% endfor %}"
    with pytest.raises(UserError, match="hides where the answer of message 2"):
        render_chat(chatty["smollm"][0], CHAT, template=hiding)


GROWING = "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(70) %}STEP{% endfor %}{{ n.x }}"
HOSTILE = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'WORD' }}{% endfor %}".replace("WORD", "word" * 2000),
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
    "{% macro a(n) %}{{ caller() }}{% endmacro %}{% for i in range(99999) %}{% for j in range(999) %}"
    "{% call a(1) %}x{% endcall %}{% endfor %}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for a in range(3) recursive %}{{ loop(range(3)) }}{% endfor %}",
    "{% include 'template' %}",
    "{% extends 'template' %}",
    "{% import 'template' as t %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__cl' ~ 'ass__'] }}",
    "{{ messages | map(attribute='__class__') | first }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ (5).to_bytes(1000000000, 'big') }}",
    "{{ 'a' * 10000000000 }}",
    "{{ [1] * 10000000000 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'['format'] }}{{ ('{:>1000000000}' | string).format_map({}) }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a\nb' | indent(1000000000) }}",
    "{{ 'a\nb' | indent(width=-1000000000000) }}{{ 'a' * 1000000000 }}",
    "{{ 'x'.ljust(10000000000) }}",
    "{{ lipsum(n=1000000) }}",
    "{{ messages | tojson(indent=1000000000) }}",
    "{{ strftime_now('%1000000d') }}",
    GROWING.replace("STEP", "{% set n.x = n.x ~ n.x %}"),
    GROWING.replace("STEP", "{% set n.x = n.x + n.x %}"),
    GROWING.replace("STEP", "{% set n.x = '%s%s' % (n.x, n.x) %}"),
    GROWING.replace("STEP", "{% set n.x = n.x | replace('a', 'aa') %}"),
    GROWING.replace("STEP", "{% set n.x = n.x | replace(old='a', new='aa') %}"),
    GROWING.replace("STEP", "{% set n.x = n.x.replace('a', 'aa') %}"),
    GROWING.replace("STEP", "{% set n.x = [n.x, n.x] | join %}"),
    GROWING.replace("STEP", "{% set n.x = n.x.join([n.x, n.x, n.x]) %}"),
    GROWING.replace("STEP", "{% set n.x = [n.x, n.x] %}"),
    GROWING.replace("STEP", "{% set n.x = (n.x, n.x) %}"),
    GROWING.replace("STEP", "{% set n.x = {'a': n.x, 'b': n.x} %}"),
    GROWING.replace("STEP", "{% set n.x = dict(a=n.x, b=n.x) %}"),
    GROWING.replace("STEP", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
    GROWING.replace("'aaaaaaaa'", "3").replace("STEP", "{% set n.x = n.x * n.x %}"),
    GROWING.replace("'aaaaaaaa'", "3").replace("STEP", "{% set n.x = n.x + n.x %}"),
    GROWING.replace("'aaaaaaaa'", "3").replace("STEP", "{% set n.x = n.x - (0 - n.x) %}"),
    "{% set a = range(999999) | list %}{% set b = range(999999) | list %}"
    "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}",
    "{% set a = range(999999) | list %}{% for i in range(99999) %}{% if -1 in a %}{% endif %}{% endfor %}",
    "{% set a = range(999999) | list %}{% for i in range(99999) %}{% set b = a[1:] %}{% endfor %}",
    "{% set a = range(999999) | list %}{% for i in range(99999) %}{{ a.index(999998) }}{% endfor %}",
    "{{ " + "(" * 5000,
    "{{ " + "1+" * 50_000 + "1 }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "x" * 300_000,
    "{{ x",
    "{% for %}",
    "{% unknown %}",
    "{{ 1 / 0 }}",
    "{{ undefined_name() }}",
    "{{ raise_exception('two\nlines') }}",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_template_is_one_line_and_soon(chatty, number: int) -> None:
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        render_chat(chatty["smollm"][0], CHAT, template=HOSTILE[number])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.process_time() - began < 20, "a template that would never end"


def test_a_message_cannot_write_into_the_template_or_pretend_to_be_a_mark(chatty) -> None:
    ours, _ = chatty["smollm"]
    chat = [{"role": "user", "content": "{{ 7 * 7 }} {% generation %} \ue000"}, {"role": "assistant", "content": "ok"}]
    for template in (CHATML, MARKED):
        rendered = render_chat(ours, chat, template=template)
        assert "{{ 7 * 7 }} {% generation %} \ue000" in rendered.text
        assert learnt(ours, rendered) == ["ok<|im_end|>"]


def test_a_long_chat_is_not_taken_for_an_attack(chatty) -> None:
    ours, _ = chatty["smollm"]
    chat = [{"role": role, "content": "word " * 200} for _ in range(30) for role in ("user", "assistant")]
    for template in (CHATML, LLAMA2, MARKED, TOOLS):
        assert sum(render_chat(ours, chat, template=template).mask) > 30 * 200
    chat = [{"role": "user", "content": "word " * 400_000}]
    assert len(render_chat(ours, chat, template=CHATML).ids) > 400_000
