"""Chat templates: programs that came with a model's files, held to writing a little text.

Jinja's sandbox keeps a template from Python's insides; it does not keep it from running for ever or filling the memory.
So everything that a template does is paid from a budget: each turn of a loop and each call, and each character that an
operation makes or compares, before it does. What cannot be priced (formats with widths, powers, half of the filters) is
refused.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from scratchlm.errors import UserError
from scratchlm.tokenizers.pricing import (
    ALLOWANCE,
    BUDGET,
    PER_CHARACTER,
    STEP,
    Budget,
    names,
    paid_filter,
    paid_test,
    pay_joining,
    pay_replacement,
    refuse,
    size,
    spend,
    weigh,
    write_out,
)

_LONGEST_SOURCE = 200_000
_STRING_METHODS = names(
    "strip lstrip rstrip split rsplit splitlines startswith endswith upper lower title capitalize swapcase casefold "
    "replace find rfind index rindex count join isdigit isalpha isalnum isspace isupper islower isnumeric isdecimal "
    "removeprefix removesuffix partition rpartition"
)
_CONTAINER_METHODS = frozenset({"items", "keys", "values", "get", "copy", "index", "count"})
_FILTERS = names(
    "abs capitalize count d default dictsort e escape first float groupby indent int items join last length list lower "
    "map max min reject rejectattr replace reverse safe select selectattr sort string title tojson trim unique "
    "upper"
)
_LARGEST_NUMBER = 1 << 64


class _Priced(NodeTransformer):
    """Puts the price into a parsed template: a step into each body that can run more than once, and our own functions
    in the place of operations that make text or containers without asking the environment."""

    def _paid_body(self, node: Any) -> Any:
        literals = sum(len(part.data) for part in node.find_all(nodes.TemplateData))
        literals += sum(len(part.value) for part in node.find_all(nodes.Const) if isinstance(part.value, str))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_ours("step", nodes.Const(literals))))
        return node

    visit_Macro = visit_CallBlock = visit_Block = _paid_body  # noqa: N815 (Jinja's names)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        paid: nodes.For = self._paid_body(node)
        if paid.test is not None:
            paid.test = nodes.And(_ours("step", nodes.Const(0)), paid.test)
        return paid

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _ours("concatenate", *node.nodes)

    def _weighed(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        made: nodes.Node = node if getattr(node, "ctx", "load") != "load" else _ours("weighed", node)
        return made

    visit_List = visit_Tuple = visit_Dict = _weighed  # noqa: N815

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _ours("compared", node.expr)
        for operand in node.ops:
            operand.expr = _ours("compared", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = (part or nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step))
        return _ours("cut", node.node, *ends)


def _ours(name: str, *args: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``: what the model is to learn, as ``transformers`` reads it."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Callable[[], str]) -> str:
        begin, end = BUDGET.get().marks
        return f"{begin}{caller()}{end}"


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=_finalised,
            optimized=False,
        )
        self.globals = {
            "namespace": Namespace,
            "range": self.numbers,
            "dict": self.dictionary,
            "raise_exception": self.complain,
            "strftime_now": self.today,
        }
        self.filters = {name: paid_filter(name, made) for name, made in self.filters.items() if name in _FILTERS}
        self.tests = {name: paid_test(name, cast(Callable[..., Any], made)) for name, made in self.tests.items()}
        self.filters["tojson"] = paid_filter("tojson", _to_json)

    # ---- what templates call

    @staticmethod
    def complain(message: str) -> NoReturn:
        raise TemplateError(str(message)[:200])

    @staticmethod
    def today(form: str) -> str:
        if len(form) > 100 or re.search(r"%[^a-zA-Z%-]|%-[^a-zA-Z]", form):
            refuse("such a date format")
        return datetime.now().strftime(form)

    @staticmethod
    def numbers(*ends: int) -> range:
        made = range(*ends)
        spend(len(made))
        return made

    @staticmethod
    def dictionary(*args: Any, **kwargs: Any) -> dict[Any, Any]:
        made = dict(*args, **kwargs)
        weigh(made)
        return made

    # ---- what _Priced puts in

    @staticmethod
    def step(literals: int) -> bool:
        spend(STEP + literals)
        return True

    @staticmethod
    def concatenate(*parts: Any) -> str:
        write_out(parts)
        return "".join(map(str, parts))

    @staticmethod
    def weighed(value: Any) -> Any:
        weigh(value)
        return value

    @staticmethod
    def compared(value: Any) -> Any:
        write_out(value)
        return value

    @staticmethod
    def cut(value: Any, *ends: Any) -> Any:
        spend(size(value))
        return value[slice(*ends)]

    # ---- what Jinja asks

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as Jinja's)
        spend(STEP)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name not in _STRING_METHODS:
                refuse(f"the method {name!r} of a text")
            spend(4 * len(owner))
            if name == "join" and args:
                args = (pay_joining(owner, args[0]),)
            elif name == "replace" and len(args) > 1:
                pay_replacement(owner, *args[:2])
        elif isinstance(owner, list | tuple | dict):
            if name not in _CONTAINER_METHODS:
                refuse(f"the method {name!r} of a list")
            write_out(owner) if name in ("index", "count") else spend(len(owner))
        elif isinstance(owner, LoopContext):  # loop.cycle and loop.changed
            write_out(args)
        elif isinstance(__obj, Macro | LoopContext | BlockReference) or __obj is Namespace:
            weigh((*args, *kwargs.values()))
        elif not (isinstance(owner, Extension) or isinstance(__obj, Undefined) or __obj in _OURS):
            refuse(f"calling {name!r}")
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            spend(size(left) + size(right))
        elif operator == "**":
            refuse("the operator **")
        elif isinstance(left, str) and operator == "%":
            if re.search(r"%[^sd%]", left):
                refuse("a format with a width")
            spend(len(left))
            write_out(right)
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int):
                    spend(size(many) * max(times, 0))
        if any(isinstance(side, int) and abs(side) > _LARGEST_NUMBER for side in (left, right)):
            refuse("a number of that size")
        return super().call_binop(context, operator, left, right)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        refuse(f"the attribute {attribute!r} of a {type(obj).__name__}")

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, str) and attribute in ("format", "format_map"):
            refuse(f"the method {attribute!r} of a text")
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, str) and argument in ("format", "format_map"):
            refuse(f"the method {argument!r} of a text")
        return super().getitem(obj, argument)


_OURS = (
    *(_Environment.complain, _Environment.today, _Environment.numbers, _Environment.dictionary),
    *(_Environment.step, _Environment.concatenate, _Environment.weighed, _Environment.compared),
    _Environment.cut,
)


def _finalised(value: Any) -> Any:
    write_out(value)
    return value


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if len(str(separators)) > 40 or len(str(indent)) > 8 or (isinstance(indent, int) and indent > 16):
        refuse("such an indentation")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled template.

    Raises:
        UserError: from the constructor, when it is no valid template.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _LONGEST_SOURCE:
            raise UserError(
                f"the chat template has {len(source):,} characters; more than {_LONGEST_SOURCE:,} is no chat's"
            )
        token = BUDGET.set(Budget(ALLOWANCE))
        try:
            environment = _Environment()
            parsed = environment.parse(source)
            self.marks_generation = any(
                isinstance(call.node, nodes.ExtensionAttribute) and call.node.name == "marked"
                for call in parsed.find_all(nodes.Call)
            )
            """Whether the template says itself what the model is to learn."""
            self._template: Template = environment.from_string(_Priced().visit(parsed))
        except (Exception, RecursionError, MemoryError) as error:
            raise UserError(f"the chat template is not valid: {_one_line(error)}; give another one") from error
        finally:
            BUDGET.reset(token)

    def render(self, variables: Mapping[str, Any], *, marks: bool = False) -> tuple[str, list[tuple[int, int]]]:
        """The text, and with ``marks`` the (start, end) of each generation block in it.

        Raises:
            UserError: the template refuses the messages, does something that is not allowed, or does too much.
        """
        token = secrets.token_hex(8)  # so that no message can pretend to be a mark
        begin, end = (f"\ue000{token}{side}\ue001" for side in "<>") if marks else ("", "")
        budget = Budget(ALLOWANCE, (begin, end))
        reset = BUDGET.set(budget)
        try:
            budget.left += PER_CHARACTER * _characters(variables)
            text = self._template.render(variables)
        except (Exception, RecursionError, MemoryError) as error:
            raise UserError(
                f"the chat template cannot be rendered: {_one_line(error)}; mend the template or the chat"
            ) from error
        finally:
            BUDGET.reset(reset)
        return _without_marks(text, begin, end) if marks else (text, [])


@functools.lru_cache(maxsize=32)
def compiled(source: str) -> ChatTemplate:
    """The template, compiled once."""
    return ChatTemplate(source)


def _without_marks(text: str, begin: str, end: str) -> tuple[str, list[tuple[int, int]]]:
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    at, start = 0, None
    for piece in re.split(f"({re.escape(begin)}|{re.escape(end)})", text):
        if piece == begin:
            start = at
        elif piece == end:
            if start is not None and at > start:
                spans.append((start, at))
            start = None
        else:
            parts.append(piece)
            at += len(piece)
    return "".join(parts), spans


def _characters(value: Any) -> int:
    """The length of all texts in the messages and tools, each element counting a little too.

    Raises:
        RecursionError: they contain themselves.
    """
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values())) + 10 * len(value)
    if isinstance(value, list | tuple):
        return sum(map(_characters, value)) + 10 * len(value)
    return 10


def _one_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested, or calls itself, too deeply"
    return " ".join(str(error).split())[:200] or type(error).__name__
