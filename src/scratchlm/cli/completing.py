"""What a shell offers where a name is to be typed."""

from __future__ import annotations


def model_names(incomplete: str) -> list[str]:
    """The catalogue's models and the presets that begin so. Folders the shell knows itself."""
    try:
        from scratchlm.checkpoints.catalogue import entries
        from scratchlm.models.presets import PRESETS

        return sorted(name for name in {*entries(), *PRESETS} if name.startswith(incomplete))
    except Exception:  # a shell that completes has no place for an error
        return []
