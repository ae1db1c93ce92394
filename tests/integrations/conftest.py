"""What the tests with other libraries share: tiny models, and the mark that asynchronous tests need."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from ..training.tuned_models import save_model

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LangChain's standard suites have asynchronous tests without a mark of their own."""
    for item in items:
        if HERE in item.path.parents and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.asyncio)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained models: ``talker`` and ``other`` chat, ``reader`` gives vectors."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("talker", "other"):
        save_model(folder / name, "llama", context=512, init_std=0.3, **({} if name == "talker" else {"layers": 1}))
    save_model(folder / "reader", "bert", context=48)
    return folder
