"""An index that is served: searched, and asked like a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from scratchlm.errors import UserError
from scratchlm.serving.registry import Registry

from ..cli.conftest import library as library
from .conftest import serving


def test_an_index_is_searched_and_asked(models: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library)
    with serving(str(models / "chat"), stores=(str(library / "store"),)) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        found = list(client.vector_stores.search("store", query="Who decoded the waggle dance?", max_num_results=2))
        assert 1 <= len(found) <= 2  # neighbours are joined
        assert found[0].filename == "guide/bees.md"
        assert "waggle dance" in found[0].content[0].text
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert [one.id for one in client.models.list().data] == ["chat", "store"]
        asked: list[Any] = [{"role": "user", "content": "When was the waggle dance decoded by Karl von Frisch?"}]
        answer = client.chat.completions.create(model="store", messages=asked).choices[0].message
        assert answer.content
        parts = client.chat.completions.create(model="store", messages=asked, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == answer.content
        for cited in answer.annotations or []:
            place = cited.model_dump()["file_citation"]
            assert (library / "docs" / place["filename"]).read_text().count(place["quote"])
        with pytest.raises(openai.NotFoundError):
            client.vector_stores.search("nothing", query="x")
        with pytest.raises(openai.BadRequestError):
            client.vector_stores.search("store", query=" ")
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="store", messages=[{"role": "system", "content": "x"}])


def test_a_store_that_is_none_is_told_at_the_start(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Registry([str(models / "chat")], stores=[str(tmp_path / "nowhere")])
