"""What a server is told when it is started, and the keys that it asks for."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from scratchlm.errors import UserError
from scratchlm.generation.precision import PrecisionName
from scratchlm.reading import read_text
from scratchlm.serving.studio.settings import StudioSettings

KEYS = "SCRATCHLM_API_KEYS"
"""The environment variable with the server's keys, separated by commas."""
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class ServerSettings:
    """How to serve.

    Raises:
        UserError: from ``__post_init__``: a number out of range, an address that others reach and no keys.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    keys: Keys = field(default_factory=lambda: Keys(()))
    open: bool = False
    """Whether others may reach it without a key."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser; none unless told."""
    slots: int = 8
    """Texts of one model that are computed side by side."""
    context: int = 4096
    """Tokens that are read and written of a text at most; less where the model has less."""
    queue: int = 64
    """Texts that may wait for a slot of one model; beyond it clients are told to come back."""
    memory: float | None = None
    """GB for models and their caches; None for 80 % of what is free at the start."""
    precision: PrecisionName = "auto"
    body: int = 4 << 20
    """Bytes of a request."""
    patience: float = 30.0
    """Seconds for a client to send its request, and to take what it is sent, before it is cut off."""
    grace: float = 60.0
    """Seconds that what runs gets to finish when the server is stopped."""
    studio: StudioSettings | None = field(default_factory=StudioSettings)
    """The pages for a browser; None for the API alone."""

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("context", 16), ("queue", 1), ("body", 1024)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"{name} is {value}; give at least {least}")
        if not 0 <= self.port <= 65535:
            raise UserError(f"the port is {self.port}; give one from 1 to 65535, or 0 for a free one")
        if self.memory is not None and not self.memory > 0:
            raise UserError(f"memory is {self.memory:g} GB; give more than 0")
        if not (self.patience > 0 and self.grace >= 0):
            raise UserError("patience and grace are seconds; give more than 0, and at least 0")
        for origin in self.cors:
            parts = urlsplit(origin)
            if origin != "*" and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path):
                raise UserError(f"{origin!r} is no origin; give one such as https://chat.example, or *")
        if not self.loopback and not self.keys and not self.open:
            raise UserError(
                f"{self.host} can be reached by other machines, and no keys are set; put some into {KEYS} or "
                "--key-file, or say --open to let everyone in"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Keys:
    """The keys that let a client in. What is kept of each is its sha256."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    @classmethod
    def read(cls, file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
        """The keys of a file, one a line (# begins a remark), and of the environment.

        Raises:
            UserError: the file cannot be read or has none, or a key is short or has spaces.
        """
        found = [key.strip() for key in environment.get(KEYS, "").split(",") if key.strip()]
        if file is not None:
            try:
                lines = read_text(file).splitlines()
            except OSError as error:
                raise UserError(f"{file}: {error.strerror}; give --key-file a file with a key a line") from error
            kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
            if not kept:
                raise UserError(f"{file} has no key; write one a line, such as that of: openssl rand -hex 24")
            found += kept
        for number, key in enumerate(found, 1):
            if len(key) < _SHORTEST_KEY or not key.isascii() or any(c.isspace() for c in key):
                raise UserError(
                    f"key {number} is no good key; it takes at least {_SHORTEST_KEY} ASCII characters without spaces, "
                    "such as those of: openssl rand -hex 24"
                )
        return cls(tuple(found))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, key: str) -> str | None:
        """A name for the owner of a key that is one of ours; None for any other. It takes as long for all keys."""
        given = sha256(key.encode("utf-8", "replace")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return f"key-{given.hex()[:12]}" if any(matches) else None
