"""Training: settings, recipes, optimizers, and the one loop."""

from scratchlm.training.config import TrainConfig
from scratchlm.training.loop import FitResult, fit
from scratchlm.training.pretrain import TrainResult, make_plan, new_model, train
from scratchlm.training.progress import Reporter
from scratchlm.training.recipes import RECIPES, recipe

__all__ = [
    "RECIPES",
    "FitResult",
    "Reporter",
    "TrainConfig",
    "TrainResult",
    "fit",
    "make_plan",
    "new_model",
    "recipe",
    "train",
]
