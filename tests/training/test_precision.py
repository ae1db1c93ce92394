"""What a model computes in: what is asked for, and what this machine is fastest in."""

from __future__ import annotations

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.training import precision
from scratchlm.training.precision import autocast, fastest

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("able", "fp32", "bf16", "chosen"),
    [(True, 1.0, 0.5, "bf16"), (True, 1.0, 0.8, "fp32"), (True, 1.0, 2.0, "fp32"), (False, 1.0, 0.1, "fp32")],
)
def test_bf16_is_taken_where_it_is_there_and_clearly_faster(
    able: bool, fp32: float, bf16: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_arithmetic", lambda _: able)
    monkeypatch.setattr(precision, "_seconds", lambda kind: bf16 if kind == torch.bfloat16 else fp32)
    assert fastest(CPU) == chosen


def test_the_machine_is_really_tried() -> None:
    assert fastest(CPU) in ("bf16", "fp32")
    assert 0 < precision._seconds(torch.float32) < 10


def test_bf16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_arithmetic", lambda _: False)
    with pytest.raises(UserError, match=r"this cpu has no bf16 arithmetic; use precision=fp32"):
        autocast("bf16", CPU)
    with autocast("auto", CPU)():
        assert not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr(precision, "bf16_arithmetic", lambda _: True)
    with autocast("bf16", CPU)():
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    with autocast("auto", CPU)():
        assert not torch.is_autocast_enabled("cpu")
