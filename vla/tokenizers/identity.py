"""Definitions of tokenizers that an identity only names: canonical JSON, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def canonical(definition: Mapping[str, object]) -> str:
    """JSON text that is the same for equal definitions."""
    return json.dumps(definition, sort_keys=True, separators=(",", ":"))


def short_hash(definition: str) -> str:
    """First 12 hex digits of the SHA-256 of a definition's text."""
    return hashlib.sha256(definition.encode()).hexdigest()[:12]
