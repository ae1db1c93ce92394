"""Training: settings, recipes, optimizers, and the one loop."""

from scratchlm.training.config import TrainConfig
from scratchlm.training.finetune import TuneResult, Tuning, finetune
from scratchlm.training.loop import FitResult, fit
from scratchlm.training.pretrain import TrainResult, make_plan, new_model, train
from scratchlm.training.progress import Reporter
from scratchlm.training.question import Question
from scratchlm.training.recipes import RECIPES, recipe
from scratchlm.training.tuning_config import TuningConfig, check_method

__all__ = [
    "RECIPES",
    "FitResult",
    "Question",
    "Reporter",
    "TrainConfig",
    "TrainResult",
    "TuneResult",
    "Tuning",
    "TuningConfig",
    "check_method",
    "finetune",
    "fit",
    "make_plan",
    "new_model",
    "recipe",
    "train",
]
