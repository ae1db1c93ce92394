"""Secrets that are taken out of what is written down: keys, passwords, tokens, whoever said them."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from scratchlm.errors import UserError

MARK = "[secret]"
_LEAST, _LEAST_NAMED = 8, 4
"""Characters of an environment variable's value, and of a secret that the user names, below which it is none."""
_NAMES = re.compile(
    r"KEY|TOKEN|SECRET|PASSW(OR)?D|PASSPHRASE|PASSWD|CREDENTIAL|PRIVATE|COOKIE|DSN|(^|_)(PASS|PWD|PAT|AUTH)(_|$)",
    re.IGNORECASE,
)
_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk|pk|rk)[-_](?:[A-Za-z]+[-_])*[A-Za-z0-9_-]{16,}"
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|hf_|npm_|pypi-|dop_v1_|xox[abeprs]-|ya29\.|AIza)[A-Za-z0-9_.-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    re.DOTALL,
)
_SAID = re.compile(
    r"""(\b(?:\w*(?:api|access|secret|private)[_-]?key|\w*secret|\w*passw(?:or)?d|\w*passphrase|\w*token|bearer|basic)
    [\\"']{0,4}(?:\s*[:=]\s*|\s+(?=\S{20}))[\\"']{0,4}(?:bearer\s+|basic\s+)?)([^\s"',;}\\]{6,})""",
    re.IGNORECASE | re.VERBOSE,
)
_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)")


class Redactor:
    """Puts a mark in the place of secrets.

    What counts as one: the values that the caller names, those of environment variables whose names speak of keys,
    tokens or passwords (also as JSON, in a URL and in base64), the usual forms of keys, and what stands behind
    ``password=`` and its like. It cannot know what nothing gives away.

    Raises:
        UserError: a secret of fewer than 4 characters, which would be taken out of every other word.
    """

    def __init__(self, secrets: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        if any(len(secret) < _LEAST_NAMED for secret in secrets):
            raise UserError(f"a secret to be left out has fewer than {_LEAST_NAMED} characters; give a longer one")
        known = set(secrets)
        for name, value in (os.environ if environment is None else environment).items():
            if _NAMES.search(name) and len(value) >= _LEAST and not value.startswith("/"):
                known.add(value)
        spelled = {form for secret in known for form in _spellings(secret)}
        longest = sorted(spelled, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest))) if longest else None

    def known(self, text: str) -> str:
        """The text without the values that were named, and otherwise as it is."""
        return text if self._known is None else self._known.sub(MARK, text)

    def text(self, text: str) -> str:
        """The text without secrets."""
        text = self.known(text)
        text = _FORMS.sub(MARK, text)
        text = _IN_URL.sub(rf"\1{MARK}", text)
        return _SAID.sub(lambda found: found[0] if MARK in found[2] else f"{found[1]}{MARK}", text)

    def __call__(self, value: Any) -> Any:
        """The same of all texts in a value, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._member(str(key), one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self(one) for one in value]
        return value

    def _member(self, key: str, value: Any) -> Any:
        named = isinstance(value, str) and len(value) >= 6 and _SAID.search(f"{key}={value}")
        return MARK if named and not value.isspace() else self(value)


def _spellings(secret: str) -> set[str]:
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    twice = {json.dumps(one)[1:-1] for one in escaped}
    encoded = {base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex()}
    return {secret, quote(secret, safe=""), *escaped, *twice, *encoded}
