"""What may be said: JSON of a schema, a regular expression, choices, a grammar. Every text made under it is valid.

A :class:`Grammar` is compiled for a tokenizer by llguidance (an Earley parser on a lexer of derivatives), which then
says for every state of a text which tokens may come. A :class:`Constraint` is one text's state. It knows at each step
an end that is still in reach of the token budget; a token after which none would be is not taken.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from scratchlm.errors import UserError, missing_package
from scratchlm.generation.completion import end_again, shorter_end, shortest_end
from scratchlm.generation.spelling import Spelling, need_llguidance, spelling_of

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

JSON_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": False}
"""JSON as ``json.dumps`` writes it: models have read it often, and no budget goes into white space."""
_MOST_ERROR, _MOST_ENDS = 200, 32


class Grammar:
    """What a text may be. It is compiled for each tokenizer once.

    Raises:
        UserError: one line that says what is wrong with the schema, expression or grammar, or that llguidance is
            missing.
    """

    def __init__(self, source: Mapping[str, Any], what: str) -> None:
        need_llguidance()
        from llguidance import LLMatcher

        self._source, self.what = dict(source), what
        """``what`` names it in messages."""
        self._compiled: WeakKeyDictionary[Tokenizer, _Compiled] = WeakKeyDictionary()
        if error := LLMatcher.validate_grammar(_grammar(self._source, lead=False)):
            raise UserError(f"{what} cannot be used: {_one_line(error)}")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> Grammar:
        """JSON that fits a JSON Schema (a mapping, or its text), written as ``json.dumps`` does, the properties in the
        schema's order. Keywords that llguidance cannot promise (``not``, ``uniqueItems``, ``oneOf`` of what is not
        apart, ...) are refused."""
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise UserError(f"the schema is no JSON ({str(error)[:80]})") from error
        if not isinstance(schema, Mapping | bool):
            raise UserError(f'the schema is {str(schema)[:40]!r}; give a JSON object, such as {{"type": "object"}}')
        _check_schema(schema)
        value: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else ({} if schema else {"enum": []})
        return cls({"json_schema": {**value, "x-guidance": JSON_STYLE}}, "the schema")

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Texts that match a regular expression as a whole (the syntax of Rust's regex crate: no look-around;
        ``\\d`` is 0 to 9)."""
        if not pattern:
            raise UserError("the regular expression is empty; give one such as [0-9]+")
        need_llguidance()
        from llguidance import regex_to_lark

        try:
            source = regex_to_lark(pattern, "d")
        except ValueError as error:
            raise UserError(
                f"the regular expression {pattern!r:.60} cannot be used: {_one_line(str(error))}"
            ) from error
        return cls({"lark_grammar": f"start: /{source}/"}, f"the regular expression {pattern!r:.60}")

    @classmethod
    def choices(cls, choices: Sequence[str]) -> Grammar:
        """One of these texts."""
        if not choices or any(not isinstance(one, str) or not one for one in choices):
            raise UserError("choices are texts, at least one and none empty; give some such as yes and no")
        texts = " | ".join(json.dumps(one, ensure_ascii=False) for one in dict.fromkeys(choices))
        return cls({"lark_grammar": f"start: {texts}"}, "the choices")

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """Texts of a context-free grammar, in llguidance's kind of Lark's notation; its first rule is ``start``."""
        if not text.strip():
            raise UserError('the grammar is empty; give one such as start: "yes" | "no"')
        return cls({"lark_grammar": text}, "the grammar")

    def constraint(self, tokenizer: Tokenizer) -> Constraint:
        """The state of a text that is to begin.

        Raises:
            UserError: the vocabulary cannot spell any text of the grammar.
        """
        if tokenizer not in self._compiled:
            self._compiled[tokenizer] = _Compiled.of(self, spelling_of(tokenizer))
        return Constraint(self._compiled[tokenizer])

    def least(self, tokenizer: Tokenizer) -> int:
        """The tokens of the shortest text."""
        return self.constraint(tokenizer).least

    @property
    def source(self) -> Mapping[str, Any]:
        """As llguidance takes it: ``json_schema`` or ``lark_grammar``."""
        return self._source


@dataclass
class _Compiled:
    """A grammar for one tokenizer."""

    what: str
    spelling: Spelling
    words: Any
    """A matcher on the vocabulary, at the start."""
    letters: Any
    """The same on the letters of a search."""
    shortest: list[int]
    """The letters of the shortest text."""
    ends: list[list[int]] = field(default_factory=list)
    """Ends that had to be searched for, the latest first: texts often come to such a place again."""

    @classmethod
    def of(cls, grammar: Grammar, spelling: Spelling) -> _Compiled:
        source = _grammar(grammar.source, lead=spelling.lead)
        words, letters = (
            _matcher(spelling.words, source, grammar.what),
            _matcher(spelling.letters, source, grammar.what),
        )
        shortest = shortest_end(letters, spelling)
        if shortest is None:
            raise UserError(
                f"{grammar.what} cannot be met: no text of it was found that ends and that this model's vocabulary can "
                f"spell{_lacking(letters, spelling)}"
            )
        return cls(grammar.what, spelling, words, letters, shortest)


@dataclass(frozen=True)
class _State:
    """Where a text stands, and an end that is known."""

    words: Any
    letters: Any
    spelling: Spelling
    plan: list[int]
    """Letters of the end."""
    shortest: bool = True
    """Whether no shorter one was found."""

    @cached_property
    def ids(self) -> list[int]:
        """Tokens of the end."""
        return self.spelling.spell(self.plan) or []

    def fits(self, left: int) -> bool:
        """Whether there is room for the end."""
        return len(self.plan) <= left or len(self.ids) <= left  # no token is less than a letter


class Grammars:
    """The grammars that were used last. They are kept because a grammar's work on a vocabulary is kept in it.

    Args:
        most: how many.
    """

    def __init__(self, most: int = 16) -> None:
        self._most, self._kept, self._turn = most, dict[str, Grammar](), threading.Lock()

    def get(self, key: str, make: Callable[[], Grammar]) -> Grammar:
        """The grammar of a key, made where there is none. From any thread."""
        with self._turn:
            found = self._kept.pop(key, None) or make()
            self._kept[key] = found
            if len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
            return found


class Constraint:
    """The state of one text under a grammar. Made by :meth:`Grammar.constraint`; it serves one text only."""

    def __init__(self, compiled: _Compiled) -> None:
        self._spelling, self.what, self._ends = compiled.spelling, compiled.what, compiled.ends
        words, letters = compiled.words.deep_copy(), compiled.letters.deep_copy()
        self._state = _State(words, letters, self._spelling, compiled.shortest)
        self._width = self._spelling.size
        self.begun = False
        """Whether a text has begun with it."""
        self.ended: Literal["", "end", "length"] = ""
        """Why nothing may follow: the text is whole, or the budget is used up."""

    @property
    def complete(self) -> bool:
        """Whether what stands is valid as it is."""
        return not self._state.plan

    @property
    def least(self) -> int:
        """Tokens of the end that is known: as many the text needs yet."""
        return len(self._state.ids)

    def check(self, budget: int, vocab_size: int) -> None:
        """See that it suits a request.

        Raises:
            UserError: no text fits into so many tokens.
            ValueError: it has served a text already, or the model has fewer tokens than the tokenizer.
        """
        if self.begun or self.ended:
            raise ValueError("a constraint serves one text; make one for each with Grammar.constraint")
        if vocab_size < self._spelling.size:
            raise ValueError(f"the tokenizer has {self._spelling.size} tokens and the model {vocab_size}")
        self._width = vocab_size
        if self.least > budget:
            raise UserError(
                f"{self.what} needs at least {self.least} tokens, and max_new_tokens is {budget}; give that or more"
            )

    def begin(self, left: int) -> list[int]:
        """What the grammar forces at the start, with room for ``left`` tokens."""
        self.begun = True
        return self._force(left)

    def take(self, token: int, left: int) -> tuple[list[int], bool]:
        """Go on with a token, with room for ``left`` tokens, this one included.

        Returns:
            The tokens that come: this one and what the grammar forces after it; or, where it leads to no end that is in
            reach and can be spelled, the shortest end from here. And whether the first is the given one.

        Raises:
            UserError: the token may not come, or the grammar became too complex to follow.
        """
        if token in self._spelling.end_ids:
            self.ended = "end"
            return [token], True
        after = self._after([token])
        if after is not None and not after.fits(left - 1):
            after = self._shorter(after, left - 1)
        if after is None or not after.fits(left - 1):
            return self._finish(), False
        self._state = after
        return [token, *self._force(left - 1)], True

    def allows(self, tokens: Sequence[int]) -> int:
        """How many of these tokens may come, one after the other."""
        return int(self._state.words.validate_tokens(list(tokens)))

    def blocked(self, draft: Sequence[int] = ()) -> tuple[Tensor, list[bool]]:
        """Which tokens may not come now, and after each of ``draft``: (1 + draft, V) bool, V the model's vocabulary;
        and for each whether one alone may come."""
        masks = self.masks(draft)
        return ~masks, (masks.sum(-1) == 1).tolist()

    def masks(self, draft: Sequence[int] = ()) -> Tensor:
        """Which tokens may come: the opposite of :meth:`blocked`."""
        size = len(self._spelling.tokens)
        bits = np.zeros((1 + len(draft), -(-size // 32)), np.int32)
        matcher = self._state.words.deep_copy() if draft else self._state.words
        for row, token in zip(bits, [*draft, None], strict=True):
            matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            if token is not None:
                matcher.consume_token(token)
        self._raise_error(matcher)
        found = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, : self._spelling.size]
        mask = torch.zeros(len(bits), self._width, dtype=torch.bool)
        mask[:, : self._spelling.size] = torch.from_numpy(found).view(torch.bool)
        return mask

    def _after(self, tokens: Sequence[int]) -> _State | None:
        """The state after these tokens; None where no end was found from there."""
        state, spelling = self._state, self._spelling
        words, letters = state.words.deep_copy(), state.letters.deep_copy()
        steps = [letter for token in tokens for letter in spelling.letters_of(token)]
        for matcher, ids in ((words, list(tokens)), (letters, steps)):
            if not matcher.consume_tokens(ids):
                self._raise_error(matcher)
        after = replace(state, words=words, letters=letters)
        if state.plan[: len(steps)] == steps:
            return replace(after, plan=state.plan[len(steps) :])
        if letters.is_accepting():
            return replace(after, plan=[], shortest=True)
        # In a text any character may come: what is left of the plan, or all of it, still leads on.
        for plan in (state.plan[len(steps) :], state.plan):
            if plan and letters.validate_tokens([*plan, spelling.end_ids[0]]) > len(plan):
                return replace(after, plan=plan, shortest=False)
        found = end_again(letters, spelling, [state.plan, *self._ends])
        if found is None and (found := shortest_end(letters, spelling)) is not None:
            self._ends[:] = [found, *self._ends[: _MOST_ENDS - 1]]
        return None if found is None else replace(after, plan=found, shortest=False)

    def _shorter(self, state: _State, most: int) -> _State:
        """The same with an end of at most so many tokens, if one is found."""
        found = None if state.shortest else shorter_end(state.letters, self._spelling, most)
        return replace(state, plan=state.plan if found is None else found, shortest=True)

    def _force(self, left: int) -> list[int]:
        """The tokens that must come now: those that the grammar forces, and all to the end where no more room is left
        than it takes."""
        forced: list[int] = []
        if self._state.fits(left - 1) and (usual := self._state.words.compute_ff_tokens()):
            after = self._after(usual)
            if after is not None and after.fits(left - len(usual)):  # else only the fewest tokens have room
                self._state, forced = after, usual
        left -= len(forced)
        if not self.complete and not self._state.fits(left - 1):
            self._state = self._shorter(self._state, self.least - 1)
            if not self._state.fits(left - 1):
                forced = [*forced, *self._finish()]
        if not self.ended and self._state.words.is_stopped():
            self.ended = "end"
        return forced

    def _finish(self) -> list[int]:
        """The tokens of the end that is known; nothing comes after them."""
        self.ended = "length"
        ids = self._state.ids
        self._state = replace(self._state, plan=[])
        return ids

    def _raise_error(self, matcher: Any) -> None:
        if matcher.is_error():
            raise UserError(f"{self.what} could not be followed: {_one_line(matcher.get_error())}")


def grammar_of(schema: Mapping[str, Any] | bool | str | None, grammar: Grammar | None) -> Grammar | None:
    """The one of the two that is given.

    Raises:
        UserError: both are, or the schema is wrong.
    """
    if schema is not None and grammar is not None:
        raise UserError("give a schema or a grammar, not both")
    return grammar if schema is None else Grammar.json_schema(schema)


def _matcher_class() -> Any:
    need_llguidance()
    from llguidance import LLMatcher

    return LLMatcher


def _grammar(source: Mapping[str, Any], *, lead: bool) -> str:
    """The grammar as JSON for llguidance; with ``lead`` a space may come first."""
    if not lead:
        return json.dumps({"grammars": [source]})
    return json.dumps({"grammars": [{"lark_grammar": 'start: " "? @text'}, {"name": "text", **source}]})


def _matcher(vocabulary: Any, grammar: str, what: str) -> Any:
    matcher = _matcher_class()(vocabulary, grammar, log_level=0)
    if matcher.is_error():
        raise UserError(f"{what} cannot be used: {_one_line(matcher.get_error())}")
    return matcher


def _lacking(letters: Any, spelling: Spelling) -> str:
    """What the grammar wants first that the vocabulary lacks, for people."""
    forced = letters.compute_ff_bytes()
    for character in forced.decode("utf-8", "ignore"):
        if not any(character.encode() in token for token in spelling.ids):
            return f"; the vocabulary has no {character!r}"
    return ""


def _check_schema(schema: Mapping[str, Any] | bool) -> None:
    """Raises UserError where a schema is none."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError as error:
        raise missing_package("schemas need", "jsonschema", "agents") from error
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path))
        raise UserError(f"the schema is wrong{f' at {where}' if where else ''}: {_one_line(error.message)}") from error


def _one_line(text: str) -> str:
    line = " ".join(re.split(r"\n\s*\d+ \|", text)[0].split())  # what follows shows the place in the grammar
    return line if len(line) <= _MOST_ERROR else f"{line[:_MOST_ERROR]} ..."
