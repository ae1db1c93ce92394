"""The frame around the pages: the way between them, the theme, keys, narrow screens, and what other pages may not."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from scratchlm.serving.server import Server


def test_the_theme_goes_round_and_is_kept(studio: Server, visit: Callable[..., Page]) -> None:
    page = visit(studio, "nowhere", told_of="404")
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    dark = page.evaluate(back)
    assert dark != light
    page.reload()
    assert page.evaluate(back) == dark
    page.screenshot(path="/tmp/s1.png")
