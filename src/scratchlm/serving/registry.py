"""The models that are served: named at the start, read in when they are first asked for, and put away again when
another needs their memory."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar

import psutil

from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.model import Choice
from scratchlm.api import load
from scratchlm.checkpoints.catalogue import Located, resolve
from scratchlm.checkpoints.inspect import inspect
from scratchlm.errors import UserError
from scratchlm.generation.advised import advised_sampling
from scratchlm.generation.constraints import Constraint, Grammars
from scratchlm.language_model import LanguageModel
from scratchlm.serving.documents import Documents
from scratchlm.serving.errors import ApiError
from scratchlm.serving.scheduler import Job, Scheduler
from scratchlm.serving.settings import ServerSettings

Found = TypeVar("Found")
_FREE = 0.8
"""Of the memory that is free at the start, the share that models may take unless told."""
_PREPARING = 4
"""Requests that are made ready at a time."""
_WAIT = 30.0
"""Seconds that a request waits for the memory of a model that others are using."""


class Loaded:
    """A model in memory, with what serves it."""

    def __init__(self, model: LanguageModel, settings: ServerSettings, on_end: Callable[[Job], None]) -> None:
        self.model, self.tokenizer, self.name = model, model.tokenizer, model.name
        self._settings, self._on_end = settings, on_end
        self.advised: dict[str, float] = {}
        """How its makers advise to draw a chat's answers."""
        self._lock = threading.Lock()
        self._scheduler: Scheduler | None = None
        self.grammars = Grammars()
        """Of schemas that answers were asked to fit."""

    @property
    def scheduler(self) -> Scheduler:
        """What generates its text; made when it is first asked for, which takes as long as building an engine.

        Raises:
            UserError: the model writes no text.
        """
        with self._lock:
            if self._scheduler is None:
                most = self._settings
                engine = self.model.engine_for(most.slots, most.context)
                self._scheduler = Scheduler(engine, most.slots, most.queue, self.name, self._on_end)
            return self._scheduler

    @property
    def load(self) -> tuple[int, int]:
        """Texts that run, and texts that wait."""
        return (0, 0) if self._scheduler is None else self._scheduler.load

    @property
    def context(self) -> int:
        """Tokens that it reads and writes at most."""
        return self.scheduler.engine.backend.context

    @cached_property
    def caller(self) -> LocalAgentModel:
        """How it is shown tools, and calls them.

        Raises:
            UserError: it has no chat template.
        """
        return LocalAgentModel(self.model)

    def call_constraint(self, tools: Sequence[dict[str, Any]], choice: Choice, most: int) -> Constraint | None:
        """What a turn with tools may be; None for anything."""
        with self._lock:
            return self.caller.constraint(tools, choice, most)

    def close(self, grace: float) -> None:
        """Finish what runs, within so many seconds."""
        if self._scheduler is not None:
            self._scheduler.close(grace)


@dataclass
class Served:
    """A name that clients may ask for."""

    name: str
    located: Located
    told: dict[str, Any]
    """What :func:`~scratchlm.checkpoints.inspect.inspect` says of it."""
    created: int = field(default_factory=lambda: int(time()))
    loaded: Loaded | None = None
    users: int = 0
    used: float = 0.0
    read: int = 0
    """When what is loaded was written."""

    @property
    def writes(self) -> bool:
        """Whether it continues text."""
        return bool(self.told["architecture"] == "decoder")

    def bytes(self, slots: int, context: int) -> int:
        """What it takes in memory at most, about: weights as they are read and as they are computed with, and a full
        cache."""
        table = self.told["memory"]
        cache = table["float32"]["cache"] * slots * min(context, self.told["context"]) // self.told["context"]
        if not self.writes:
            return int(table["float32"]["weights"])
        read = self.told["bytes"] if self.told["kind"] == "gguf" else table["float32"]["weights"]
        return int(read + table["int8"]["weights"] + cache)


class Registry:
    """The models of one server.

    Args:
        models: names of models as everywhere, or ``NAME=MODEL`` to serve one by a name of its own.
        adapters: folders of adapters, each of which is served as a model, worked into its base.
        on_end: told of every text that has ended.
        stores: folders of indexes, which are searched and asked.

    Raises:
        UserError: a model is not on this machine, two have one name, an adapter is none, or one alone is too large.
    """

    def __init__(
        self,
        models: Sequence[str],
        adapters: Sequence[str] = (),
        settings: ServerSettings | None = None,
        on_end: Callable[[Job], None] = lambda _job: None,
        stores: Sequence[str] = (),
    ) -> None:
        self.settings, self.on_end = settings or ServerSettings(), on_end
        given = self.settings.memory
        self.budget = int(_FREE * psutil.virtual_memory().available if given is None else given * 1e9)
        self.served: dict[str, Served] = {}
        self.executor = ThreadPoolExecutor(_PREPARING, "scratchlm-prepare")
        self._loading, self._freed, self._turns = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(1)
        self._line = 0
        for spec, adapter in [*((one, False) for one in models), *((one, True) for one in adapters)]:
            self._add(spec, adapter)
        self.stores: dict[str, Documents] = {}
        for store in stores:
            one = Documents(store)
            if one.name in self.stores or one.name in self.served:
                raise UserError(f"two things are called {one.name!r}; rename the folder of the index")
            self.stores[one.name] = one
        if not self.served:
            raise UserError("there is nothing to serve; name a model, such as smollm2-135m-instruct")

    def _add(self, spec: str, adapter: bool) -> None:
        before, mark, after = spec.partition("=")
        own = bool(mark and before and not Path(spec).exists())
        located = resolve(after if own else spec)
        if adapter and located.kind != "adapter":
            raise UserError(f"{spec} is no adapter; name it as a model, without --adapter")
        name = before if own else Path(spec).name if Path(spec).exists() else spec
        if name in self.served:
            raise UserError(f"two models are called {name!r}; name one with: NAME={spec}")
        self.served[name] = self._fitting(name, located)

    def _fitting(self, name: str, located: Located) -> Served:
        """A model that is not served yet.

        Raises:
            UserError: it is damaged, or too large.
        """
        one = Served(name, located, inspect(located))
        needs = self.needs(one)
        if needs > self.budget:
            raise UserError(
                f"{name} takes up to {needs / 1e9:.1f} GB with {self.settings.slots} slots of "
                f"{self.settings.context:,} tokens, and {self.budget / 1e9:.1f} GB may be used; lower --slots or "
                "--context, or raise --memory"
            )
        return one

    async def add(self, spec: str, name: str) -> Served:
        """Serve a model from now on, too; if it is served already, by whatever name, that one. One whose files have
        changed, such as a run that trains, is read anew when nobody uses it.

        Raises:
            UserError: it is not on this machine, damaged or too large, or another has this name.
        """
        located = await self.work(resolve, spec)
        path = located.path.resolve()
        one = next((one for one in self.served.values() if one.located.path.resolve() == path), None)
        if one is None:
            if name in self.served or name in self.stores:
                raise UserError(f"another model is called {name!r}; rename the folder of this one")
            made = await self.work(self._fitting, name, located)
            one = self.served.setdefault(name, made)  # meanwhile another request may have been served
        else:
            async with self._loading:
                if one.loaded is not None and not one.users and one.read != _written(located):
                    await self._put_away(one)
        return one

    def needs(self, one: Served) -> int:
        """Bytes that a model may take at most once it is loaded."""
        return one.bytes(max(self.settings.slots, 8), self.settings.context)

    @property
    def used(self) -> int:
        """Bytes that the models in memory may take at most."""
        return sum(self.needs(one) for one in list(self.served.values()) if one.loaded is not None)

    def find(self, name: str) -> Served:
        """The model of a name.

        Raises:
            ApiError: there is none.
        """
        if name not in self.served:
            raise ApiError(404, f"The model {name[:80]!r} does not exist", param="model", code="model_not_found")
        return self.served[name]

    def store(self, name: str) -> Documents:
        """The index of a name.

        Raises:
            ApiError: there is none.
        """
        if name not in self.stores:
            raise ApiError(404, f"The vector store {name[:80]!r} does not exist", code="vector_store_not_found")
        return self.stores[name]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Loaded]:
        """The model of a name, in memory for as long as it is used.

        Raises:
            ApiError: there is none, or no memory for it as long as others are used (503).
            UserError: it cannot be read.
        """
        one = self.find(name)
        one.users += 1  # from here on it stays
        try:
            if one.loaded is None:
                await self._load(one)
            assert one.loaded is not None
            yield one.loaded
        finally:
            one.users -= 1
            one.used = monotonic()
            self._freed.set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of the places for requests that are worked on outside the engines; the others wait in line.

        Raises:
            ApiError: too many wait.
        """
        if self._line >= self.settings.queue:
            said = "too many requests are waiting; try again in 2 s"
            raise ApiError(429, said, code="queue_full", headers={"Retry-After": "2"})
        self._line += 1
        try:
            async with self._turns:
                yield
        finally:
            self._line -= 1

    async def work(self, function: Callable[..., Found], *arguments: Any, **named: Any) -> Found:
        """Something that takes time, beside the event loop."""
        call = partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self.executor, call)

    async def _load(self, one: Served) -> None:
        end = monotonic() + _WAIT
        async with self._loading:
            while one.loaded is None:
                self._freed.clear()
                if await self._make_room(self.needs(one)):
                    one.loaded = await self.work(self._read, one)
                    return
                try:
                    await asyncio.wait_for(self._freed.wait(), end - monotonic())
                except TimeoutError:
                    said = "the memory is taken by other models that are in use; try again later"
                    raise ApiError(503, said, headers={"Retry-After": "30"}) from None

    def _read(self, one: Served) -> Loaded:
        one.read = _written(one.located)
        model = load(str(one.located.path), precision=self.settings.precision)
        model.name = one.name
        made = Loaded(model, self.settings, self.on_end)
        if one.writes:
            made.advised = advised_sampling(one.located)
            _ = made.scheduler
        return made

    async def _make_room(self, needs: int) -> bool:
        """Put away what was used longest ago and is not in use, until there is room; False where that is not enough."""
        while True:
            if self.used + needs <= self.budget:
                return True
            here = (one for one in self.served.values() if one.loaded is not None and not one.users)
            idle = sorted(here, key=lambda one: one.used)
            if not idle:
                return False
            await self._put_away(idle[0])

    async def _put_away(self, one: Served) -> None:
        away, one.loaded = one.loaded, None
        assert away is not None
        await self.work(away.close, 0.0)
        del away
        gc.collect()

    def close(self) -> None:
        """Finish what runs, and let the models go."""
        for one in self.served.values():
            if one.loaded is not None:
                one.loaded.close(self.settings.grace)
                one.loaded = None
        self.executor.shutdown(wait=False, cancel_futures=True)


def _written(located: Located) -> int:
    """When a model's weights were last written, in nanoseconds."""
    path = located.path
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files), default=0)
