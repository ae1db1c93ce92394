"""Text of any size as ids in memory-mapped files: tokenised once, in a stream, and opened at once ever after."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from scratchlm.data.chunks import cut_safely
from scratchlm.data.files import Source, modified, scan
from scratchlm.data.split import Part, Passage, passages, read_passage
from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer, UnknownTextError
from scratchlm.tokenizers.parallel import MOST_WORKERS, EncoderPool, available_cores

Progress = Callable[[int, int], None]
_MANIFEST = "stream.json"
_FORMAT = 1
PARALLEL_BYTES = 32 << 20
"""From this size on a text is tokenised on all cores."""


@dataclass(frozen=True)
class TokenStream:
    """A source's ids, the training part and the held-out tail."""

    train: NDArray[np.unsignedinteger]
    """(tokens,), memory-mapped, in the smallest dtype for the vocabulary."""
    validation: NDArray[np.unsignedinteger] | None
    """The same for the held-out text; None with ``validation_fraction`` 0."""
    train_characters: int
    """Code points that ``train`` spells, newlines put between documents included; for bits per character."""
    validation_characters: int
    source: str
    fingerprint: str
    """Equal when text, tokenizer and split are: a resumed run can tell that its data changed."""
    reused: bool
    """True when an earlier call had done the work."""


def prepare_stream(
    source: Source,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    validation_fraction: float,
    context: int,
    progress: Progress | None = None,
) -> TokenStream:
    """Tokenise ``source`` into ``folder`` (ids.train.bin, ids.validation.bin, stream.json), or open what is there.

    Between documents stands the end-of-text token if the tokenizer has one, else a newline where there is none. Memory
    does not grow with the text. stream.json is written last, so a killed call leaves nothing that looks finished, and
    the next one starts over. What is there is used again if tokenizer, split and files are the same; a file counts as
    the same if size and modification time are, or failing that its sha256 is, as `make` and `git` would decide.

    ``progress(done, total)`` counts bytes of text. ``context`` is the model's: one window is ``context + 1`` tokens.

    Raises:
        UserError: text that cannot be read or encoded, a part shorter than one window, a full or unwritable disk, a
            file that changes while it is read.
    """
    folder = Path(folder)
    manifest = _finished(source, tokenizer, folder, validation_fraction)
    reused = manifest is not None
    if manifest is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            manifest = _tokenise(source, tokenizer, folder, validation_fraction, progress)
        except OSError as error:
            raise _disk_error(folder, error) from error
    stream = _open(folder, manifest, reused)
    _check_windows(stream, validation_fraction, context)
    return stream


def open_stream(folder: Path) -> TokenStream:
    """Open what :func:`prepare_stream` left in ``folder``, whatever has become of the source since.

    Raises:
        UserError: nothing complete is there.
    """
    try:
        return _open(folder, json.loads((folder / _MANIFEST).read_text(encoding="utf-8")), reused=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} does not hold a run's tokens any more; name the text itself with --data") from error


def _tokenise(
    source: Source, tokenizer: Tokenizer, folder: Path, validation_fraction: float, progress: Progress | None
) -> dict[str, Any]:
    # First of all nothing may look finished any more.
    for name in (_MANIFEST, "ids.train.bin", "ids.validation.bin"):
        (folder / name).unlink(missing_ok=True)
    parts = passages(source, validation_fraction)
    tokens = {"train": 0, "validation": 0}
    characters = {"train": 0, "validation": 0}
    total = max(1, source.characters)
    done = 0
    with EncoderPool(tokenizer, _workers(source, tokenizer)) as pool:
        for part in ("train", "validation"):
            path = folder / f"ids.{part}.bin"
            partial = path.with_suffix(".bin.partial")
            chosen = [passage for passage in parts if passage.part == part]
            if not chosen:
                continue
            try:
                with partial.open("wb") as file:
                    for piece, encoded in pool.map(_pieces(chosen, tokenizer), lambda piece: piece.text):
                        ids = _encode(piece, tokenizer) if encoded is None else encoded
                        if piece.after_end and tokenizer.eos_id is not None:
                            ids = np.insert(ids, 0, tokenizer.eos_id)
                        file.write(ids.astype(_stored(tokenizer.dtype), copy=False).data)
                        tokens[part] += ids.size
                        characters[part] += len(piece.text)
                        done += piece.read
                        if progress:
                            progress(source.size * done // total, source.size)
                    _sync(file)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            partial.replace(path)
    for document in source.documents:
        if isinstance(document.origin, Path) and (
            modified(document.origin) != document.mtime_ns or document.origin.stat().st_size != document.size
        ):
            raise UserError(f"{document.name} changed while it was read; run again when it is complete")
    manifest = {
        "format": _FORMAT,
        "source": source.name,
        "tokenizer": tokenizer.fingerprint,
        "validation_fraction": validation_fraction,
        "dtype": tokenizer.dtype.name,
        "tokens": tokens,
        "characters": characters,
        "origins": _names(source),
        "documents": [
            {"name": d.name, "size": d.size, "mtime_ns": d.mtime_ns, "sha256": d.sha256} for d in source.documents
        ],
    }
    partial = folder / (_MANIFEST + ".partial")
    with partial.open("w", encoding="utf-8") as text_file:
        json.dump(manifest, text_file, indent=1, ensure_ascii=False)
        _sync(text_file)
    partial.replace(folder / _MANIFEST)
    return manifest


@dataclass(frozen=True)
class _Piece:
    """A stretch of text to encode, from a passage, starting at a character of its document."""

    text: str
    passage: Passage
    at: int
    read: int
    """Characters of the source; 0 for a newline put between documents."""
    after_end: bool
    """Whether an end-of-text token goes before it."""


def _pieces(chosen: list[Passage], tokenizer: Tokenizer) -> Iterator[_Piece]:
    last = ""
    for passage in chosen:
        after_end = bool(last) and tokenizer.eos_id is not None
        if last and last != "\n" and not after_end:
            yield _Piece("\n", passage, 0, 0, False)
        at = passage.start
        for text in cut_safely(read_passage(passage), tokenizer.safe_cut, passage.document.name):
            yield _Piece(text, passage, at, len(text), after_end)
            after_end = False
            at += len(text)
            last = text[-1]


def _encode(piece: _Piece, tokenizer: Tokenizer) -> NDArray[np.unsignedinteger]:
    """Encode; what is unknown is reported with its file and line."""
    try:
        return tokenizer.encode_array(piece.text)
    except UnknownTextError as error:
        passage = piece.passage
        before = Passage(passage.part, passage.document, 0, piece.at + error.offset)
        line = 1 + sum(chunk.count("\n") for chunk in read_passage(before))
        cure = error.cure
        if passage.part == "validation":
            cure = "the vocabulary comes from the training part alone; use --set unknown=token or validation_fraction=0"
        place = f"{passage.document.name}, line {line:,}"
        raise UserError(f"{place}: {error.symbol} is not in the vocabulary; {cure}") from error


def _workers(source: Source, tokenizer: Tokenizer) -> int:
    """Processes pay for themselves on large texts; characters are looked up faster than they could be handed over."""
    if tokenizer.kind == "char" or source.size < PARALLEL_BYTES:
        return 0
    cores = available_cores()
    return 0 if cores == 1 else min(cores, MOST_WORKERS)


def _finished(source: Source, tokenizer: Tokenizer, folder: Path, validation_fraction: float) -> dict[str, Any] | None:
    """The manifest of an earlier call whose work is complete and still right, or None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        same = (
            manifest["format"] == _FORMAT
            and manifest["tokenizer"] == tokenizer.fingerprint
            and manifest["validation_fraction"] == validation_fraction
            and manifest["origins"] == _names(source)
            and all(
                count == 0 or (folder / f"ids.{part}.bin").stat().st_size == count * tokenizer.dtype.itemsize
                for part, count in manifest["tokens"].items()
            )
        )
        known = {document["name"]: document for document in manifest["documents"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if same and _unchanged(source, known) else None


def _unchanged(source: Source, known: dict[str, dict[str, Any]]) -> bool:
    for origin, name in zip(source.origins, _names(source), strict=True):
        document = known.get(name)
        if document is None:
            # A file of a folder that could not be read before; it may have been mended, which only reading it tells.
            return {d.name: d.sha256 for d in source.documents} == {n: d["sha256"] for n, d in known.items()}
        if isinstance(origin, Path):
            try:
                status = origin.stat()
            except OSError:
                return False
            if status.st_size == document["size"] and status.st_mtime_ns == document["mtime_ns"]:
                continue
            if status.st_size != document["size"]:
                return False
        if scan(origin, source.name).sha256 != document["sha256"]:
            return False
    return True


def _names(source: Source) -> list[str]:
    return [str(origin) if isinstance(origin, Path) else source.name for origin in source.origins]


def _open(folder: Path, manifest: dict[str, Any], reused: bool) -> TokenStream:
    dtype = _stored(np.dtype(manifest["dtype"]))

    def mapped(part: Part) -> NDArray[np.unsignedinteger] | None:
        if not manifest["tokens"][part]:
            return None
        return np.memmap(folder / f"ids.{part}.bin", dtype=dtype, mode="r")

    identity = [manifest["tokenizer"], manifest["validation_fraction"], [d["sha256"] for d in manifest["documents"]]]
    train = mapped("train")
    return TokenStream(
        train=np.empty(0, dtype) if train is None else train,
        validation=mapped("validation"),
        train_characters=manifest["characters"]["train"],
        validation_characters=manifest["characters"]["validation"],
        source=manifest["source"],
        fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        reused=reused,
    )


def _check_windows(stream: TokenStream, validation_fraction: float, context: int) -> None:
    window = context + 1
    if stream.train.size < window:
        raise UserError(
            f"{stream.source} has {stream.train.size:,} tokens to train on, one window needs {window:,}; give more "
            f"text, or a shorter window with --set context={max(1, stream.train.size - 1)}"
        )
    held_out = 0 if stream.validation is None else stream.validation.size
    if validation_fraction > 0 and held_out < window:
        raise UserError(
            f"{stream.source} leaves {held_out:,} tokens for validation, one window needs {window:,}; raise "
            f"validation_fraction (now {validation_fraction:g}), lower context, or go without: "
            f"--set validation_fraction=0"
        )


def _stored(dtype: np.dtype[np.unsignedinteger]) -> np.dtype[np.unsignedinteger]:
    """Little-endian, whatever the machine, so that a run folder can move."""
    return dtype.newbyteorder("<")


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _disk_error(folder: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk is full while writing token ids to {folder}; free some space and run again")
    return UserError(f"cannot write token ids to {folder} ({error.strerror or error}); choose a writable folder")
