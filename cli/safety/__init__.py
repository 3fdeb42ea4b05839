"""Look at and try out the safety layer."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import tyro

from controllers.names import unknown_name

# name -> what it does. Each is a module cli.safety.<name> with a frozen dataclass `Options` and `main(options) -> int`.
COMMANDS = {
    "show": "draw a profile's zones and print every limit in force",
    "fuzz": "attack the filter and judge the arm by an independent monitor",
    "press": "press the tool against surfaces and measure the force",
}


@dataclass(frozen=True)
class Options:
    """A subcommand and its own options."""

    name: str
    """Subcommand."""
    own: Any
    """Its options."""


def parse(arguments: list[str]) -> Options:
    """``NAME`` and the options of that subcommand.

    Raises:
        ValueError: No such subcommand.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: vla safety COMMAND [OPTIONS]    (vla safety COMMAND --help lists the options)\n")
        for name, text in COMMANDS.items():
            print(f"  {name:<9} {text}")
        raise SystemExit(0)
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise ValueError(unknown_name("safety command", name, COMMANDS))
    module = importlib.import_module(f"cli.safety.{name}")
    return Options(name, tyro.cli(module.Options, args=rest, prog=f"vla safety {name}", description=module.__doc__))


def main(options: Options) -> int:
    """Run the subcommand."""
    return importlib.import_module(f"cli.safety.{options.name}").main(options.own)
