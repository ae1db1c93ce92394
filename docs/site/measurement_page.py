"""The page of all measurements, from the files that the benchmarks wrote."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks" / "report.py")
assert _spec is not None
assert _spec.loader is not None
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """The fields of a result, those inside others by a dotted name; of lists their lengths, as they are long."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        return [(name, f"{len(value)} entries")]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value)))]
    return [(name, f"{value:.6g}" if isinstance(value, float) else str(value))]


def pages() -> dict[str, str]:
    """``benchmarks.md``: the table of [Speed](speed.md), and below it each file, field by field."""
    lines = ["# Benchmarks", "", "How these are measured is told in [Speed](speed.md).", ""]
    lines += [report.render(report.read_results())]
    for path in sorted(report.RESULTS.glob("*.json")):
        lines += [
            "",
            f"## {path.stem}",
            "",
            f"`benchmarks/results/{path.name}`",
            "",
            "| field | value |",
            "| --- | --- |",
        ]
        for name, value in _flat(json.loads(path.read_text(encoding="utf-8"))):
            shown = value.replace("|", "\\|").replace("\n", " ")
            lines.append(f"| `{name}` | {shown} |")
    return {"benchmarks.md": "\n".join(lines) + "\n"}
