"""What an index was made with: recorded in its store, and held against what it is opened with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError
from scratchlm.retrieval.embeddings import Embeddings

FORMAT = 1
"""Of stores. A larger one was written by a later scratchlm."""
LANGUAGES = (
    "Arabic", "Danish", "Dutch", "English", "Finnish", "French", "German", "Greek", "Hungarian", "Italian",
    "Norwegian", "Portuguese", "Romanian", "Russian", "Spanish", "Swedish", "Tamil", "Turkish",
)  # fmt: skip
"""Whose words LanceDB can stem."""


class TextEmbedder(Protocol):
    """What an index asks of an embedder: :class:`~scratchlm.retrieval.Embedder` has it."""

    @property
    def name(self) -> str:
        """Of the model, for messages."""

    @property
    def dimensions(self) -> int:
        """The vectors' length, C."""

    @property
    def precision(self) -> str:
        """In which vectors are computed."""

    @property
    def fingerprint(self) -> str:
        """Equal where weights, tokenizer and pooling are."""

    def embed(self, texts: list[str], /) -> Embeddings:
        """The vectors of n texts, (n, C)."""


@dataclass(frozen=True)
class IndexSettings:
    """How an index cuts documents and reads their words.

    Args:
        size: the most tokens of a chunk; None for 256, or what the model reads if that is less.
        overlap: tokens that a chunk repeats of the one before it, at most.
        language: of the words, for stemming and stop words; one of :data:`LANGUAGES`.
        stem: whether "indexing" is found by "index".
        stop_words: whether words such as "the" are left out of full-text search.

    Raises:
        UserError: no such language, or a value of another type. The chunks' size is checked where they are made.
    """

    size: int | None = None
    overlap: int = 0
    language: str = "English"
    stem: bool = True
    stop_words: bool = True

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise UserError(f"an index's language is {self.language!r}; choose one of {', '.join(LANGUAGES)}")
        for name, value in (("size", self.size), ("overlap", self.overlap)):
            if (isinstance(value, bool) or not isinstance(value, int)) and not (name == "size" and value is None):
                raise UserError(f"an index's {name} is {value!r}; give a whole number of tokens")
        for name in ("stem", "stop_words"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"an index's {name} is {getattr(self, name)!r}; give True or False")


@dataclass(frozen=True)
class Record:
    """What a store says of itself."""

    settings: IndexSettings
    model: str
    fingerprint: str
    dimensions: int
    precision: str
    format: int = FORMAT

    @classmethod
    def of(cls, embedder: TextEmbedder, settings: IndexSettings) -> Record:
        """For a new store."""
        return cls(settings, embedder.name, embedder.fingerprint, embedder.dimensions, embedder.precision)

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, store: str) -> Record:
        """What :meth:`to_json` wrote.

        Raises:
            UserError: it is damaged, or a later version's.
        """
        try:
            read: dict[str, Any] = json.loads(text)
            if int(read["format"]) > FORMAT:
                raise UserError(f"{store} was written by a later version of scratchlm; update scratchlm to open it")
            record = cls(**{**read, "settings": IndexSettings(**read["settings"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{store} has a damaged record of its settings; delete it and index again") from error
        return record

    def check_model(self, embedder: TextEmbedder, store: str, *, writing: bool) -> None:
        """See that vectors of ``embedder`` can be compared with the store's.

        Raises:
            UserError: it is another model; or, where ``writing``, it computes in another precision.
        """
        if embedder.dimensions != self.dimensions:
            raise UserError(
                f"{store} holds vectors of {self.dimensions} numbers, made by {self.model}, and {embedder.name} makes "
                f"{embedder.dimensions}; use {self.model}, or index into another store"
            )
        if embedder.fingerprint != self.fingerprint:
            what = "another version of it" if embedder.name == self.model else embedder.name
            raise UserError(
                f"{store} was made with {self.model}, and this is {what}; use that one, or index into another store"
            )
        if writing and embedder.precision != self.precision:
            raise UserError(
                f"{store} holds vectors made in {self.precision}, not {embedder.precision}; use {self.precision}"
            )

    def check_settings(self, settings: IndexSettings, store: str) -> None:
        """See that a store was made with ``settings``.

        Raises:
            UserError: it was not; the line names the first that differs.
        """
        for name, kept in asdict(self.settings).items():
            asked = getattr(settings, name)
            if asked != kept:
                made = f"the usual {name}" if kept is None else f"{name} {kept}"
                raise UserError(f"{store} was made with {made}, not {asked}; leave it out, or use another store")


def unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Vectors, (n, C), scaled to length 1; a vector of zeros stays one."""
    found = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(found, axis=-1, keepdims=True)
    lengths[lengths == 0] = 1
    scaled: NDArray[np.float32] = found / lengths
    return scaled
