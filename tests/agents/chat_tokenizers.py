"""Tokenizers with chat templates, some of them those of published models."""

from __future__ import annotations

from pathlib import Path

import pytest

from scratchlm.tokenizers import Tokenizer, train_tokenizer

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}[{{ m.role }}] {{ m.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS] ["
    "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}"
    '{"name": {{ c.function.name | tojson }}, "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]<|im_end|>"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {\"content\": {{ m.content }}}[/TOOL_RESULTS]"
    "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
MISTRAL_NAMED = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}"
    "[/TOOL_RESULTS]{% else %}{{ m.content }}{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]"
    "{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>{% endif %}{% endfor %}"
)
LIST = (
    "{% if tools %}<|im_start|>system\n<tools>{{ tools | tojson }}</tools> Answer with <tool_call>[...]</tool_call>"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}"
    '<tool_call>[{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}{% if not loop.last %}, {% endif %}{% endfor %}]</tool_call>{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHOWN_ONLY = "{% if tools %}{{ tools | tojson }}{% endif %}<tool_call>" + CHATML
"""Speaks of tools, and loses the calls."""


def chatty(template: str | None = CHATML) -> Tokenizer:
    """One byte a token, and a turn's marks."""
    made = train_tokenizer(
        "bpe", ["ab"], vocab_size=260, special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    )
    ends = {made.backend.token_to_id("<|im_end|>")}
    roles = {"bos": "<|endoftext|>", "eos": "<|im_end|>"}
    return Tokenizer(made.backend, "bpe", unknown="token", roles=roles, end_ids=ends, chat_template=template)


def published(name: str) -> str:
    """The template of a published model, as TRL ships it."""
    trl = pytest.importorskip("trl", reason="its chat templates are the published ones")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
