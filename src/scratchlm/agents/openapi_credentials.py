"""The keys, tokens and passwords that an OpenAPI document asks for, from environment variables."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from scratchlm.agents.openapi_document import Document
from scratchlm.agents.openapi_request import Credential
from scratchlm.errors import UserError

VARIABLE = "SCRATCHLM_KEY_"
"""What the variables' names begin with; the rest is the security scheme's."""
_SHORTEST = 4
"""Characters of a credential at least; a shorter one could not be taken out of texts."""


def credentials_of(
    document: Document, operation: Mapping[str, Any], where: str, environment: Mapping[str, str]
) -> list[Credential]:
    """What an operation is called with: of the first alternative whose variables are all set; nothing where it may be
    called without.

    Args:
        operation: as the document has it; ``where`` is its name in errors.

    Raises:
        UserError: a variable is not set or holds none, or the document asks for what cannot be sent.
    """
    where = f"{where}, security"
    alternatives = document.listed(operation.get("security", document.content.get("security")), where)
    if not alternatives:
        return []
    reasons: list[str] = []
    open_to_all = False
    for alternative in alternatives:
        wanted = document.mapping(alternative, where)
        open_to_all = open_to_all or not wanted
        try:
            found = [_credential(document, str(scheme), where, environment) for scheme in wanted]
        except UserError as error:
            reasons.append(str(error))
            continue
        if found:
            return found
    if open_to_all:
        return []
    raise UserError(reasons[0])


def _credential(document: Document, scheme: str, where: str, environment: Mapping[str, str]) -> Credential:
    components = document.mapping(document.content.get("components") or {}, "components")
    schemes = document.mapping(components.get("securitySchemes") or {}, "components, securitySchemes")
    if scheme not in schemes:
        raise UserError(f"{document.name}, {where}: there is no security scheme {scheme}; mend the document")
    known = document.mapping(schemes[scheme], f"securitySchemes, {scheme}")
    kind, form = str(known.get("type")), str(known.get("scheme", "")).lower()
    variable = VARIABLE + re.sub(r"[^A-Z0-9]", "_", scheme.upper())
    basic = kind == "http" and form == "basic"
    if kind not in ("apiKey", "oauth2", "openIdConnect") and not basic and (kind, form) != ("http", "bearer"):
        raise UserError(f"its security scheme {scheme} ({form or kind}) is not one that can be used")
    value = environment.get(variable, "")
    if not value:
        form = "user:password" if basic else "the key" if kind == "apiKey" else "the token"
        raise UserError(f"it needs the credential {scheme}; set the environment variable {variable} to {form}")
    if len(value) < _SHORTEST or not value.isascii() or not value.isprintable() or (basic and ":" not in value):
        raise UserError(
            f"the environment variable {variable} holds no credential: it has to be of at least "
            f"{_SHORTEST} printable ASCII characters{' with a : between user and password' if basic else ''}"
        )
    if basic:
        password = value.partition(":")[2]
        hidden = (value, *([password] if len(password) >= _SHORTEST else []))
        return Credential("header", "Authorization", f"Basic {base64.b64encode(value.encode()).decode()}", hidden)
    if kind != "apiKey":
        return Credential("header", "Authorization", f"Bearer {value}", (value,))
    place, name = str(known.get("in")), str(known.get("name") or "")
    if place not in ("header", "query", "cookie") or not re.fullmatch(r"[!-~]+", name):
        raise UserError(f"{document.name}: the security scheme {scheme} does not say where its key goes")
    return Credential(place, name, value, (value,))
