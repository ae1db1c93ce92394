"""The example with LangChain's parts runs, as a reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed (langchain-core)")
pytest.importorskip("lancedb", reason="LanceDB is not installed")

from scratchlm.checkpoints.catalogue import find_pulled

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "rag_langchain.py"


def test_the_example_with_langchain_answers_from_its_texts(tmp_path: Path) -> None:
    for model in ("smollm2-135m-instruct", "all-minilm-l6-v2"):
        if find_pulled(model) is None:
            pytest.skip(f"it needs {model}; fetch it with: scratchlm models pull {model}")
    done = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best, _, answer, who, when, place = done.stdout.splitlines()
    assert "bridge.md: The Halden bridge was opened in 1931" in best
    assert "1931" in answer
    assert "Ada Lund" in who
    assert "1988" in when
    assert place == "bridge.md, line 1: characters 0 to 66"
    assert list(tmp_path.iterdir()) == []
