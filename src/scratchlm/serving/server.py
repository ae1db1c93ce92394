"""Starting a server, and stopping it so that what runs is finished."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from scratchlm.errors import UserError
from scratchlm.serving.app import create_app
from scratchlm.serving.connections import connection_class
from scratchlm.serving.metrics import Metrics
from scratchlm.serving.registry import Registry
from scratchlm.serving.settings import ServerSettings

_SWITCH = 0.001
"""Seconds after which one of our threads lets the other go on: the engine's must not wait long for the loop's."""


class Server(uvicorn.Server):
    """A server of some models.

    Args:
        models, adapters, stores: as :class:`~scratchlm.serving.registry.Registry` takes them.
        on_start: told of the address once clients may come.

    Raises:
        UserError: as the registry; or the port is taken.
    """

    def __init__(
        self,
        models: Sequence[str],
        adapters: Sequence[str] = (),
        settings: ServerSettings | None = None,
        on_start: Callable[[str], None] | None = None,
        stores: Sequence[str] = (),
    ) -> None:
        self.settings = settings or ServerSettings()
        self.metrics = Metrics()
        self.models = Registry(models, adapters, self.settings, self.metrics.ended, stores)
        self.app = create_app(self.models, self.metrics)
        self._on_start = on_start
        self._thread = threading.current_thread()
        self._failure: BaseException | None = None
        self._socket = bind(self.settings.host, self.settings.port)
        super().__init__(configured(self.app, self.settings))

    @property
    def url(self) -> str:
        """Where clients find the API."""
        return f"{address_of(self._socket)}/v1"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        async with self.models.use(next(iter(self.models.served))):  # what is wrong with it is told at the start
            await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start(self.url)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until it is stopped.

        Raises:
            UserError: the first model cannot be read.
        """
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        try:
            super().run(sockets or [self._socket])
        finally:
            sys.setswitchinterval(before)

    def start(self) -> None:
        """Serve in a thread of its own, from a program that goes on; clients may come when this returns.

        Raises:
            UserError: as :meth:`run`.
        """
        self._thread = threading.Thread(target=self._run_beside, name="scratchlm-server", daemon=True)
        self._thread.start()
        while not self.started and self._thread.is_alive():
            time.sleep(0.005)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop what :meth:`start` began, when what runs has finished."""
        self.should_exit = True
        self._thread.join()

    def _run_beside(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self._failure = error


def configured(app: Any, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn serves an app of ours: slow clients are cut off, and what runs is finished."""
    return uvicorn.Config(
        app,
        http=connection_class(settings.patience),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.grace),
    )


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        UserError: it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be had ({error.strerror}); choose another with --host and --port"
        ) from error
    return made


def address_of(bound: socket.socket) -> str:
    """Where a socket is reached over HTTP."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def log_to_stderr() -> None:
    """Warnings and errors, a line each."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
