"""Reading the small parts of files that nobody vouches for: JSON, the header of safetensors, the index of shards.

Nothing here takes memory by a file's say-so: sizes are compared with the file's own before anything is read.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from scratchlm.errors import UserError
from scratchlm.reading import LARGEST_TEXT, ordinary_size, read_text

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""
_TYPES = {8: "F64 I64 U64", 4: "F32 I32 U32", 2: "F16 BF16 I16 U16", 1: "I8 U8 BOOL F8_E4M3 F8_E5M2"}
WIDTHS = {name: width for width, names in _TYPES.items() for name in names.split()}
"""Bytes of one element of each type that safetensors has."""
CURE = "fetch or export the model again"


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it can be a parameter: positions and masks kept as integers are none."""
        return self.dtype.startswith(("F", "BF"))


def read_json(path: Path, largest: int = LARGEST_TEXT, cure: str = CURE) -> dict[str, Any]:
    """The object in a JSON file: no key twice, no NaN or infinities, no nesting without end.

    Raises:
        UserError: the file is missing, too large, or holds anything else; the line names it and ends in ``cure``.
    """
    try:
        text = read_text(path, largest)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {cure}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({_short(error)}); {cure}") from error
    return parse_json(text, str(path), cure)


def parse_json(text: str, origin: str, cure: str = CURE) -> dict[str, Any]:
    """The same for a text that was read from ``origin``."""
    try:
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise UserError(f"{origin} is damaged: it is nested too deeply; {cure}") from None
    except ValueError as error:
        raise UserError(f"{origin} is damaged ({_short(error)}); {cure}") from error
    if not isinstance(values, dict):
        raise UserError(f"{origin} is damaged: it holds no object; {cure}")
    return values


def read_index(path: Path) -> dict[str, str]:
    """The index of a sharded checkpoint: tensor name -> file beside it.

    Raises:
        UserError: it is damaged, or names a file that is not beside it.
    """
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path} is damaged: it has no weight_map; {CURE}")
    for tensor, name in table.items():
        if not isinstance(name, str) or not is_plain_name(name) or not name.endswith(".safetensors"):
            raise UserError(f"{path} puts {tensor!r} into {name!r}, which is no safetensors file beside it; {CURE}")
    return table


def is_plain_name(name: str, *, folders: bool = False) -> bool:
    """Whether a file's name stays where it is put: relative, without ``..``, drives or odd characters."""
    if not name or not name.isprintable() or any(c in name for c in "\\:"):
        return False
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and "/".join(parts) == name and (folders or len(parts) == 1)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors that a safetensors file says it holds, without reading them.

    Raises:
        UserError: it is no such file, damaged or cut short; the line says how.
    """
    try:
        size = ordinary_size(path)
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise UserError(f"{path} is damaged: its header says {length:,} bytes, the file has {size:,}; {CURE}")
            text = file.read(length).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {CURE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({_short(error)}); {CURE}") from error
    tensors = {}
    spans = []
    for name, value in parse_json(text, str(path)).items():
        if name != "__metadata__":
            info, span = _tensor(value, f"{path}: {name[:80]!r}")
            tensors[name] = info
            spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise UserError(f"{path} is damaged: its tensors overlap or leave gaps; {CURE}")
        end = stop
    if end != size - 8 - length:
        raise UserError(f"{path} is damaged: {size - 8 - length:,} bytes of weights instead of {end:,}; {CURE}")
    return tensors


def _tensor(value: Any, where: str) -> tuple[TensorInfo, tuple[int, int]]:
    fields = value if isinstance(value, dict) else {}
    dtype, shape, span = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if shape is None or span is None or len(span) != 2 or span[0] > span[1]:
        raise UserError(f"{where} is damaged: its shape and place make no sense ({str(fields)[:80]}); {CURE}")
    if dtype not in WIDTHS:
        raise UserError(f"{where} has the unknown type {str(dtype)[:20]!r}; {CURE}")
    info = TensorInfo(dtype, shape)
    if info.elements * WIDTHS[dtype] != span[1] - span[0]:
        raise UserError(
            f"{where} is damaged: shape {list(shape)} does not fill its {span[1] - span[0]:,} bytes; {CURE}"
        )
    return info, (span[0], span[1])


def _counts(value: Any) -> tuple[int, ...] | None:
    """The whole numbers of a list that can be a shape or a place; None if it cannot."""
    if isinstance(value, list) and len(value) <= 8 and all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        return tuple(value)
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100]
