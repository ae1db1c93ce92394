"""Encoding a stream of texts on all cores.

Python threads would wait for one another, so the work goes to processes: each is this module run as a program, fed
through a pipe. Nothing is forked or pickled, a caller's script needs no ``__main__`` guard, and when the caller dies,
however it dies, the pipes close and the processes end.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TypeVar

import numpy as np

from scratchlm.errors import UserError
from scratchlm.tokenizers.tokenizer import Ids, Tokenizer

T = TypeVar("T")
_LENGTH = struct.Struct("<q")
_REFUSED = -1
MOST_WORKERS = 5
"""Each holds up to about 215 MB (measured on text of nothing but new words), all together less than 1.5 GB."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class EncoderPool:
    """``workers`` processes that encode with one tokenizer; with 0 there are none. Use it in a ``with`` block."""

    def __init__(self, tokenizer: Tokenizer, workers: int) -> None:
        self._dtype = tokenizer.dtype
        self._workers: list[subprocess.Popen[bytes]] = []
        if workers == 0:
            return
        # What this process can import the others can, installed or not; their library threads would only be in the way.
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = os.environ | {"PYTHONPATH": paths, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            command = [sys.executable, "-m", "scratchlm.tokenizers.parallel", folder]
            for _ in range(workers):
                self._workers.append(
                    subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                )
            try:
                for worker in self._workers:  # each says so when it has loaded the tokenizer
                    self._receive(worker)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> EncoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        continue
        self._workers = []

    def map(self, items: Iterable[T], text_of: Callable[[T], str]) -> Iterator[tuple[T, Ids | None]]:
        """Each item with the ids of its text, in order; None where the text is left to the caller, because it cannot
        be encoded (encoding it again tells why) or because there are no workers.

        Raises:
            UserError: a process was ended from outside.
        """
        if not self._workers:
            for item in items:
                yield item, None
            return
        pending: deque[tuple[T, subprocess.Popen[bytes]]] = deque()
        for number, item in enumerate(items):
            # Round robin: the one whose turn it is holds the oldest pending text, so it is free once that is received.
            worker = self._workers[number % len(self._workers)]
            done = None
            if len(pending) == len(self._workers):
                oldest, same = pending.popleft()
                done = (oldest, self._receive(same))
            self._send(worker, text_of(item))
            pending.append((item, worker))
            if done:
                yield done
        for item, worker in pending:
            yield item, self._receive(worker)

    def _send(self, worker: subprocess.Popen[bytes], text: str) -> None:
        assert worker.stdin is not None
        try:
            _write(worker.stdin, text.encode("utf-8"))
        except BrokenPipeError as error:
            raise _ended() from error

    def _receive(self, worker: subprocess.Popen[bytes]) -> Ids | None:
        assert worker.stdout is not None
        try:
            answer = _read(worker.stdout)
        except EOFError as error:
            raise _ended() from error
        return None if answer is None else np.frombuffer(answer, self._dtype)


def _ended() -> UserError:
    return UserError("a tokenising process was ended from outside (out of memory?); free some memory and run again")


def _write(pipe: IO[bytes], content: bytes | None) -> None:
    pipe.write(_LENGTH.pack(_REFUSED if content is None else len(content)))
    pipe.write(content or b"")
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes | None:
    """One message; None for a refusal.

    Raises:
        EOFError: the other side is gone.
    """
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    if length == _REFUSED:
        return None
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _work(folder: str) -> None:
    """The process's side: a text comes in, its ids go out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who closes the pipe
    tokenizer = Tokenizer.load(folder)
    tokenizer.encode("")
    try:
        _write(sys.stdout.buffer, b"")
        while True:
            text = _read(sys.stdin.buffer)
            try:
                ids = tokenizer.encode_array((text or b"").decode("utf-8"))
            except UserError:
                _write(sys.stdout.buffer, None)
            else:
                _write(sys.stdout.buffer, ids.tobytes())
    except (EOFError, BrokenPipeError):
        os._exit(0)  # no tidying: the caller is gone, and so is everything that could be told


if __name__ == "__main__":
    _work(sys.argv[1])
