"""What is told where an optional package is missing."""

from __future__ import annotations

from importlib.util import find_spec

from scratchlm.errors import UserError


class MissingExtra(UserError, ImportError):  # noqa: N818
    """A package is missing that an extra of scratchlm installs. It is an ImportError too, as an import raises it."""


def need(extra: str, *packages: str) -> None:
    """See that what an extra installs is there.

    Raises:
        MissingExtra: a package is not installed; the line has the command that installs it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(f"{package} is missing; run: pip install 'scratchlm[{extra}]'")
