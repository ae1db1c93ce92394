"""Models on disk: run folders, saved so that nothing is ever half-written, and Hugging Face's folders, both ways."""

from scratchlm.checkpoints.checkpoint import Checkpoint
from scratchlm.checkpoints.huggingface import export_huggingface, load_huggingface, read_config, save_huggingface
from scratchlm.checkpoints.pooling import PoolingSettings, read_pooling
from scratchlm.checkpoints.run import RunFolder
from scratchlm.checkpoints.weights import load_tensors, model_tensors

__all__ = [
    "Checkpoint",
    "PoolingSettings",
    "RunFolder",
    "export_huggingface",
    "load_huggingface",
    "load_tensors",
    "model_tensors",
    "read_config",
    "read_pooling",
    "save_huggingface",
]
