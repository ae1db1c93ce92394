"""One process of a data-parallel training; the environment says which, as it does under torchrun.

python one_process.py '{"out": FOLDER, "settings": {...}, "resume": false, "fail": [RANK, STEP] or null,
                        "interrupt": [RANK, STEP] or null}'
"""

from __future__ import annotations

import json
import os
import signal
import sys

from scratchlm.errors import UserError
from scratchlm.training import Reporter, train
from scratchlm.training.tasks import MaskedToken

asked = json.loads(sys.argv[1])
rank = int(os.environ.get("RANK", "0"))
learn = MaskedToken.loss
passes = 0


def loss(self, model, batch):  # type: ignore[no-untyped-def]
    global passes
    passes += model.training
    if model.training and [rank, passes] == asked.get("fail"):
        raise UserError("this process gives up")
    if model.training and [rank, passes] == asked.get("interrupt"):
        os.kill(os.getpid(), signal.SIGINT)
    return learn(self, model, batch)


MaskedToken.loss = loss
try:
    result = train(
        "tinybert",
        "rumi-life",
        asked["out"],
        settings=asked["settings"],
        resume=asked.get("resume", False),
        reporter=Reporter(quiet=rank > 0),
    )
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
print(json.dumps({"stopped": result.fit.stopped, "steps": result.fit.steps, "loss": result.fit.loss}))
