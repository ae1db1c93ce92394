"""Grammars: what is refused, what a constraint lets through, and that everything made under one is valid."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scratchlm.errors import UserError
from scratchlm.generation.constraints import Constraint, Grammar, Grammars
from scratchlm.generation.engine import Request, Ticket
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.tokenizers import Tokenizer

from .constrained import KINDS, engine_of, tokenizer_of

WILD = SamplingConfig(temperature=2.0)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 3, None]}, "maxItems": 3},
        "more": {"type": ["number", "null"]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "person": PERSON,
    "anything": True,
    "pattern": {"type": "string", "pattern": "^[a-c]{2,5}-[0-9]+$"},
    "lengths": {"type": "array", "items": {"type": "string", "minLength": 3, "maxLength": 6}, "minItems": 2},
    "branches": {"anyOf": [{"type": "integer", "multipleOf": 5}, {"const": {"a": [1, 2.5]}}, {"type": "boolean"}]},
    "nested": {"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"},
    "map": {"type": "object", "additionalProperties": {"type": "number"}},
    "format": {"type": "string", "format": "ipv4"},
}
BAD_GRAMMARS: list[tuple[str, Any, str]] = [
    ("json_schema", "[", "no JSON"),
    ("json_schema", "nothing", "no JSON"),
    ("json_schema", [], "give a JSON object"),
    ("json_schema", "3", "give a JSON object"),
    ("json_schema", False, "Unsatisfiable"),
    ("json_schema", {"type": "strin"}, "wrong at type"),
    ("json_schema", {"properties": {"a": {"minLength": "x"}}}, "wrong at properties/a/minLength"),
    ("json_schema", {"not": {}}, '"not"'),
    ("json_schema", {"type": "array", "uniqueItems": True}, "uniqueItems"),
    ("json_schema", {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ("json_schema", {"$ref": "https://example.org/schema"}, "example.org"),
    ("json_schema", {"$ref": "#/$defs/a"}, "/$defs/a"),
    ("json_schema", {"type": "integer", "minimum": 3, "maximum": 2}, "Unsatisfiable"),
    ("json_schema", {"type": "string", "pattern": "(?=a)b"}, "look-a"),
    ("json_schema", {"type": "string", "format": "nonsense"}, "nonsense"),
    ("json_schema", {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
    ("json_schema", {"type": "object", "required": ["a"], "additionalProperties": False}, "'a'"),
    ("regex", "", "is empty"),
    ("regex", "(", "unclosed group"),
    ("regex", "[z-a]", "range"),
    ("regex", "a(?!b)", "look-around"),
    ("choices", [], "at least one"),
    ("choices", ["yes", ""], "none empty"),
    ("choices", ["yes", 3], "texts"),
    ("lark", " ", "is empty"),
    ("lark", "start: thing", "thing"),
    ("lark", 'start: "a', "lexer error"),
    ("lark", "root: /a/", "start"),
]


def make(
    grammar: Grammar, kind: str, budget: int, seed: int, sampling: SamplingConfig = WILD, **options: Any
) -> tuple[str, Ticket]:
    """One text of an untrained model."""
    tokenizer = tokenizer_of(kind)
    request = Request(
        tokenizer.encode("a b" if kind != "word" else "yes"),
        budget,
        sampling,
        seed=seed,
        end_ids=tokenizer.eos_ids,
        constraint=grammar.constraint(tokenizer),
        **options,
    )
    (ticket,) = engine_of(kind).run([request])
    ids = [token.id for token in ticket.tokens if token.id not in tokenizer.eos_ids]
    return b"".join(tokenizer.bytes_of(i) for i in ids).decode(), ticket


def valid(text: str, schema: Any) -> bool:
    value = json.loads(text)
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)
    return True


@pytest.mark.parametrize(
    ("kind", "given_", "words"), BAD_GRAMMARS, ids=[f"{k}-{n}" for n, (k, *_) in enumerate(BAD_GRAMMARS)]
)
def test_what_cannot_be_promised_is_refused_in_one_line(kind: str, given_: Any, words: str) -> None:
    with pytest.raises(UserError) as told:
        getattr(Grammar, kind)(given_)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 350


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_text_fits_the_schema_whatever_the_budget(name: str, kind: str) -> None:
    grammar = Grammar.json_schema(SCHEMAS[name])
    least = grammar.least(tokenizer_of(kind))
    for seed in range(8):
        text, ticket = make(grammar, kind, least + 3 * seed, seed)
        assert valid(text.strip() if kind == "spm" else text, SCHEMAS[name])
        assert len(ticket.tokens) <= least + 3 * seed
        assert ticket.finish_reason in ("end", "length")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_budget_too_small_is_told_at_once_with_the_least(name: str, kind: str) -> None:
    grammar = Grammar.json_schema(SCHEMAS[name])
    least = grammar.least(tokenizer_of(kind))
    with pytest.raises(UserError, match=f"at least {least} tokens, and max_new_tokens is {least - 1};"):
        make(grammar, kind, least - 1, 0)


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Random schemas of the keywords that tools use."""
    limits = st.integers(0, 3)
    leaves = st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(
            lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, st.integers(-99, 99), limits
        ),
        st.builds(lambda low: {"type": "number", "minimum": low}, st.integers(-9, 9)),
        st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, limits, limits),
        st.builds(lambda values: {"enum": values}, st.lists(st.text("abc \"'\\é", max_size=4), min_size=1, max_size=3)),
    )

    def grow(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        def of(properties: dict[str, Any], required: int) -> dict[str, Any]:
            names = list(properties)[:required]
            return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}

        arrays = st.builds(
            lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
            *(inner, limits, limits),
        )
        objects = st.builds(of, st.dictionaries(st.text("ab_é ", min_size=1, max_size=3), inner, max_size=4), limits)
        return st.one_of(
            arrays, objects, st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3))
        )

    return st.recursive(leaves, grow, max_leaves=6)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas(), st.integers(0, 30), st.integers(0, 2**31))
def test_random_schemas_are_fitted(schema: dict[str, Any], more: int, seed: int) -> None:
    grammar = Grammar.json_schema(schema)
    for kind in ("bpe", "char"):
        least = grammar.least(tokenizer_of(kind))
        for n in range(2):
            text, ticket = make(grammar, kind, least + more, seed + n)
            assert valid(text, schema)
            assert len(ticket.tokens) <= least + more


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", ["[a-c]+[.]", r"(yes|no|not sure)( [0-9]{2})*", ".{3}é?", "(a|b){9}c", r"\d+/\d+"])
def test_every_text_matches_the_expression(pattern: str, kind: str) -> None:
    grammar = Grammar.regex(pattern)
    least = grammar.least(tokenizer_of(kind)) if kind != "char" or "é" not in pattern else None
    for seed in range(6):
        text, _ = make(grammar, kind, (least or 6) + seed, seed)
        text = text[1:] if kind == "spm" and not re.fullmatch(pattern, text) else text
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("kind", [*KINDS, "word"])
def test_choices_are_all_that_is_said(kind: str) -> None:
    choices = ["yes", "no", "not sure"]
    found = {make(Grammar.choices(choices), kind, 12, seed)[0].removeprefix(" ") for seed in range(40)}
    assert found <= set(choices)
    assert len(found) >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_grammar_with_rules_of_its_own(kind: str) -> None:
    grammar = Grammar.lark('start: sum\nsum: NUMBER ("+" sum)?\nNUMBER: /[1-9][0-9]?/')
    for seed in range(6):
        text, _ = make(grammar, kind, 5 + seed, seed)
        assert re.fullmatch(r" ?[1-9][0-9]?(\+[1-9][0-9]?)*", text)


@pytest.mark.parametrize(
    ("grammar", "lacking"),
    [
        (Grammar.json_schema(PERSON), "no '{'"),
        (Grammar.choices(["maybe"]), "no 'b'"),
        (Grammar.regex("[0-9]+;"), ""),
    ],
    ids=["schema", "choices", "regex"],
)
def test_a_vocabulary_that_cannot_spell_it_is_told_at_once(
    grammar: Grammar, lacking: str, characters: Tokenizer
) -> None:
    with pytest.raises(UserError, match="cannot be met") as told:
        grammar.constraint(characters)
    assert lacking in str(told.value)


def test_words_cannot_spell_what_has_no_spaces_between() -> None:
    with pytest.raises(UserError, match="cannot be met"):
        Grammar.choices(["yesno"]).constraint(tokenizer_of("word"))


def test_a_grammar_without_an_end_is_told_at_once() -> None:
    with pytest.raises(UserError, match="cannot be met"):
        Grammar.lark('start: "a" start').constraint(tokenizer_of("bpe"))


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_masks_are_those_of_llguidance_alone(kind: str) -> None:
    """A walk through a schema: at every step what the constraint allows is what a matcher of our own allows."""
    from llguidance import LLMatcher

    from scratchlm.generation.spelling import spelling_of

    tokenizer, generator = tokenizer_of(kind), np.random.default_rng(0)
    style = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
    source = LLMatcher.grammar_from_json_schema(PERSON, overrides=style)  # type: ignore[typeddict-item,arg-type]
    for _ in range(5):
        matcher = LLMatcher(spelling_of(tokenizer).words, source)
        constraint = Grammar.json_schema(PERSON).constraint(tokenizer)
        constraint.check(500, tokenizer.vocab_size)
        matcher.consume_tokens(constraint.begin(500))
        while not constraint.ended:
            theirs = np.frombuffer(matcher.compute_logit_bias(), np.uint8)[: tokenizer.vocab_size] > 0
            (ours,) = constraint.masks().numpy()
            assert (ours == theirs).all()
            token = int(generator.choice(np.flatnonzero(ours)))
            ids, kept = constraint.take(token, 500)
            assert kept
            if constraint.ended and token in tokenizer.eos_ids:
                break
            assert matcher.consume_tokens(ids)


def brute(constraint: Constraint, tokenizer: Tokenizer, most: int) -> int:
    """The tokens of the shortest text, by trying all."""
    states = [constraint._state.words]
    for length in range(most + 1):
        if any(state.is_accepting() for state in states):
            return length
        following = {}
        for state in states:
            for token in np.flatnonzero(np.frombuffer(state.compute_logit_bias(), np.uint8)).tolist():
                child = state.deep_copy()
                if token not in tokenizer.eos_ids and child.consume_token(token):
                    following[(id(state), token)] = child
        states = list(following.values())
    raise AssertionError("no text is so short")


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.choices(["true number", "age: 77", "zzzz"]),
        Grammar.json_schema({"enum": ["null", 12345, [True, None], "name"]}),
        Grammar.json_schema({"type": "array", "items": {"type": "boolean"}, "minItems": 1}),
        Grammar.regex("(xy|[ab]{3}z|true!)"),
    ],
    ids=["choices", "enum", "array", "regex"],
)
def test_the_least_is_what_trying_all_finds(grammar: Grammar) -> None:
    tokenizer = tokenizer_of("bpe")
    constraint = grammar.constraint(tokenizer)
    assert constraint.least == brute(constraint, tokenizer, 6)


def test_a_constraint_serves_one_text_and_its_own_vocabulary() -> None:
    tokenizer = tokenizer_of("bpe")
    constraint = Grammar.choices(["yes"]).constraint(tokenizer)
    with pytest.raises(ValueError, match="tokens and the model"):
        constraint.check(9, tokenizer.vocab_size - 1)
    constraint.begin(9)
    with pytest.raises(ValueError, match="one text"):
        constraint.check(9, tokenizer.vocab_size)


def test_a_token_that_may_not_come_is_an_error() -> None:
    tokenizer = tokenizer_of("bpe")
    constraint = Grammar.regex("[ab]+").constraint(tokenizer)
    constraint.begin(9)
    assert not constraint.masks()[0, tokenizer.encode("c")[0]]
    with pytest.raises(UserError, match="could not be followed"):
        constraint.take(tokenizer.encode("c")[0], 9)


def test_special_tokens_never_spell_a_text() -> None:
    """A literal that is spelled as a special token's name is ordinary text."""
    tokenizer = tokenizer_of("byte-level")
    (end,) = tokenizer.eos_ids
    constraint = Grammar.choices([tokenizer.token(end), "other"]).constraint(tokenizer)
    constraint.begin(40)
    assert not constraint.masks()[0, end]
    assert torch.equal(constraint.masks()[0].nonzero()[:, 0].unique(), constraint.masks()[0].nonzero()[:, 0])


def test_a_grammar_is_compiled_once_for_a_tokenizer() -> None:
    grammar = Grammar.json_schema(PERSON)
    first, second = (grammar.constraint(tokenizer_of("bpe")) for _ in range(2))
    assert first is not second
    assert len(grammar._compiled) == 1


def test_the_grammars_used_last_are_kept() -> None:
    kept, made = Grammars(2), []

    def get(key: str) -> Grammar:
        return kept.get(key, lambda: made.append(key) or Grammar.choices([key]))  # type: ignore[func-returns-value]

    first = get("a")
    assert get("a") is first
    get("b")
    assert get("a") is first  # used again, so that b goes before it
    get("c")
    assert get("a") is first
    get("b")
    assert made == ["a", "b", "c", "b"]
