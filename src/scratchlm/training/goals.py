"""What a tuning is after: which rows it takes, which head it needs, and what is learned of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scratchlm.data import Plan
from scratchlm.data.rated_pairs import Pairing
from scratchlm.models import Head
from scratchlm.training.contrast import Contrast, check_contrast
from scratchlm.training.starting import HEADS
from scratchlm.training.tasks import FineTune
from scratchlm.training.tuning_config import TASKS, Method

if TYPE_CHECKING:
    from scratchlm.training.finetune import Tuning


class Goal:
    """Learning what the rows themselves say: words, labels, tags or vectors. Others derive from it."""

    verb = "finetune"
    """Of the command line; with ``align`` before it for what this class's heirs do."""
    config: type[Any] | None = None
    """The dataclass of the settings that this goal alone has."""
    rows: str | None = None
    """The task that rows must serve; None for what their columns are for."""

    def head(self, task: str) -> Head | None:
        """The head that rows of a task need; None for the model's words."""
        return HEADS.get(task)

    def description(self) -> dict[str, Any]:
        """What a run's description keeps of it, and a resumed run must agree with."""
        return {"verb": self.verb}

    def pairing(self, own: Any) -> Pairing | None:  # noqa: ARG002 - for heirs
        """How pairs are made of rated texts; None for the usual way."""
        return None

    def defaults(self, task: str, method: Method) -> dict[str, Any]:  # noqa: ARG002 - for heirs
        """Settings of a training that differ from those of every tuning."""
        return TASKS.get(task, {})

    def steps_per_epoch(self, plan: Plan, own: Any) -> int:  # noqa: ARG002 - for heirs with settings of their own
        """Optimizer steps in which each row is met once."""
        return plan.steps_per_epoch

    def learn(self, tuning: Tuning, plan: Plan, held_out: Plan | None) -> FineTune:
        """What the loop is given, for a model that is ready to be trained.

        Raises:
            UserError: the settings do not go with it.
        """
        if tuning.start.pooling is None:
            return FineTune(plan, held_out)
        check_contrast(tuning.config, tuning.place.size)
        return Contrast(plan, held_out, tuning.start.pooling.mode)
