"""How a model is fine-tuned: what is asked beside the settings of every training, and the defaults of each method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from scratchlm.adapters import LoraSettings
from scratchlm.data.examples import LossOn
from scratchlm.data.packing import Method as Layout
from scratchlm.errors import UserError
from scratchlm.ranges import check_choice, check_whole
from scratchlm.training.config import TrainConfig

Method = Literal["full", "lora", "qlora"]
Bits = Literal["nf4", "int8", "int4"]
TuningTask = Literal["lm", "prompt", "chat", "classify", "tag", "embed"]

DEFAULTS: dict[Method, dict[str, Any]] = {
    "full": {"learning_rate": 5e-5},
    "lora": {"learning_rate": 5e-4},
    "qlora": {"learning_rate": 5e-4},
}
"""Where training an adapter differs: few parameters that start at nothing bear, and need, larger steps."""
COMMON: dict[str, Any] = {
    "batch_size": 16,
    "schedule": "linear",
    "weight_decay": 0.0,
    "beta2": 0.999,
    "clip_norm": 1.0,
}
TASKS: dict[str, dict[str, Any]] = {"embed": {"batch_size": 64}}
"""Where a task differs: the rows of a step are each other's wrong answers, and should be many."""
ANEW: dict[str, Any] = {"learning_rate": 1e-3}
"""Where a preset differs, which has learned nothing yet that large steps could spoil."""
PASS_TOKENS: dict[Method, int] = {"full": 512, "lora": 256, "qlora": 192}
"""On the CPU, where an adapter's passes gain nothing by more; with all weights each adds up as many gradients."""
EMBED_PASS_TOKENS, GPU_PASS_TOKENS = 4096, 8192
"""Where a step of the task ``embed`` fits one pass, it need not compute its vectors twice."""
WARMUP = 0.03
"""Share of the steps in which the learning rate rises, unless told otherwise."""


@dataclass(frozen=True)
class TuningConfig:
    """What is asked of a fine-tuning beside :class:`~scratchlm.training.config.TrainConfig`.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    epochs: float = 3.0
    """How often each row is learned from; ``steps`` counts where it is given."""
    max_length: int = 0
    """Tokens of a row, the rest is cut; 0 for the model's context, at most 1,024."""
    pass_tokens: int = 0
    """Tokens that go through the model at a time; a step takes as many passes as its rows need. 0 for what suits: on
    the CPU 256 beside adapters, 512 for all weights and 4,096 for ``embed``, on a GPU 8,192."""
    layout: Layout = "auto"
    """Rows one after the other (``pack``), rows of like length side by side (``length``), or what costs less."""
    loss_on: LossOn = "auto"
    """Learn the ``completion`` of a prompt, the ``assistant``'s turns, or ``all`` tokens; ``auto`` is the first two."""
    rank: int = 16
    alpha: float = 32.0
    lora_dropout: float = 0.0
    targets: str = "all-linear"
    """``all-linear``, ``peft``, or names with commas between, such as ``q_proj,v_proj``."""
    rslora: bool = False
    dora: bool = False
    lora_bias: str = "none"
    train_modules: str = ""
    """Modules beside the adapters that are trained whole, with commas between, such as ``lm_head``."""
    lora_layers: str = ""
    """Blocks that are adapted: ``0-5,8``; empty for all."""
    base_bits: Bits = "nf4"
    """With ``qlora``: what the frozen matrices are kept in."""
    eval_prompts: int = 100
    """Held-out prompts that the model answers before and after; 0 for none."""
    eval_new_tokens: int = 64
    """Tokens of an answer at most."""

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int | float) or isinstance(self.epochs, bool) or not 0 < self.epochs < 1e6:
            raise UserError(f"epochs is {self.epochs!r}; give a number above 0")
        for name, least in (("max_length", 0), ("pass_tokens", 0), ("eval_prompts", 0), ("eval_new_tokens", 1)):
            check_whole(name, getattr(self, name), least)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        _ = self.lora()

    def lora(self, extra: tuple[str, ...] = ()) -> LoraSettings:
        """The adapter that is asked for; ``extra`` are modules that the task trains whole.

        Raises:
            UserError: a setting out of range.
        """
        named = self.targets in ("all-linear", "peft")
        return LoraSettings(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.lora_dropout,
            targets=self.targets if named else _names(self.targets),
            rslora=self.rslora,
            dora=self.dora,
            bias=self.lora_bias,  # type: ignore[arg-type]
            extra=tuple(dict.fromkeys((*_names(self.train_modules), *extra))),
            layers=_blocks(self.lora_layers),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_CHOICES: dict[str, tuple[str, ...]] = {
    "layout": get_args(Layout),
    "loss_on": get_args(LossOn),
    "base_bits": get_args(Bits),
}


def check_method(name: str) -> Method:
    """``name`` itself.

    Raises:
        UserError: there is no such method.
    """
    if name not in get_args(Method):
        raise UserError(f"there is no method {name!r}; choose one of: {', '.join(get_args(Method))}")
    return name  # type: ignore[return-value]


def usual_pass_tokens(method: Method, task: str, device: str) -> int:
    """Tokens of a pass on a kind of device, unless told otherwise."""
    if device != "cpu":
        return GPU_PASS_TOKENS
    return EMBED_PASS_TOKENS if task == "embed" else PASS_TOKENS[method]


def tuned_train_config(method: Method, steps: int, given: dict[str, Any], per_epoch: int) -> TrainConfig:
    """The settings of a training of so many steps, the method's defaults where nothing is given.

    Raises:
        UserError: a value out of range.
    """
    settings = COMMON | DEFAULTS[method] | {"warmup_steps": round(WARMUP * steps), "eval_every": per_epoch} | given
    return TrainConfig(**{**settings, "steps": steps})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _blocks(text: str) -> tuple[int, ...] | None:
    """``0-2,5`` -> (0, 1, 2, 5)."""
    found: list[int] = []
    for part in _names(text):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or not int(first) <= int(last or first) <= 9999:
            raise UserError(f"lora_layers is {text!r}; write numbers of blocks from 0, such as 0-5,8")
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found)) or None


def upper_blocks(layers: int) -> str:
    """As ``lora_layers``, all but the lowest eighth of a model's blocks: those read words as they always have, and
    without gradients there a step is a tenth shorter."""
    return f"{layers // 8}-{layers - 1}"
