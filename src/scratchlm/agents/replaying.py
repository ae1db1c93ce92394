"""Reading traces: as a tree for people, run again without the model, and as rows to learn from."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchlm.agents.call_format import CallFormat
from scratchlm.agents.calling import REFUSED
from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import Reply, ToolCall
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.state import State
from scratchlm.agents.traces import VERSION
from scratchlm.checkpoints.files import disk_errors, write_rows
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.reading import read_text

if TYPE_CHECKING:
    from rich.tree import Tree

    from scratchlm.agents.tool import Tool

_SHOWN = 300


@dataclass
class TracedRun:
    """The lines of one run."""

    start: dict[str, Any]
    turns: list[dict[str, Any]] = field(default_factory=list)
    """Replies and summaries, in order."""
    results: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    """None where the trace breaks off."""

    @property
    def replies(self) -> list[dict[str, Any]]:
        """The model's turns."""
        return [turn for turn in self.turns if turn["kind"] == "reply"]

    def result(self, call: Mapping[str, Any]) -> dict[str, Any] | None:
        """What came of a call; the last of it where it was tried again."""
        return next((one for one in reversed(self.results) if one["id"] == call["id"]), None)


def read_trace(path: Path) -> list[TracedRun]:
    """The runs in a trace, in the order in which they began.

    Raises:
        UserError: it cannot be read, or a line of it is no trace's; a last line that breaks off is left out.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no trace {path}; write one with: scratchlm agent ... --trace FILE") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
    runs: dict[str, TracedRun] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip() or number == len(lines):  # a whole line ends in a line break
            continue
        try:
            _take(runs, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}:{number} is no line of a trace; give a file that --trace wrote") from error
    if not runs:
        raise UserError(f"{path} holds no run; give a file that --trace wrote")
    return list(runs.values())


def _take(runs: dict[str, TracedRun], line: dict[str, Any]) -> None:
    kind, name = line["kind"], line["run"]
    if kind == "start":
        if line["version"] != VERSION:
            raise ValueError("another version")
        runs.setdefault(name, TracedRun(line)).end = None
    elif kind in ("reply", "summary"):
        runs[name].turns.append({**line, "calls": [dict(one) for one in line.get("calls", ())]})
    elif kind == "result":
        runs[name].results.append({**line, "id": line["id"], "result": line["result"]})
    else:
        runs[name].end = {**line, "status": line["status"], "answer": line["answer"]}


# ---- for people


def trace_tree(run: TracedRun) -> Tree:
    """A run as a tree that ``rich`` prints: turns, calls, results, times."""
    from rich.text import Text
    from rich.tree import Tree

    end = run.end or {"status": "broken off", "reason": "", "seconds": 0.0}
    why = f" ({end['reason']})" if end["reason"] else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.start["time"]))
    head = f"{_short(run.start['task'])}\n{run.start['model']}, {when}, {end['status']}{why}, {end['seconds']:.2f} s"
    tree = Tree(Text(head, style="bold"))
    for turn in run.turns:
        if turn["kind"] == "summary":
            tree.add(Text(f"summed up, {turn['seconds']:.2f} s: {_short(turn['text'])}"))
            continue
        tokens = f"{turn['prompt_tokens']:,} tokens read, {turn['completion_tokens']:,} written"
        tokens += f", {turn['forced']:,} of them forced" if turn["forced"] else ""
        branch = tree.add(Text(f"turn {turn['step']}: {turn['seconds']:.2f} s, {tokens}"))
        if turn["text"]:
            branch.add(Text(_short(turn["text"])))
        for call in turn["calls"]:
            leaf = branch.add(Text(_short(call["fault"] or f"{call['name']}({call['arguments']})")))
            if (result := run.result(call)) is not None:
                made = f" [{1000 * result['seconds']:.1f} ms]" if result["made"] else " [not made]"
                leaf.add(Text(_short(result["result"]) + made, style="red" if result["failed"] else ""))
    return tree


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


# ---- without the model


class _Recorded:
    """A model that says again what it said, and sees to it that it is asked the same."""

    context = 1 << 40  # no turn is summed up again

    def __init__(self, run: TracedRun) -> None:
        self.name, self._run, self.at, self._known = str(run.start["model"]), run, 0, 0

    def count(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        del messages, tools
        return 0

    def respond(self, messages: Sequence[Mapping[str, Any]], tools: Any = (), **_: Any) -> Reply:
        del tools
        turn = self._run.replies[self.at]
        new = list(messages[self._known :])
        # Where old turns had been shortened, only what came since is compared.
        told = turn["new"][-len(new) :] if turn["kept"] < self._known else turn["new"]
        if new != told:
            raise UserError(
                f"turn {turn['step']} of the trace was asked something else than now: {_difference(told, new)}"
            )
        self._known, self.at = len(messages), self.at + 1
        return Reply(
            turn["text"],
            tuple(ToolCall("", one["name"], one["arguments"], one["fault"]) for one in turn["calls"]),
            turn["prompt_tokens"],
            turn["completion_tokens"],
            turn["seconds"],
            turn["finish_reason"],
            turn["raw"],
            ids=tuple(turn["ids"]),
            sampled=tuple(one == "1" for one in turn["sampled"]),
        )


class _RecordedTool:
    """A tool whose results are those of the trace."""

    def __init__(self, schema: Mapping[str, Any], effects: bool, results: Mapping[tuple[str, str], deque[Any]]) -> None:
        self.name, self.effects, self._schema, self._results = schema["function"]["name"], effects, schema, results

    def schema(self) -> dict[str, Any]:
        return dict(self._schema)

    def run(self, arguments: str) -> Any:
        from scratchlm.agents.tool import Outcome

        left = self._results[self.name, arguments]
        if not left:
            raise UserError(f"the trace has no result of {self.name}({arguments})")
        one = left.popleft()
        return Outcome(one["result"], one["failed"], one["seconds"])


def replay(run: TracedRun, tools: Sequence[Tool] | None = None) -> State:
    """Do a run again without its model: the same turns, and the same results or, with ``tools``, new ones.

    Everything between them is done anew, so that the state is the one that the run had.

    Raises:
        UserError: with the same results something else is asked of the model than was then.
    """
    results: dict[tuple[str, str], deque[Any]] = defaultdict(deque)
    refused: dict[tuple[str, str], deque[Any]] = defaultdict(deque)
    effects = {one["name"] for one in run.results if one["effects"]}
    for call in (call for turn in run.replies for call in turn["calls"]):
        if (result := run.result(call)) is not None:
            (results if result["made"] else refused)[call["name"], call["arguments"]].append(result)
    given = dict(run.start["settings"])
    sampling = SamplingConfig(**given.pop("sampling"))
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    settings = replace(AgentSettings(**fields, sampling=sampling), max_seconds=None)
    model = _Recorded(run)

    def ask(call: ToolCall, _why: str) -> bool | str:
        left = refused[call.name, call.arguments]
        if not left or not left[0]["result"].startswith(REFUSED):
            return True
        return str(left.popleft()["result"].removeprefix(REFUSED).lstrip(".: "))

    played: Any = tools
    if tools is None:
        played = [_RecordedTool(one, one["function"]["name"] in effects, results) for one in run.start["tools"]]
    state = State(run.start["task"], id=run.start["run"], model=model.name)
    run_agent(
        *(state, model, played, settings),
        ask=ask,
        cancel=lambda: model.at >= len(run.replies) and not any(results.values()),
    )
    if run.end is not None and state.reason == "cancelled":  # its turns are used up: it ended as it ended then
        state.status, state.reason = run.end["status"], run.end["reason"]
    return state


def _difference(told: Sequence[Any], new: Sequence[Any]) -> str:
    at = next((n for n, (a, b) in enumerate(zip(told, new, strict=False)) if a != b), min(len(told), len(new)))
    before, now = (
        _short(json.dumps(one[at], ensure_ascii=False)) if at < len(one) else "nothing" for one in (told, new)
    )
    return f"{before} then, {now} now"


# ---- to learn from


def training_rows(
    runs: Sequence[TracedRun], form: CallFormat | None = None, *, clean: bool = False
) -> list[dict[str, Any]]:
    """Chat rows of the runs that ended in an answer, as ``scratchlm finetune --task chat`` reads them.

    Args:
        form: of the model that is to learn; where its template shows no tools, they are in the rows' system text. None:
            OpenAI's form, with the tools beside the messages.
        clean: leave out runs in which a call failed.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        if run.end is None or (run.end["status"], run.end["reason"]) != ("done", "answered"):
            continue
        if clean and any(one["failed"] or not one["made"] for one in run.results):
            continue
        messages, tools = replay(run).messages, run.start["tools"]
        if form is None or not tools:
            rows.append({"messages": messages, **({"tools": tools} if tools else {})})
            continue
        given, shown = form.prompt(messages, tools)
        rows.append({"messages": given, **({"tools": shown} if shown else {})})
    return rows


def save_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as JSONL.

    Raises:
        UserError: there are none, or they cannot be written.
    """
    if not rows:
        raise UserError("no run of the trace ended in an answer, so there is nothing to learn from")
    with disk_errors(str(path), "choose another file"):
        write_rows(path, rows)
