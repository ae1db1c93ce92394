"""``scratchlm doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from scratchlm.cli.output import Json, print_json


def doctor(
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure how fast this machine is.")] = True,
    json: Json = False,
) -> None:
    """Say what this machine has, how fast it is, and what is wrong with it; exit 1 where something must be mended."""
    from scratchlm.doctor import examine

    found = examine(speed=speed)
    print_json(found) if json else _show(found)
    if found["broken"]:
        raise typer.Exit(1)


def _show(found: Mapping[str, Any]) -> None:
    device, cache = found["devices"], found["caches"]
    lines = [(name, value) for name, value in found["versions"].items()]
    lines += [
        ("processor", f"{device['cpu']}, {device['cores']} cores, {device['threads']} threads"),
        ("instructions", f"{device['instructions']}{', bf16' if device['bf16'] else ''}"),
        ("memory", f"{device['memory']} GiB, {device['memory_free']} free"),
        *(("GPU", f"{one['name']}, {one['memory']} GiB{', bf16' if one['bf16'] else ''}") for one in device["gpus"]),
        ("kernels", found["kernels"]),
        ("cache", f"{cache['folder']}, {cache['size']} GiB; {cache['disk_free']} GiB of disk free"),
        ("models", ", ".join(cache["models"]) or "none yet; see: scratchlm models list"),
    ]
    for extra, missing in found["extras"].items():
        cure = f"without {', '.join(missing)}; run: pip install 'scratchlm[{extra}]'"
        lines.append((f"[{extra}]", cure if missing else "installed"))
    units = {"products_fp32": "GFLOP/s", "products_bf16": "GFLOP/s", "copies": "GB/s"}
    for name, value in found.get("speed", {}).items():
        lines.append((name.replace("_", " "), f"{value} {units.get(name, 'tokens/s')}"))
    wide = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:{wide}}  {value}")
    print()
    for line in found["problems"]:
        print(f"problem: {line}")
    if not found["problems"]:
        print("no problems found")
