"""What MkDocs is told beside ``mkdocs.yml``: the pages that are generated, and two repairs of what it renders."""

from __future__ import annotations

import re
from typing import Any

import command_pages
import error_index
import measurement_page
import notebook_pages
import reference_pages
from mkdocs.structure.files import File, Files

MAKERS = (command_pages, reference_pages, measurement_page, error_index, notebook_pages)


def on_config(config: Any) -> Any:
    """Put the generated pages into the contents, each below the index of its folder."""
    made = [uri for maker in MAKERS for uri in maker.pages() if uri.endswith(".md")]
    for section in config.nav:
        ((title, index),) = section.items()
        if isinstance(index, str) and index.endswith("/index.md"):
            folder = index.removesuffix("index.md")
            section[title] = [index, *(uri for uri in made if uri.startswith(folder) and uri != index)]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the generated pages; none of them is written into the source."""
    for maker in MAKERS:
        for uri, text in maker.pages().items():
            files.append(File.generated(config, uri, content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things as Sphinx does, ``:func:`reply```; a reader needs the name alone."""
    return re.sub(r":(?:func|class|meth|mod|attr|data|exc):(?=<code>)", "", html)
