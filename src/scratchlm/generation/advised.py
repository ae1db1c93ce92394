"""How those who made a chat model advise to draw its answers.

Small models ramble where large ones vary: SmolLM2-135M's card asks for temperature 0.2, others' for 0.7 or 1. Folders
from the hub say it in generation_config.json; for models of the catalogue that come without one, the catalogue does.
"""

from __future__ import annotations

from pathlib import Path

from scratchlm.adapters.run import TUNING, belonging
from scratchlm.checkpoints import RunFolder
from scratchlm.checkpoints.catalogue import Located, entries, resolve
from scratchlm.checkpoints.headers import read_json
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig

ADVISED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
FILE = "generation_config.json"
_UNLESS_ADVISED = {"temperature": 0.8, "top_p": 0.95}


def advised_sampling(model: str | Path | Located) -> dict[str, float]:
    """What is advised for a model, by the names of :class:`SamplingConfig`; {} where nothing is. What was tuned from a
    model is drawn from as that is.

    Raises:
        UserError: there is no such model, or its file is damaged or advises numbers out of range.
    """
    located = model if isinstance(model, Located) else resolve(model)
    path = located.path
    if located.kind == "adapter":
        return _of_base(belonging(path).base)
    if located.kind == "run":
        return _of_base(RunFolder(path).description().get(TUNING, {}).get("base"))
    if located.kind == "huggingface" and (path / FILE).exists():
        found = {name: value for name, value in read_json(path / FILE).items() if name in ADVISED and value is not None}
        try:
            for name, value in found.items():
                if not isinstance(value, int | float):
                    raise UserError(f"{name} is {value!r}, which is no number")
            SamplingConfig(**found)
        except UserError as error:
            raise UserError(f"{path / FILE}: {error}; mend the file, or remove it") from error
        return found
    entry = located.entry or next((one for one in entries().values() if one.folder in (path, path.parent)), None)
    return {} if entry is None else dict(entry.sampling)


def chat_sampling(model: str | Path | Located, *, seed: int | None = None, **given: float | None) -> SamplingConfig:
    """How a chat's answers are drawn: as ``given``; where that is None as advised; where nothing is advised at all, at
    temperature 0.8 from the likeliest tokens that have 95 % together.

    Raises:
        UserError: as :func:`advised_sampling`, or a number out of range.
    """
    advised = advised_sampling(model) or _UNLESS_ADVISED
    return SamplingConfig(seed=seed, **(advised | {name: value for name, value in given.items() if value is not None}))  # type: ignore[arg-type]


def _of_base(name: str | None) -> dict[str, float]:
    """Of the model that another was made from; {} where that is not here any more."""
    try:
        base = None if name is None else resolve(name)
    except UserError:
        return {}
    return {} if base is None else advised_sampling(base)
