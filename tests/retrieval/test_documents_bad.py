"""Bad files: each is named with one clear line, and the rest is read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from tests.retrieval.written_files import made_docx, made_pdf

from scratchlm.errors import UserError
from scratchlm.retrieval import documents
from scratchlm.retrieval.documents import PassedOver, find_files, read_document, read_documents

for package in ("markitdown", "pdfminer", "mammoth", "pptx", "openpyxl", "charset_normalizer"):
    pytest.importorskip(package, reason=f"{package} is not installed")


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def damaged(data: bytes) -> bytes:
    """A zip archive whose directory is whole and whose contents are not."""
    return data[:200] + bytes(byte ^ 0x55 for byte in data[200:600]) + data[600:]


def far_cell() -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    book.active["A1"], book.active["XFD1048576"] = 1, 2
    buffer = BytesIO()
    book.save(buffer)
    return buffer.getvalue()


DOCX = made_docx(*[("Normal", f"Paragraph {n} of words.") for n in range(50)])
PDF = made_pdf("A page.")
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40)

BAD: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "garbage.pdf": (b"this is no pdf at all", "is no PDF"),
    "header-alone.pdf": (b"%PDF-1.4\n", "broken PDF"),
    "cut.pdf": (PDF[:60], "broken PDF"),
    "no-pages.pdf": (made_pdf(), "no pages"),
    "encrypted.pdf": (made_pdf("secret", encrypt=True), "is encrypted"),
    "scanned.pdf": (made_pdf("", ""), "holds no text; if it is scanned"),
    "archive.docx": (zipped({"a.txt": b"hello"}), "is no docx file, though a zip archive"),
    "cut.docx": (DOCX[:-200], "broken docx"),
    "damaged.docx": (damaged(DOCX), "broken docx"),
    "no-xml.docx": (zipped({"word/document.xml": b"<a><b>"}), "broken docx"),
    "text.docx": (b"only text", "broken docx"),
    "encrypted.docx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is encrypted"),
    "no-words.docx": (made_docx(), "holds no text"),
    "hollow.pptx": (zipped({"ppt/presentation.xml": b"<x/>"}), "broken pptx"),
    "renamed.pptx": (DOCX, "is no pptx file"),
    "hollow.xlsx": (zipped({"xl/workbook.xml": b"<x/>"}), "broken xlsx"),
    "text.xlsx": (b"a,b\n1,2\n", "broken xlsx"),
    "far-cell.xlsx": (far_cell, "1,048,576 rows and 16,384 columns"),
    "old.doc": (b"\xd0\xcf\x11\xe0", "save it as .docx"),
    "empty.txt": (b"", "is empty"),
    "mark-alone.txt": (b"\xef\xbb\xbf", "holds no text"),
    "spaces.md": (b" \n\t\r\n \n", "holds no text"),
    "zeros.txt": (b"text\0\0\0 and more text", "is binary"),
    "controls.txt": (b"\x01\x02\x03\x04text\x05\x06", "is binary"),
    "broken-utf16.txt": (b"\xff\xfea\0b", "not valid UTF-16"),
    "broken-utf8-mark.txt": (b"\xef\xbb\xbfcaf\xe9", "not valid UTF-8"),
    "mixed.txt": ("Größe, Maß, für.\nÄnderung.\n".encode() + b"caf\xe9\n", "1 byte is not, the first in line 3"),
    "undecided.txt": (bytes(range(128, 256)) * 3, "cannot be told"),
    "image.png": (PNG, ".png files hold no text"),
    "renamed-image.txt": (PNG, "is binary"),
    "unheard.xyz": (os.urandom(64) + bytes(8), "of a kind that is not read"),
    "comma.json": (b'{"a": 1,}', "is no JSON"),
    "cut.json": (b'{"a": [1, 2', "is no JSON"),
    "deep.json": (b"[" * 100_000, "nested too deep"),
    "third.jsonl": (b'{"a": 1}\n{"a": 2}\n{"a":\n', "is no JSON in line 3"),
    "cut.ipynb": (b'{"cells": [', "is no notebook"),
    "list.ipynb": (b"[1, 2]", "is no notebook"),
    "no-cells.ipynb": (b'{"nbformat": 4}', "holds no text"),
    "wide.csv": (b"a,b\n" + b"x" * 200_000 + b",1\n", "field larger than field limit"),
    "commas.csv": (b"\n\n\n", "holds no text"),
    "no-words.html": (b"<html><head><title>t</title></head><body><script>f()</script></body></html>", "holds no text"),
}


def one_line(passed: PassedOver, why: str) -> None:
    line = str(passed)
    assert why in line, line
    assert line.isprintable(), line
    assert len(line) < 260, line
    assert "Traceback" not in line


@pytest.mark.parametrize("name", ["no-words.docx", "cut.pdf", "far-cell.xlsx"])
def test_libraries_say_nothing_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    content = BAD[name][0]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content())
    assert len(list(read_documents(tmp_path))) == 1
    assert caplog.records == []


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a folder of all of them, and two good files, is read as."""
    root = tmp_path_factory.mktemp("bad")
    for name, (content, _) in BAD.items():
        (root / name).write_bytes(content if isinstance(content, bytes) else content())
    (root / "good.md").write_text("# Good\n\nIt is read.\n")
    (root / "zz.txt").write_text("And this one, the last.\n")
    (root / "folder.pdf").mkdir()
    (root / "folder.pdf" / "inside.txt").write_text("A folder may be called so.\n")
    return {one.path: one for one in read_documents(root)}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_file_gives_one_clear_line(everything: dict[str, object], name: str) -> None:
    passed = everything[name]
    assert isinstance(passed, PassedOver)
    one_line(passed, BAD[name][1])


def test_the_rest_is_read(everything: dict[str, object]) -> None:
    read = {path for path, one in everything.items() if not isinstance(one, PassedOver)}
    assert read == {"good.md", "zz.txt", "folder.pdf/inside.txt"}
    assert len(everything) == len(BAD) + 3


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(200_000_000)  # sparse: it takes no room
    (tmp_path / "small.txt").write_text("small")
    huge, small = read_documents(tmp_path)
    assert isinstance(huge, PassedOver)
    one_line(huge, "has 200,000,000 bytes, more than the 100,000,000 that are read")
    assert not isinstance(small, PassedOver)
    [passed] = read_documents(tmp_path / "small.txt", limit=4)
    assert isinstance(passed, PassedOver)
    one_line(passed, "5 bytes, more than the 4")


def test_a_small_archive_of_much_xml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scratchlm.retrieval import office_files

    monkeypatch.setattr(office_files, "_MOST_UNPACKED", 1_000)
    (tmp_path / "bomb.docx").write_bytes(zipped({"word/document.xml": b"<a>" + b" " * 5_000 + b"</a>"}))
    [passed] = read_documents(tmp_path)
    assert isinstance(passed, PassedOver)
    one_line(passed, "unpacks to 5,007 bytes")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (PermissionError(13, "Permission denied"), "permission denied); change its permissions"),
        (OSError(5, "Input/output error"), "input/output error); check the disk"),
    ],
)
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, why: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    ordinary = os.open

    def refuse(path: Path, *rest: int) -> int:
        if Path(path).name == "a.txt":
            raise error
        return ordinary(path, *rest)

    monkeypatch.setattr(documents.os, "open", refuse)
    first, second = read_documents(tmp_path)
    assert isinstance(first, PassedOver)
    one_line(first, why)
    assert not isinstance(second, PassedOver)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may read everything")
def test_permissions_of_files_and_folders(tmp_path: Path) -> None:
    for name in ("a.txt", "shut/b.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a.txt").chmod(0)
    (tmp_path / "shut").chmod(0)
    try:
        found = {one.path: one for one in read_documents(tmp_path)}
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert [path for path, one in found.items() if isinstance(one, PassedOver)] == ["shut", "a.txt"]


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    [found] = find_files(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"^a\.txt cannot be read \(no such file or directory\)"):
        read_document(found)


def test_a_file_that_becomes_a_folder_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    [found] = find_files(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=r"^a\.txt is a folder"):
        read_document(found)
    (tmp_path / "a.txt").rmdir()
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"^a\.txt is a pipe"):
        read_document(found)


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("a")
    pipe, good = read_documents(tmp_path)
    assert isinstance(pipe, PassedOver)
    one_line(pipe, "is a pipe")
    assert good.path == "a.txt"


def test_a_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.html").write_text("<p>text</p>")
    (tmp_path / "a.pdf").write_bytes(PDF)
    for package in ("markitdown", "markitdown.converters", "pdfminer", "pdfminer.pdfdocument"):
        monkeypatch.setitem(sys.modules, package, None)
    for found in find_files(tmp_path):
        with pytest.raises(UserError, match=r"pip install 'scratchlm\[rag\]'"):
            read_document(found)


LINK = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/image"


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x.png", "SECRET"])
def test_pictures_that_a_document_links_to_are_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Neither over the network nor from the disk: the document is not ours, and the disk is."""
    import builtins
    import socket
    import urllib.request

    asked: list[object] = []
    ordinary = builtins.open

    def watch(file: object, *rest: object, **more: object) -> object:
        if "secret" in str(file):
            asked.append(file)
        return ordinary(file, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, *_, **__: asked.append(url))
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    place = secret.as_uri() if target == "SECRET" else target
    names = (
        'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
        'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" '
        'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
        'xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture" '
        'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing"'
    )
    picture = (
        '<w:r><w:drawing><wp:inline><wp:docPr descr="a plan"/><a:graphic><a:graphicData><pic:pic><pic:blipFill>'
        '<a:blip r:link="p1"/></pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing></w:r>'
    )
    with zipfile.ZipFile(BytesIO(DOCX)) as plain:
        parts = {name: plain.read(name) for name in plain.namelist()}
    words = "<w:r><w:t>Words.</w:t></w:r>"
    parts["word/document.xml"] = (
        f"<w:document {names}><w:body><w:p>{words}{picture}</w:p></w:body></w:document>".encode()
    )
    parts["word/_rels/document.xml.rels"] = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="p1" Type="{LINK}" Target="{place}" TargetMode="External"/></Relationships>'
    ).encode()
    (tmp_path / "a.docx").write_bytes(zipped(parts))
    monkeypatch.setattr(builtins, "open", watch)
    [found] = find_files(tmp_path / "a.docx")
    assert "Words." in read_document(found).text
    assert asked == []
