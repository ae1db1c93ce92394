"""Traces as OpenTelemetry's spans, with the names of its conventions for generative AI: a run, its turns, its calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scratchlm.agents.replaying import TracedRun
from scratchlm.errors import missing_package

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_SECOND = 1_000_000_000


def export_spans(runs: Sequence[TracedRun], exporter: SpanExporter) -> None:
    """Give runs to an exporter, such as OTLP's, with the times that they had.

    Raises:
        UserError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
    except ImportError as error:
        raise missing_package("spans need", "OpenTelemetry", "telemetry") from error
    provider = TracerProvider(resource=Resource({"service.name": "scratchlm"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scratchlm.agents")
    for run in runs:
        start = run.start["time"]
        last = max([start, *(one["time"] for one in (*run.turns, *run.results, *([run.end] if run.end else [])))])
        about = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.id": run.start["run"], **_model(run)}
        root = tracer.start_span("invoke_agent", attributes=about, start_time=_nanoseconds(start))
        inside = set_span_in_context(root)
        for turn in run.replies:
            attributes: dict[str, Any] = {
                "gen_ai.operation.name": "chat",
                **_model(run),
                "gen_ai.usage.input_tokens": turn["prompt_tokens"],
                "gen_ai.usage.output_tokens": turn["completion_tokens"],
                "gen_ai.response.finish_reasons": [turn["finish_reason"]],
            }
            _span(tracer, f"chat {run.start['model']}", SpanKind.CLIENT, attributes, inside, turn)
            for call in turn["calls"]:
                if (result := run.result(call)) is None or not result["made"]:
                    continue
                named = {
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": call["name"],
                    "gen_ai.tool.call.id": call["id"],
                }
                failed = Status(StatusCode.ERROR, result["result"][:200]) if result["failed"] else None
                _span(tracer, f"execute_tool {call['name']}", SpanKind.INTERNAL, named, inside, result, failed)
        if run.end is not None and run.end["status"] != "done":
            root.set_status(Status(StatusCode.ERROR, run.end["reason"]))
        root.end(_nanoseconds(last))
    provider.shutdown()


def print_spans(runs: Sequence[TracedRun]) -> None:
    """The spans on standard output, one JSON object a line.

    Raises:
        UserError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter
    except ImportError as error:
        raise missing_package("spans need", "OpenTelemetry", "telemetry") from error
    export_spans(runs, ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n"))


def _span(tracer: Any, name: str, kind: Any, about: Any, inside: Any, line: Any, failed: Any = None) -> None:
    """A span that ended when its line was written."""
    end = _nanoseconds(line["time"])
    begin = end - int(line["seconds"] * _SECOND)
    span = tracer.start_span(name, context=inside, kind=kind, attributes=about, start_time=begin)
    if failed is not None:
        span.set_status(failed)
    span.end(end)


def _model(run: TracedRun) -> dict[str, str]:
    return {"gen_ai.request.model": run.start["model"], "gen_ai.provider.name": "scratchlm"}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _SECOND)
