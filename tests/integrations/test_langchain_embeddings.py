"""Vectors in LangChain are those of our embedder, also when several threads ask; and what a bare install says."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed (langchain-core)")

from scratchlm.errors import UserError
from scratchlm.integrations.langchain import ScratchlmEmbeddings
from scratchlm.integrations.missing import MissingExtra, need
from scratchlm.retrieval import Embedder

from ..training.tuned_models import sentence

TEXTS = [sentence(n, 1 + n % 9) for n in range(60)]


def test_vectors_are_those_of_the_embedder(models: Path) -> None:
    embedder = Embedder.open(models / "reader")
    ours = ScratchlmEmbeddings(models / "reader")
    np.testing.assert_array_equal(np.array(ours.embed_documents(TEXTS), np.float32), embedder.embed(TEXTS).vectors)
    assert ours.embed_query(TEXTS[3]) == ours.embed_documents(TEXTS)[3]
    assert ScratchlmEmbeddings(embedder).embedder is embedder
    assert ScratchlmEmbeddings(models / "reader", "int8").precision == "int8"
    assert ours.embed_documents([]) == []


def test_threads_get_the_vectors_that_one_gets(models: Path) -> None:
    ours = ScratchlmEmbeddings(models / "reader")
    alone = [ours.embed_query(text) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(ours.embed_query, TEXTS)) == alone


def test_a_text_that_is_cut_is_told(models: Path) -> None:
    ours = ScratchlmEmbeddings(models / "reader")
    with pytest.warns(UserWarning, match=r"1 of 2 texts are longer than the 48 tokens"):
        ours.embed_documents(["the sea", "the sea " * 60])


@pytest.mark.parametrize("settings", [{"model": "no such model"}, {"precision": "int3"}])
def test_mistakes_are_told_in_one_line(settings: dict[str, str], models: Path) -> None:
    with pytest.raises(UserError) as caught:
        ScratchlmEmbeddings(**({"model": str(models / "reader")} | settings))  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_extra_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingExtra) as caught:
        need("langchain", "json", "no_such_package_at_all")
    assert str(caught.value) == "no_such_package_at_all is missing; run: pip install 'scratchlm[langchain]'"
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ImportError)


STORE = """
from langchain_core.embeddings import DeterministicFakeEmbedding
from scratchlm.integrations.langchain import ScratchlmVectorStore
ScratchlmVectorStore(DeterministicFakeEmbedding(size=4))
"""


@pytest.mark.parametrize(
    ("missing", "program"),
    [
        (
            "langchain_core",
            "import scratchlm.integrations, scratchlm.retrieval\nimport scratchlm.integrations.langchain",
        ),
        ("lancedb", STORE),
    ],
)
def test_a_bare_install_names_the_extra(missing: str, program: str) -> None:
    without = f"import sys\nsys.modules[{missing!r}] = None\n"
    done = subprocess.run([sys.executable, "-c", without + program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith(f"{missing} is missing; run: pip install 'scratchlm[langchain]'"), done.stderr
