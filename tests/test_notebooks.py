"""The notebooks run from top to bottom, as a reader's would."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scratchlm.checkpoints.catalogue import find_pulled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs" / "site"))
from notebook_pages import cells, notebook, pages, programs

sys.path.pop(0)
NEEDS = {"6-retrieval": "all-minilm-l6-v2"}


def _run(text: dict[str, Any], folder: Path) -> Any:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    book = nbformat.reads(json.dumps(text), as_version=4)  # lines of a cell become its text
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return book


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in NEEDS else []) for n in programs()])
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    if name in NEEDS and find_pulled(NEEDS[name]) is None:
        pytest.skip(f"it needs {NEEDS[name]}; fetch it with: scratchlm models pull {NEEDS[name]}")
    book = _run(notebook(programs()[name]), tmp_path)
    assert any(cell.get("outputs") for cell in book.cells)
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_that_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="ZeroDivisionError"):
        _run(notebook("# %%\n1 / 0\n"), tmp_path)


def test_cells_are_told_apart() -> None:
    program = "# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\nx = 1\n\nprint(x)\n"
    assert cells(program) == [("markdown", "# Title\n\nWords."), ("code", "x = 1\n\nprint(x)")]
    made = notebook(program)["cells"]
    assert [cell["cell_type"] for cell in made] == ["markdown", "code"]
    assert made[1]["outputs"] == []


def test_each_has_a_page_with_its_title() -> None:
    found = pages()
    assert len(programs()) >= 7
    for name, program in programs().items():
        assert cells(program)[0][1].startswith("# ")
        assert f"({name}.ipynb)" in found[f"notebooks/{name}.md"]
        assert f"notebooks/{name}.ipynb" in found
