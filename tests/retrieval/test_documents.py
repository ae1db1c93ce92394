"""Documents: each format's text, pages and metadata, the folders they lie in, and their encodings."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest
from tests.retrieval.written_files import made_docx, made_pdf

from scratchlm.errors import UserError
from scratchlm.retrieval.documents import (
    FoundFile,
    PassedOver,
    UnreadableDocument,
    find_files,
    read_document,
    read_documents,
    survey,
)
from scratchlm.retrieval.formats import front_matter
from scratchlm.retrieval.passages import Document


def put(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return root


def read(root: Path, name: str, content: str | bytes) -> Document:
    put(root, {name: content})
    status = (root / name).stat()
    return read_document(FoundFile(name, root / name, status.st_size, status.st_mtime))


def test_text_is_what_the_file_says(tmp_path: Path) -> None:
    document = read(tmp_path, "a.txt", "One.\r\nTwo – ü.\r\n")
    assert document.text == "One.\r\nTwo – ü.\r\n"
    assert (document.kind, document.path, document.pages) == ("text", "a.txt", ())
    data = (tmp_path / "a.txt").read_bytes()
    assert (document.digest, document.size) == (sha256(data).hexdigest(), len(data))
    assert document.modified == (tmp_path / "a.txt").stat().st_mtime
    assert document.line(document.text.index("Two")) == 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.md", "markdown"),
        ("A.PY", "code"),
        ("x/b.cpp", "code"),
        ("run.sh", "code"),
        ("a.log", "text"),
        ("Makefile", "text"),
        ("a.unheard", "text"),
    ],
)
def test_kinds_by_name(tmp_path: Path, name: str, kind: str) -> None:
    assert read(tmp_path, name, "echo one\n").kind == kind


def test_front_matter_is_metadata_and_stays_in_the_text(tmp_path: Path) -> None:
    text = "---\ntitle: The guide\ntags: [one, two]\ndate: 2024-05-01\ndraft: true\ndeep: {a: 1}\n---\n# Guide\n"
    document = read(tmp_path, "a.md", text)
    assert document.text == text
    assert document.metadata == {"title": "The guide", "tags": "one, two", "date": "2024-05-01", "draft": "true"}


@pytest.mark.parametrize(
    "text", ["---\n\nA rule.\n\n---\n", "---\na: [\n---\n", "text\n---\na: 1\n---\n", "---\n- a\n---\n"]
)
def test_what_only_looks_like_front_matter(text: str) -> None:
    assert front_matter(text) == (0, {})


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-8"])
def test_unicode_with_and_without_a_mark(tmp_path: Path, codec: str) -> None:
    text = "Plain words, an umlaut ü and a dash – in a line.\n" * 3
    assert read(tmp_path, "a.txt", text.encode(codec)).text == text


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("latin-1", "Le café était fermé à Noël, où les élèves dégustaient des crêpes.\n"),
        ("latin-1", "Café\n"),
        ("cp1252", "name;city\nJosé;Málaga\nZoë;Köln\n"),
        ("cp1252", "Er sagte: „Grüße“ – und ging über die Straße, für 5 €.\n"),
        ("cp1251", "Привет, мир! Это короткий текст на русском языке о погоде.\n"),
        (
            "cp1250",
            "Wczoraj poszedłem do sklepu, żeby kupić chleb. Sprzedawczyni była miła i życzyła mi dobrego dnia.\n",
        ),
        ("shift_jis", "これは日本語の文章です。今日は天気がいいですね。東京へ行きます。\n"),
    ],
)
def test_old_encodings_are_detected(tmp_path: Path, codec: str, text: str) -> None:
    pytest.importorskip("charset_normalizer", reason="charset-normalizer is not installed")
    assert read(tmp_path, "a.txt", text.encode(codec)).text == text


def test_pdf_keeps_its_pages(tmp_path: Path) -> None:
    pytest.importorskip("pdfminer", reason="pdfminer.six is not installed")
    document = read(tmp_path, "a.pdf", made_pdf("The first page.", "", "The third page."))
    assert len(document.pages) == 3
    assert [document.page(document.text.index(word)) for word in ("first", "third")] == [1, 3]
    assert document.metadata == {"title": "A short title", "author": "Somebody"}


def test_docx_keeps_its_headings(tmp_path: Path) -> None:
    pytest.importorskip("mammoth", reason="markitdown[docx] is not installed")
    data = made_docx(("Heading1", "Travel"), ("Normal", "Book early."), ("Heading2", "Trains"), ("Normal", "Sit left."))
    assert read(tmp_path, "a.docx", data).text.split("\n\n") == ["# Travel", "Book early.", "## Trains", "Sit left."]


def test_slides_are_pages(tmp_path: Path) -> None:
    pptx = pytest.importorskip("pptx", reason="markitdown[pptx] is not installed")
    show = pptx.Presentation()
    for title, body in (("Plan", "We go north. <!-- Slide number: 9 -->"), ("", ""), ("Costs", "Ten pounds.")):
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, body
    show.save(tmp_path / "a.pptx")
    document = read(tmp_path, "a.pptx", (tmp_path / "a.pptx").read_bytes())
    assert [document.page(document.text.index(word)) for word in ("Plan", "north", "Costs", "pounds")] == [1, 1, 3, 3]
    assert len(document.pages) == 3
    assert "Slide number: 1" not in document.text


def test_sheets_are_headings_and_empty_cells_are_empty(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="markitdown[xlsx] is not installed")
    book = openpyxl.Workbook()
    book.active.title = "Prices"
    for row in (["fruit", None, "price"], ["apple", None, 2], ["pear", "ripe " * 40, None]):
        book.active.append(row)
    book.create_sheet("Stock").append(["left"])
    book.save(tmp_path / "a.xlsx")
    text = read(tmp_path, "a.xlsx", (tmp_path / "a.xlsx").read_bytes()).text
    assert text.startswith("## Prices\n| fruit |  | price |")
    assert "## Stock" in text
    assert ("ripe " * 40).strip() in text
    assert "NaN" not in text
    assert "Unnamed" not in text


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_is_a_table(tmp_path: Path, separator: str) -> None:
    pytest.importorskip("markitdown", reason="markitdown is not installed")
    rows = [["name", "note"], ["Ann", '"two, or more; words"'], ["Bo", "x"]]
    text = read(tmp_path, "a.csv", "".join(separator.join(row) + "\n" for row in rows)).text
    assert text.split("\n") == ["| name | note |", "| --- | --- |", "| Ann | two, or more; words |", "| Bo | x |"]


def test_html_without_scripts_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("markitdown", reason="markitdown is not installed")
    page = (
        "<html><head><title>The  page</title><style>p {}</style><script>evil()</script></head><body><h1>Top</h1>"
        '<p>Words.</p><img alt="a cat" src="data:image/png;base64,AAAA"><h2>Below</h2><p>More.</p></body></html>'
    )
    document = read(tmp_path, "a.html", page)
    assert document.metadata == {"title": "The page"}
    assert "# Top\n" in document.text
    assert "## Below" in document.text
    assert "a cat" in document.text
    assert not any(word in document.text for word in ("evil", "base64", "p {}"))


def test_notebook(tmp_path: Path) -> None:
    pytest.importorskip("markitdown", reason="markitdown is not installed")
    cells = '[{"cell_type": "markdown", "source": ["# Top"]}, {"cell_type": "code", "source": ["x = 1"]}]'
    document = read(tmp_path, "a.ipynb", f'{{"nbformat": 4, "nbformat_minor": 5, "metadata": {{}}, "cells": {cells}}}')
    assert document.text == "# Top\n\n```python\nx = 1\n```"


def test_what_is_no_character_is_marked(tmp_path: Path) -> None:
    pytest.importorskip("markitdown", reason="markitdown is not installed")
    cells = r'[{"cell_type": "markdown", "source": ["a\ud800b\u0000c"]}]'
    text = read(tmp_path, "a.ipynb", f'{{"nbformat": 4, "cells": {cells}}}').text
    assert text == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    front = read(tmp_path, "a.md", '---\ntitle: "x\\uD800y"\n---\ntext\n')
    assert front.metadata == {"title": "x\N{REPLACEMENT CHARACTER}y"}


def test_json_and_json_lines_are_kept_as_they_are(tmp_path: Path) -> None:
    for text in ('{"a": [1, 2]}\n', '{"a": 1}\n\n{"a": 2}\n'):
        document = read(tmp_path, "a.json", text)
        assert (document.text, document.kind) == (text, "json")


def test_a_folder_in_order_without_what_is_hidden_or_ignored(tmp_path: Path) -> None:
    pytest.importorskip("pathspec", reason="pathspec is not installed")
    names = "b.txt a.md z/a.txt build/x.txt .git/config .secret/x.txt .env node_modules/m/a.js draft.txt keep/draft.txt"
    put(tmp_path, dict.fromkeys(names.split(), "text"))
    put(tmp_path, {".gitignore": "build/\n# a comment\n\n", ".scratchlmignore": "draft.txt\n!keep/draft.txt\n"})
    found = survey(tmp_path, ignore=["z"])
    assert [one.path for one in found.files] == ["a.md", "b.txt", "keep/draft.txt"]
    assert found.ignored == 9  # the two files of patterns among them
    assert found.passed_over == []
    with_hidden = [one.path for one in find_files(tmp_path, hidden=True)]
    assert with_hidden == [".env", ".secret/x.txt", "a.md", "b.txt", "keep/draft.txt", "z/a.txt"]
    assert find_files(tmp_path) == find_files(tmp_path)


def test_a_single_file(tmp_path: Path) -> None:
    put(tmp_path, {"x/a.md": "# A\n"})
    assert [one.path for one in read_documents(tmp_path / "x" / "a.md")] == ["a.md"]


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root = put(tmp_path / "docs", {"sub/a.txt": "a", "b.txt": "b"})
    outside = put(tmp_path / "outside", {"c.txt": "c", "deep/d.txt": "d"})
    (root / "a-link").symlink_to(root / "sub")
    (root / "sub" / "up").symlink_to(root)
    (root / "one.txt").symlink_to(root / "b.txt")
    (root / "out").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "gone.txt").symlink_to(root / "nothing")
    (root / "self").symlink_to(root / "self")
    found = survey(root)
    assert [one.path for one in found.files] == ["b.txt", "out/c.txt", "out/deep/d.txt", "sub/a.txt"]
    why = {one.path: one.why for one in found.passed_over}
    assert set(why) == {"a-link", "sub/up", "one.txt", "out/back", "gone.txt", "self"}
    assert "link to sub" in why["a-link"]
    assert "link to b.txt" in why["one.txt"]
    assert "circle" in why["self"]


def test_a_name_that_is_not_utf8_is_named_and_passed_over(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": "a", "two\nlines.png": "x"})
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system has Unicode names alone")
    found = survey(tmp_path)
    assert [one.path for one in found.files] == ["a.txt"]
    assert [one.path for one in found.passed_over] == ["caf\\udce9.txt", "two\\nlines.png"]


def test_unchanged_files_read_the_same(tmp_path: Path) -> None:
    put(tmp_path, {"a.md": "# A\n\ntext\n", "b.csv": "a,b\n1,2\n", "c.txt": ""})
    pytest.importorskip("markitdown", reason="markitdown is not installed")
    first, second = list(read_documents(tmp_path)), list(read_documents(tmp_path))
    assert first == second
    assert [type(one) for one in first] == [Document, Document, PassedOver]


@pytest.mark.parametrize("name", ["nothing", "a.txt/b"])
def test_no_such_folder(tmp_path: Path, name: str) -> None:
    put(tmp_path, {"a.txt": "a"})
    with pytest.raises(UserError, match="cannot be read") as caught:
        survey(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_wrong_pattern_is_named_with_its_place(tmp_path: Path) -> None:
    pytest.importorskip("pathspec", reason="pathspec is not installed")
    put(tmp_path, {"a.txt": "a", ".gitignore": "fine\n!\n"})
    with pytest.raises(UserError, match=r"\.gitignore, line 2"):
        survey(tmp_path)


def test_the_error_has_the_line_for_the_report(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDocument) as caught:
        read(tmp_path, "a.txt", "")
    assert str(caught.value) == str(caught.value.passed_over) == "a.txt is empty; fill it or leave it out"
