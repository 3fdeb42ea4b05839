"""What the commands print: one JSON object as the last line of stdout under ``--json``, tables otherwise."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from rich.console import Console

# Progress and tables go to stderr: stdout belongs to the JSON line.
console = Console(stderr=True)


def print_json(record: object) -> None:
    """Print a dataclass as one line of JSON on stdout; non-finite numbers become null."""
    print(json.dumps(jsonable(record), sort_keys=False), flush=True)


def jsonable(value: object) -> Any:
    """Reduce dataclasses, tuples and numbers to what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
