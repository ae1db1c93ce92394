"""A run is one folder: settings, tokenizer, weights, log, checkpoints and a card that says what it is.

scratchlm.json                 what the run is: preset, model config, data
settings.yaml                  how it is trained
tokenizer.json ...             its tokenizer
model.safetensors              the weights to use: the best by validation, or the last where nothing is held out;
                               with config.json by Hugging Face's names, where one of its families has the model
metrics.jsonl                  one line for each logged step
README.md                      the model card
checkpoints/step-00000500/     where training goes on from: weights that are trained, optimizer state, counters; of a
                               model spread over processes, files of each one's share
data/                          the text as token ids
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from filelock import FileLock, Timeout
from torch import Tensor, nn

from scratchlm.checkpoints.checkpoint import STATE, Checkpoint, write_checkpoint
from scratchlm.checkpoints.express import InexpressibleError
from scratchlm.checkpoints.files import (
    disk_errors,
    read_tensors,
    write_atomically,
    write_tensors,
    write_text,
)
from scratchlm.checkpoints.huggingface import CONFIG, config_text, run_form, tensors_from_run
from scratchlm.checkpoints.weights import SINGLE, load_tensors, model_tensors, trained_tensors
from scratchlm.errors import UserError
from scratchlm.models import Model, ModelConfig, build_model, parameter_count
from scratchlm.reading import read_text
from scratchlm.tokenizers import Tokenizer

FORMAT = 1
DESCRIPTION, SETTINGS, WEIGHTS, METRICS, CARD = "scratchlm.json", "settings.yaml", SINGLE, "metrics.jsonl", "README.md"


class RunFolder:
    """The files of one run.

    Args:
        path: the folder. It need not exist yet; see :meth:`start`.
    """

    holds_frozen = True
    """Whether :meth:`save_weights` needs the parameters too that are not trained."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: FileLock | None = None
        self._begun_here = False

    # -- opening ------------------------------------------------------------------------------------------------------

    def start(self, *, resume: bool) -> None:
        """Make the folder ready for training and keep others out until :meth:`close` (or the process ends).

        Raises:
            UserError: it holds files already (and ``resume`` is False), is a file, cannot be written, or is in use.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; choose a folder for --out")
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            kind = "a run" if (self.path / DESCRIPTION).exists() or (self.path / "data").exists() else "files"
            raise UserError(
                f"{self.path} already holds {kind}; add --resume to go on with it, or choose another folder for --out"
            )
        self._begun_here = not self.path.exists()
        with disk_errors(f"the run folder {self.path}", "choose a folder that you may write to"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / ".lock", timeout=0)
            try:
                self._lock.acquire()
            except Timeout:
                self._lock = None
                raise UserError(
                    f"{self.path} is in use by another run; wait for it to end, or choose another folder for --out"
                ) from None

    def close(self) -> None:
        """Let others in again."""
        if self._lock is not None:
            (self.path / ".lock").unlink(missing_ok=True)  # while no other can hold it
            self._lock.release()
            self._lock = None

    def discard(self, *, begun: bool = False) -> None:
        """Remove the folder again if :meth:`start` made it and no run has begun in it, as when the data are no text;
        with ``begun`` also if one has, but has logged and kept nothing yet."""
        idle = begun and not (self.path / METRICS).exists() and not any(self.path.glob("checkpoints/*"))
        if self._begun_here and (idle or not self.exists):
            self.close()
            shutil.rmtree(self.path, ignore_errors=True)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run, for use.

        Raises:
            UserError: there is no such folder, or it is not a run.
        """
        run = cls(path)
        if not run.path.exists():
            raise UserError(
                f"there is no run {str(path)!r}; train one with: scratchlm train PRESET --data FILE --out RUN"
            )
        run.description()
        return run

    @property
    def exists(self) -> bool:
        """Whether the folder already says what the run is."""
        return (self.path / DESCRIPTION).exists()

    # -- what it is ---------------------------------------------------------------------------------------------------

    def write_description(self, values: Mapping[str, Any]) -> None:
        text = json.dumps({"format": FORMAT, **values}, indent=2, ensure_ascii=False)
        with self._writing(DESCRIPTION):
            write_text(self.path / DESCRIPTION, text + "\n")

    def description(self) -> dict[str, Any]:
        """What the run is: ``preset``, ``model`` (the config's fields), ``data``, ...

        Raises:
            UserError: the folder is not a run, or its description is damaged.
        """
        file = self.path / DESCRIPTION
        try:
            values = json.loads(read_text(file))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.path} is not a run: it has no {DESCRIPTION}; give the --out of a training"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} cannot be read ({str(error)[:80]}); train the run again") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("model"), dict):
            found = values.get("format") if isinstance(values, dict) else None
            raise UserError(f"{file} has format {found!r}, this version reads format {FORMAT}; train the run again")
        return values

    def write_settings(self, values: Mapping[str, Any]) -> None:
        with self._writing(SETTINGS):
            write_text(self.path / SETTINGS, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))

    def settings(self) -> dict[str, Any]:
        """How the run is trained.

        Raises:
            UserError: the file is missing or damaged.
        """
        file = self.path / SETTINGS
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(
                f"{file} cannot be read ({' '.join(str(error).split())[:80]}); train the run again"
            ) from error
        if not isinstance(values, dict):
            raise UserError(f"{file} does not hold settings; train the run again")
        return values

    def write_card(self, text: str) -> None:
        with self._writing(CARD):
            write_text(self.path / CARD, text)

    # -- weights ------------------------------------------------------------------------------------------------------

    def save_weights(self, model: nn.Module) -> None:
        """The weights that :meth:`load_model` will give, in a form that ``transformers`` opens if it has such models.

        Where it has not, the weights keep our names; :func:`~scratchlm.checkpoints.export_huggingface` says why.
        """
        try:
            fields, tensors = run_form(model)
        except InexpressibleError:
            fields, tensors = None, model_tensors(model)
        with self._writing(WEIGHTS):
            if fields is not None and not (self.path / CONFIG).exists():
                tokenizer = Tokenizer.load(self.path) if (self.path / "tokenizer.json").exists() else None
                write_text(self.path / CONFIG, config_text(fields, tokenizer))
            write_atomically(self.path / WEIGHTS, lambda partial: write_tensors(partial, tensors))

    def load_model(self) -> tuple[Model, Tokenizer]:
        """The run's model, in evaluation mode, and its tokenizer.

        Raises:
            UserError: a file is missing or damaged, or the weights are not this model's.
        """
        description = self.description()
        tokenizer = Tokenizer.load(self.path)
        config = ModelConfig.from_dict(description["model"])
        if not (self.path / WEIGHTS).exists() and self.latest_checkpoint() is not None:
            raise UserError(
                f"{self.path} is not finished: it has no {WEIGHTS} yet; go on with: {self.resume_command()}"
            )
        self._check_size(config)
        model = build_model(config)
        self.load_weights(model)
        return model.eval(), tokenizer

    def _check_size(self, config: ModelConfig) -> None:
        """No memory is taken for a model that is larger than its weights' file: a parameter has at least one byte."""
        weights = self.path / WEIGHTS
        size = weights.stat().st_size if weights.is_file() else 0
        if 0 < size < parameter_count(config):
            raise UserError(
                f"{weights} is damaged or another model's: it has {size:,} bytes, {DESCRIPTION} describes "
                f"{parameter_count(config):,} parameters; train the run again"
            )

    def load_weights(self, model: nn.Module) -> None:
        """Put the run's weights into a model of its shape.

        Raises:
            UserError: the file is missing or damaged, or the weights are not this model's.
        """
        tensors, origin = read_tensors(self.path / WEIGHTS, "train the run again"), str(self.path / WEIGHTS)
        if (self.path / CONFIG).exists() and model_tensors(model).keys().isdisjoint(tensors):
            tensors = tensors_from_run(model, tensors, origin)
        load_tensors(model, tensors, origin)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save_checkpoint(
        self,
        step: int,
        model: nn.Module,
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
        *,
        shared: bool = False,
    ) -> None:
        """Save where training stands, then drop older checkpoints. A failure leaves the older ones as they were.

        Frozen parameters are left out: they are still what they were. With ``shared``, where the model is spread over
        processes, all of them call this, and each writes its share; there is a checkpoint once all have.
        """
        target = self.path / "checkpoints" / f"step-{step:08d}"
        if target.exists():
            return
        with self._writing("a checkpoint"):
            write_checkpoint(target, trained_tensors(model), optimizer, {"step": step, **state}, shared)
        if not shared or dist.get_rank() == 0:
            self.drop_older_checkpoints()

    def drop_older_checkpoints(self) -> None:
        """Leave the last checkpoint alone; a run killed right after it was written still has the one before."""
        for older in self._checkpoints()[:-1]:
            shutil.rmtree(older, ignore_errors=True)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The last complete checkpoint, or None.

        Raises:
            UserError: its counters cannot be read.
        """
        folders = self._checkpoints()
        if not folders:
            return None
        try:
            state = json.loads((folders[-1] / STATE).read_text(encoding="utf-8"))
            return Checkpoint(folders[-1], int(state["step"]), state)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folders[-1] / 'state.json'} is damaged ({str(error)[:80]}); delete {folders[-1]} and resume again"
            ) from error

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("step-*"))

    # -- the log ------------------------------------------------------------------------------------------------------

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        line = json.dumps(record) + "\n"
        with self._writing(METRICS), (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(line)

    def truncate_metrics(self, step: int) -> None:
        """Forget what was logged after ``step``, since it will be trained and logged again."""
        file = self.path / METRICS
        if not file.exists():
            return
        kept = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # half a line, from a run that was killed while it wrote
        with self._writing(METRICS):
            write_text(file, "".join(kept))

    # -- words --------------------------------------------------------------------------------------------------------

    def resume_command(self) -> str:
        """What to type to go on with this run."""
        try:
            values = self.description()
            tuned = values.get("finetune")
            verb, more = ["train"], list[str]()
            if tuned:
                verb = str(tuned.get("verb", "finetune")).split()
                more = [
                    "--method",
                    tuned["method"],
                    *(w for one in tuned.get("rewards", ()) for w in ("--reward", one)),
                ]
            words = [*verb, values["preset"], "--data", values["data"]["name"], *more, "--out", self.path, "--resume"]
            return shlex.join(["scratchlm", *map(str, words)])
        except (UserError, KeyError, TypeError):
            return "the same command with --resume"

    def _writing(self, what: str) -> Any:
        checkpoints = self._checkpoints()
        kept = (
            f"the checkpoint at step {int(checkpoints[-1].name[5:])} is intact" if checkpoints else "nothing was lost"
        )
        return disk_errors(f"{what} in {self.path}", f"{kept}; free some space, or mend the permissions, and resume")
