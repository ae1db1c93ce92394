"""Finding texts by their meaning: vectors of texts, and the files that they come from and go to."""

from scratchlm.retrieval.embeddings import Embedder, Embeddings
from scratchlm.retrieval.texts import read_texts
from scratchlm.retrieval.vector_files import check_target, write_vectors

__all__ = ["Embedder", "Embeddings", "check_target", "read_texts", "write_vectors"]
