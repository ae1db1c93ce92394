"""The page of runs."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from scratchlm.serving.server import Server

from .conftest import findings
from .runs_folder import write_run


def test_shots(studio: Server, visit: Callable[..., Page]) -> None:
    root = studio.settings.studio.runs
    write_run(root / "a")
    write_run(root / "b", rate=0.02, batch_size=16)
    for theme, width in (("light", 1280), ("dark", 380)):
        for name in ("tokens", "models"):
            page = visit(studio, name, theme=theme, width=width)
            page.wait_for_timeout(1500)
            page.screenshot(path=f"/tmp/{name}-{theme}.png", full_page=True)
            print(name, findings(page), page.evaluate("document.documentElement.scrollWidth"))
