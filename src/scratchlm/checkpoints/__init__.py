"""Run folders: saved so that nothing is ever half-written, and opened again."""

from scratchlm.checkpoints.run import Checkpoint, RunFolder, load_tensors, model_tensors

__all__ = ["Checkpoint", "RunFolder", "load_tensors", "model_tensors"]
