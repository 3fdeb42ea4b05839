"""Measure a part of the stack beside a reference."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import tyro
from rich.table import Table

from cli.output import console, jsonable, print_json
from controllers.names import unknown_name

BENCHMARKS = (
    "tick",
    "filter",
    "chunking",
    "doubt",
    "safe_stop",
    "inference",
    "replay",
    "keepouts",
    "tokenizers",
    "exchange",
    "serving",
    "preflight",
    "jitter",
    "policy-faults",
    "ros",
    "ros-episodes",
    "ros-faults",
    "log",
    "crash",
    "tampering",
)


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench``."""

    name: str
    """Benchmark."""
    bench: Any
    """Its own options."""
    json: bool
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True)
class _Output:
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def parse(arguments: list[str]) -> Options:
    """``NAME`` and the options of that benchmark.

    Raises:
        ValueError: No such benchmark.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: vla bench NAME [OPTIONS]\n\nNAME is one of: {', '.join(BENCHMARKS)}")
        raise SystemExit(0)
    name, rest = arguments[0], arguments[1:]
    if name not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", name, BENCHMARKS))
    module = importlib.import_module(_module(name))
    kind = tyro.conf.OmitArgPrefixes[tuple[module.Options, _Output]]
    bench, output = tyro.cli(kind, args=rest, prog=f"vla bench {name}", description=module.__doc__)
    return Options(name, bench, output.json)


def main(options: Options) -> int:
    """Measure and print."""
    result = importlib.import_module(_module(options.name)).run(options.bench)
    table = Table("figure", "value", title=f"vla bench {options.name}")
    for name, value in jsonable(result).items():
        if _is_rows(value):
            console.print(_rows_table(name, value))
        else:
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)
    if options.json:
        print_json(result)
    return 0


def _module(name: str) -> str:
    return f"benchmarks.{name.replace('-', '_')}"


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def _rows_table(name: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(*rows[0], title=name)
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    return table
