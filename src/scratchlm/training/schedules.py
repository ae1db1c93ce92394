"""Learning-rate schedules, as a factor of the peak."""

from __future__ import annotations

import math

from scratchlm.training.config import TrainConfig


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """The learning rate of step ``step`` (from 0), as a share of its peak.

    A linear warm-up from 1/warmup to 1; then ``constant``; or ``cosine`` (Loshchilov & Hutter 2017, eq. 5) or
    ``linear`` down to ``final_learning_rate_ratio``, reached one step after the last; or ``wsd``, flat until the last
    ``decay_fraction`` of the steps and linear from there (Hu et al. 2024).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    start = config.warmup_steps
    if config.schedule == "wsd":
        start = max(start, round(config.steps * (1 - config.decay_fraction)))
        if step < start:
            return 1.0
    # The first step after the warm-up has the whole rate, as has the step before a ``wsd`` schedule falls; the last
    # step still learns something.
    fallen = step - start + (config.schedule == "wsd")
    progress = fallen / (config.steps - start + (config.schedule == "wsd"))
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.final_learning_rate_ratio + (1 - config.final_learning_rate_ratio) * falling
