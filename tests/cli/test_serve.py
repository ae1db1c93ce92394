"""``scratchlm serve``: what it tells at the start. What is served is tried in tests/serving and tests/studio."""

from __future__ import annotations

from pathlib import Path

import pytest

from scratchlm.serving.server import Server

from .conftest import Command


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """The servers that were begun; none of them waits for clients."""
    servers: list[Server] = []

    def run(server: Server) -> None:
        servers.append(server)
        assert server._on_start is not None
        server._on_start(server.url)

    monkeypatch.setattr(Server, "run", run)
    return servers


def test_the_addresses_are_told(command: Command, begun: list[Server], runs: Path) -> None:
    told = command("serve", str(runs / "gpt"), "--port", "0", "--runs", str(runs), "--studio-dir", "made")
    (server,) = begun
    assert told.status == 0
    assert told.err.strip() == f"serving at {server.url}; the studio is at {server.url.removesuffix('v1')}"
    assert server.settings.studio is not None
    assert (server.settings.studio.runs, server.settings.studio.home) == (runs, Path("made"))


def test_without_the_studio_its_address_is_not_told(command: Command, begun: list[Server], runs: Path) -> None:
    told = command("serve", str(runs / "gpt"), "--port", "0", "--no-studio")
    assert told.err.strip() == f"serving at {begun[0].url}"
    assert begun[0].settings.studio is None
