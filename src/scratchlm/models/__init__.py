"""Models: a config, and the decoder, encoder and encoder-decoder that it describes."""

from scratchlm.models.attention import Attention, textbook
from scratchlm.models.build import Decoder, Encoder, Model, Seq2Seq, build_model, empty_model, evaluating, with_head
from scratchlm.models.cache import KVCache
from scratchlm.models.config import Head, ModelConfig
from scratchlm.models.loss import cross_entropy_sum, linear_cross_entropy_sum
from scratchlm.models.presets import PRESETS, model_preset
from scratchlm.models.size import parameter_count

__all__ = [
    "PRESETS",
    "Attention",
    "Decoder",
    "Encoder",
    "Head",
    "KVCache",
    "Model",
    "ModelConfig",
    "Seq2Seq",
    "build_model",
    "cross_entropy_sum",
    "empty_model",
    "evaluating",
    "linear_cross_entropy_sum",
    "model_preset",
    "parameter_count",
    "textbook",
    "with_head",
]
