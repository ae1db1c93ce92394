"""Bytes to text: which encoding a file was written in, or that it is no text at all."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    # UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_SAMPLE = 1 << 18
"""Bytes that an encoding is guessed from; it must then decode the whole."""
_CONTROLS = {chr(code) for code in range(32)} - set("\t\n\v\f\r\x1b")
_MOST_CONTROLS = 0.005
"""The share of control characters above which a file is no text."""
_WESTERN = "cp1252"
"""Windows' encoding of Western European languages, by far the commonest of the old ones."""
_CODE_PAGES = {
    **dict.fromkeys(("Polish", "Czech", "Slovak", "Slovene", "Croatian"), "cp1250"),
    **dict.fromkeys(("Lithuanian", "Latvian", "Estonian"), "cp1257"),
    "Turkish": "cp1254",
}
"""By the language that charset-normalizer finds: it finds it in a garbled reading too, and then prefers that one."""
_WIDE = {"johab", "big5", "big5hkscs", "gb2312", "gbk", "gb18030", "hz", "cp932", "cp949", "cp950", "euc_kr", "euc_jp"}
_FEW = 0.15
"""The share of bytes above 127 below which a text is written in Latin letters."""


class NotText(ValueError):  # noqa: N818
    """Bytes that are no text, or text in an encoding that cannot be told; the message goes after the file's name."""


def decode(data: bytes) -> str:
    """The text of a file, exactly as it stands but for the byte order mark: line ends are kept, ``\\r\\n`` too.

    A byte order mark decides. Without one it is UTF-8 if it is valid UTF-8, UTF-16 if every other byte is zero, and
    otherwise what charset-normalizer makes of it.

    Raises:
        NotText: it is binary, breaks its own encoding, or the encoding cannot be told.
        ImportError: charset-normalizer is needed and missing.
    """
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            try:
                return _checked(data[len(mark) :].decode(codec))
            except UnicodeDecodeError as error:
                raise NotText(f"begins as {name} and is not valid {name}; save it again as UTF-8") from error
    if b"\0" in data:
        return _checked(_unmarked_utf16(data))
    try:
        return _checked(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        _check_mixed(data, error.start)
    return _checked(_guessed(data))


def _unmarked_utf16(data: bytes) -> str:
    """UTF-16 of a language with Latin letters has a zero in nearly every other byte, always on the same side."""
    low, high = data[::2].count(0), data[1::2].count(0)
    pairs = len(data) // 2
    if len(data) % 2 == 0 and max(low, high) > 0.5 * pairs and min(low, high) < 0.05 * pairs:
        try:
            return data.decode("utf-16-be" if low > high else "utf-16-le")
        except UnicodeDecodeError:
            pass  # a binary file that happens to look like it
    raise NotText("is binary (it holds zero bytes), no text; leave it out with an ignore pattern")


def _check_mixed(data: bytes, first: int) -> None:
    """Refuse what is UTF-8 in most places and not in a few: any one encoding would garble a part of it."""
    broken = data.decode("utf-8", "surrogateescape")
    bad = sum("\udc80" <= character <= "\udcff" for character in broken)
    good = sum(character > "\x7f" for character in broken) - bad
    if good > bad:
        line = data.count(b"\n", 0, first) + 1
        many = "byte is" if bad == 1 else "bytes are"
        raise NotText(f"is UTF-8, but {bad:,} {many} not, the first in line {line:,}; save it again as UTF-8")


def _guessed(data: bytes) -> str:
    from charset_normalizer import from_bytes

    sample = data[:_SAMPLE]
    if len(data) > _SAMPLE:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    latin = sum(byte > 127 for byte in sample) < _FEW * len(sample)
    matches = [match for match in from_bytes(sample) if "utf" not in match.encoding]
    if latin:  # the encodings of Chinese, Japanese and Korean make characters out of an accented letter and the next
        matches = [match for match in matches if not match.multi_byte_usage and match.encoding not in _WIDE]
    usual = _CODE_PAGES.get(matches[0].language, _WESTERN) if matches else _WESTERN

    def unlikeliness(match: CharsetMatch) -> tuple[float, bool, float]:
        return round(match.chaos, 2), usual not in match.could_be_from_charset, -match.coherence

    codecs_found = [
        usual if usual in match.could_be_from_charset else match.encoding for match in sorted(matches, key=unlikeliness)
    ]
    for codec in [*codecs_found, *([_WESTERN] if latin else [])]:
        try:
            return data.decode(codec)
        except UnicodeDecodeError:
            continue  # right for the sample and not for the rest
    raise NotText("is in an encoding that cannot be told, or no text; save it as UTF-8")


def _checked(text: str) -> str:
    controls = sum(text.count(control) for control in _CONTROLS)
    if controls > _MOST_CONTROLS * len(text):
        raise NotText("is binary (it holds control characters), no text; leave it out with an ignore pattern")
    return text
