"""A real browser in front of a server of tiny models.

Where Chromium is not at /usr/bin/chromium or on the path, SCRATCHLM_CHROMIUM names it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from scratchlm.generation.engine import Engine
from scratchlm.serving.server import Server
from scratchlm.serving.studio.settings import StudioSettings

from ..cli.conftest import runs  # noqa: F401
from ..serving.conftest import models, serving  # noqa: F401

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
_QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def home(server: Server) -> str:
    """The address of the studio."""
    return server.url.removesuffix("v1")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = os.environ.get("SCRATCHLM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium here; install one (apt-get install chromium) or name it in SCRATCHLM_CHROMIUM")
    expect.set_options(timeout=20_000)  # machines may be busy
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, headless=True, args=list(_QUIET))
        yield found
        found.close()


@pytest.fixture(scope="module")
def studio(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    """A server of chat, other and encoder whose studio's folders are empty at first."""
    place = tmp_path_factory.mktemp("studio")
    names = [str(models / name) for name in ("chat", "other", "encoder")]
    with serving(*names, studio=StudioSettings(runs=place / "runs", home=place / "made")) as found:
        yield found


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens come so slowly that there is time to break them off."""
    step = Engine.step

    def late(self: Engine) -> Any:
        time.sleep(0.1)
        return step(self)

    monkeypatch.setattr(Engine, "step", late)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page of a server's studio: ``visit(server, "runs", width=380)``.

    When the test ends, nothing may have been told on the console, failed to come, or been asked of another host.
    """
    opened: list[Any] = []
    told: list[str] = []

    def open_page(server: Server, page: str, *, width: int = 1280, theme: str = "light", told_of: str = "") -> Page:
        """``told_of``: a part of a message that the test provokes and that is no fault."""
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        opened.append(context)
        context.set_default_timeout(20_000)
        made: Page = context.new_page()
        url = home(server)

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and not (told_of and told_of in message.text):
                told.append(f"{message.type}: {message.text}")

        made.on("console", note)
        made.on("pageerror", lambda error: told.append(f"error: {error}"))
        made.on("request", lambda asked: None if asked.url.startswith(url) else told.append(f"asks {asked.url}"))
        made.goto(f"{url}#/{page}")
        return made

    yield open_page
    for context in opened:
        context.close()
    assert told == []


def findings(page: Page) -> list[str]:
    """What axe finds that is serious or critical, with the elements."""
    page.evaluate(AXE.read_text(encoding="utf-8"))  # within the page, as its policy lets in no script
    found = page.evaluate("axe.run()")
    return [
        f"{one['impact']} {one['id']}: {one['help']}: {node['html'][:120]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
