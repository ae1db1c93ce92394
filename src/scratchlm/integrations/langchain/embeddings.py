"""Vectors of texts for LangChain."""

from __future__ import annotations

import warnings
from pathlib import Path

from langchain_core.embeddings import Embeddings

from scratchlm.retrieval.embeddings import Embedder, EmbedPrecision


class ScratchlmEmbeddings(Embeddings):
    """Makes vectors of texts, on this machine.

    A text that is longer than the model reads is cut, with a warning. Several threads may use it; they take turns.

    Args:
        model: a name of the catalogue, a folder, a run; or an embedder that is open already, which keeps its precision
            and device.
        precision: "fp32", "int8" (faster on the CPU) or "auto", which is "fp32".
        device: "auto", "cpu", "cuda", ...

    Raises:
        UserError: there is no such model on this machine, or it gives no vectors.
    """

    def __init__(
        self,
        model: str | Path | Embedder = "all-minilm-l6-v2",
        precision: EmbedPrecision = "auto",
        *,
        device: str = "auto",
    ) -> None:
        self.embedder = model if isinstance(model, Embedder) else Embedder.open(model, precision, device=device)
        self.model = self.embedder.name
        self.precision = self.embedder.precision

    def __repr__(self) -> str:
        return f"ScratchlmEmbeddings({self.model!r}, {self.precision!r})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vector of each text: n lists of C numbers.

        Raises:
            UserError: a text has characters that the model does not know; the line tells its number.
        """
        found = self.embedder.embed(texts)
        if found.truncated:
            warnings.warn(
                f"{found.truncated:,} of {len(texts):,} texts are longer than the {self.embedder.max_length:,} tokens "
                f"that {self.model} reads, and their ends count for nothing; split them into shorter ones",
                stacklevel=2,
            )
        listed: list[list[float]] = found.vectors.tolist()
        return listed

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text, made like a document's: C numbers.

        Raises:
            UserError: as :meth:`embed_documents`.
        """
        return self.embed_documents([text])[0]
