"""Entry point of ``vla``: finds the subcommand, parses its options, maps errors to exit codes.

Exit codes: 0 done, 1 the check failed (diverged, unsafe, below bar), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from cli.output import print_json
from controllers.names import unknown_name

# name -> what it does. Each is a module cli.<name> with a frozen dataclass `Options` and `main(options) -> int`
# (and `parse(arguments)` where tyro needs help);
# it is imported only when it is asked for, so that `vla replay` never loads torch.
COMMANDS = {
    "doctor": "check this machine and explain what it can do",
    "run": "run one episode: a policy drives the arm through tokens, controller and safety",
    "eval": "run many episodes and report success rates with intervals",
    "preflight": "check that a policy means what the robot's stack means",
    "replay": "re-execute logged episodes and compare every tick, or ask what would have been",
    "diff": "compare two episodes tick by tick",
    "query": "find episodes by what happened in them",
    "serve": "serve a policy over websockets, to openpi clients and to other machines",
    "collect": "record expert episodes with labels to train on",
    "train": "train the compact VLA, or fine-tune OpenVLA with LoRA, on recorded episodes and LeRobotDatasets",
    "up": "start the stack as ROS 2 nodes: simulated, on a robot, or from a recorded episode",
    "latency": "write a recorded episode's latencies as a trace to run others with",
    "bench": "measure a part of the stack beside a reference",
    "safety": "look at and try out the safety layer",
    "view": "look at an episode on a web page: scrub, play, scene, cameras, tokens, forces, margins",
    "export": "write episodes in another format: lerobot, mcap, rerun, mp4, csv",
    "import": "make episodes of a LeRobotDataset or of ROS 2 bags",
}


@dataclass(frozen=True, slots=True)
class _Failure:
    """What ``--json`` prints when the input was refused."""

    error: str


def main(arguments: list[str] | None = None) -> None:
    """Run ``vla`` and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run ``vla`` with ``arguments`` and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help()
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"vla: {unknown_name('command', name, list(COMMANDS))}", file=sys.stderr)
        return 2
    _choose_renderer()
    try:
        module = importlib.import_module(f"cli.{name}_" if keyword.iskeyword(name) else f"cli.{name}")
        if hasattr(module, "parse"):
            return module.main(module.parse(rest))
        options = tyro.cli(module.Options, args=rest, prog=f"vla {name}", description=module.__doc__)
        return module.main(options)
    except SystemExit as stop:  # tyro: --help is 0, a bad option is 2
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print(f"\nvla {name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("VLA_DEBUG"):
            raise
        print(f"vla {name}: {error}", file=sys.stderr)
        if "--json" in rest:
            print_json(_Failure(str(error)))
        return 1 if isinstance(error, RuntimeError) else 2


def _choose_renderer() -> None:
    """Outside make, take the headless GL back end that the set-up found to work; MuJoCo reads it at import."""
    chosen = Path(sys.prefix) / "vla-gl"
    if chosen.is_file():
        os.environ.setdefault("MUJOCO_GL", chosen.read_text().strip())


def _print_help() -> None:
    print("usage: vla COMMAND [OPTIONS]    (vla COMMAND --help lists the options)\n")
    for name, text in COMMANDS.items():
        print(f"  {name:<9} {text}")
    print("\nexit codes: 0 done, 1 the check failed, 2 bad input; VLA_DEBUG=1 shows tracebacks")


if __name__ == "__main__":
    main()
