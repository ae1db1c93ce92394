"""PDF: its text page by page, with pdfminer, which markitdown reads ordinary pages with as well."""

from __future__ import annotations

import re
from io import BytesIO, StringIO
from typing import Any

from scratchlm.retrieval.formats import Unreadable, one_line, quiet

_UNKNOWN = re.compile(r"\(cid:\d+\)")
"""What pdfminer writes for a character whose meaning the font does not tell."""
_NAMES = ("Title", "Author", "Subject", "Keywords")


def read_pdf(data: bytes) -> tuple[str, tuple[int, ...], dict[str, str]]:
    """A PDF's text, the offset at which each page begins, and its title, author, subject and keywords if it has them.

    Pages are separated by an empty line. Tables come as lines of text, as they are drawn.

    Raises:
        Unreadable: it needs a password, is broken, or its fonts do not tell what their characters mean.
        ImportError: pdfminer.six is not installed.
    """
    from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect

    if b"%PDF-" not in data[:1024]:
        raise Unreadable("is no PDF, whatever its name says; rename it or leave it out")
    try:
        with quiet():
            texts, metadata = _pages(data)
    except (PDFPasswordIncorrect, PDFEncryptionError) as error:
        raise Unreadable("is encrypted; save a copy without a password") from error
    except ImportError:
        raise
    except Exception as error:  # damaged files meet all kinds of errors in there
        raise Unreadable(f"is a broken PDF ({one_line(error)}); open it and save it again") from error
    if not texts:
        raise Unreadable("is a broken PDF (it has no pages); open it and save it again")
    unknown = sum(len(match[0]) for text in texts for match in _UNKNOWN.finditer(text))
    if unknown * 2 > sum(len(text) for text in texts):
        raise Unreadable("has fonts that do not tell what their characters mean; run a text recognition on it")
    parts: list[str] = []
    starts: list[int] = []
    length = 0
    for text in texts:
        starts.append(length)
        parts.append(text + "\n\n" if text else "")
        length += len(parts[-1])
    return "".join(parts), tuple(starts), metadata


def _pages(data: bytes) -> tuple[list[str], dict[str, str]]:
    from pdfminer.converter import TextConverter
    from pdfminer.layout import LAParams
    from pdfminer.pdfdocument import PDFDocument
    from pdfminer.pdfinterp import PDFPageInterpreter, PDFResourceManager
    from pdfminer.pdfpage import PDFPage
    from pdfminer.pdfparser import PDFParser

    document = PDFDocument(PDFParser(BytesIO(data)), password="")
    resources = PDFResourceManager(caching=True)
    texts = []
    for page in PDFPage.create_pages(document):
        written = StringIO()
        PDFPageInterpreter(resources, TextConverter(resources, written, laparams=LAParams())).process_page(page)
        lines = (line.rstrip() for line in written.getvalue().replace("\f", "\n").split("\n"))
        texts.append(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n"))
    return texts, _metadata(document.info)


def _metadata(infos: list[dict[str, Any]]) -> dict[str, str]:
    from pdfminer.pdftypes import resolve1
    from pdfminer.utils import decode_text

    found = {}
    for info in infos:
        for name in _NAMES:
            value = resolve1(info.get(name))
            if isinstance(value, bytes) and (text := " ".join(decode_text(value).split())):
                found[name.lower()] = text
    return found
