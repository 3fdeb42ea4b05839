"""Who may connect: loopback by default, a token for everything else."""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path

TOKEN_VARIABLE = "VLA_TOKEN"
MIN_TOKEN_LENGTH = 16


class AccessError(ValueError):
    """A way of serving or connecting that would be unsafe."""


def read_token(file: Path | None) -> str:
    """The token in a file, else in the environment variable ``VLA_TOKEN``, else none.

    Never an argument: every user of a machine sees the arguments of its processes.

    Raises:
        AccessError: The file cannot be read, or the token is short or not printable ASCII without spaces.
    """
    if file is None:
        token, place = os.environ.get(TOKEN_VARIABLE, ""), f"the variable {TOKEN_VARIABLE}"
        if not token:
            return ""
    else:
        try:
            token, place = file.read_text().strip(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise AccessError(f"cannot read the token file: {error}") from error
    printable = token.isascii() and token.isprintable() and " " not in token
    if len(token) < MIN_TOKEN_LENGTH or not printable:
        raise AccessError(
            f"{place}: expected a token of at least {MIN_TOKEN_LENGTH} printable characters without spaces, found "
            f"{len(token)}; `python -c 'import secrets; print(secrets.token_urlsafe())'` makes one"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str) -> None:
    """Refuse to serve other machines without a token.

    Raises:
        AccessError: ``host`` is not loopback and there is no token.
    """
    if not token and not is_loopback(host):
        raise AccessError(
            f"expected a token to serve on {host or 'all addresses'!r}, which other machines can reach; found none: "
            f"give --token-file or {TOKEN_VARIABLE}, or serve on 127.0.0.1"
        )


def authorized(header: str | None, token: str) -> bool:
    """Whether an ``Authorization`` header carries the token, as ``Api-Key`` (openpi-client) or ``Bearer``."""
    if not token:
        return True
    scheme, _, found = (header or "").partition(" ")
    known = scheme in ("Api-Key", "Bearer")
    return hmac.compare_digest(found.strip().encode(), token.encode()) and known
