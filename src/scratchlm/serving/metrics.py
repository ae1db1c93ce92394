"""What is counted and timed, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from scratchlm.serving.scheduler import Job

if TYPE_CHECKING:
    from scratchlm.serving.registry import Registry

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One server's."""

    def __init__(self) -> None:
        self.registry = made = CollectorRegistry()
        self.requests = Counter(
            "scratchlm_requests", "Requests, by path and status.", ["path", "status"], registry=made
        )
        self.read = Counter("scratchlm_prompt_tokens", "Tokens of prompts.", registry=made)
        self.cached = Counter("scratchlm_cached_tokens", "Of these, tokens found in the cache.", registry=made)
        self.written = Counter("scratchlm_completion_tokens", "Tokens written.", registry=made)
        self.texts = Counter("scratchlm_texts", "Texts that ended, by why.", ["reason"], registry=made)
        self.running = Gauge("scratchlm_running", "Texts that are computed now.", ["model"], registry=made)
        self.waiting = Gauge("scratchlm_waiting", "Texts that wait for a slot.", ["model"], registry=made)
        self.loaded = Gauge("scratchlm_loaded", "Whether a model is in memory.", ["model"], registry=made)
        self.queued = Histogram(
            "scratchlm_queue_seconds", "From a request to its slot.", buckets=_SECONDS, registry=made
        )
        self.first = Histogram(
            "scratchlm_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, registry=made
        )
        self.whole = Histogram("scratchlm_text_seconds", "From a request to its end.", buckets=_SECONDS, registry=made)

    def ended(self, job: Job) -> None:
        """Count a text. In the engine's thread."""
        reason = "error" if job.error is not None else "cancelled"
        if job.ticket is not None:
            reason = job.ticket.finish_reason or reason
            self.read.inc(len(job.request.ids))
            self.cached.inc(job.ticket.reused)
            self.written.inc(len(job.ticket.tokens))
            self.queued.observe(job.begun - job.arrived)
        self.texts.labels(reason).inc()
        if job.first:
            self.first.observe(job.first - job.arrived)
        self.whole.observe(job.last - job.arrived)

    def page(self, models: Registry) -> bytes:
        """Everything as Prometheus reads it."""
        for name, one in models.served.items():
            running, waiting = (0, 0) if one.loaded is None else one.loaded.load
            self.running.labels(name).set(running)
            self.waiting.labels(name).set(waiting)
            self.loaded.labels(name).set(one.loaded is not None)
        return generate_latest(self.registry)
