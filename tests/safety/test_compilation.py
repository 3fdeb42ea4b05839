"""Nothing is compiled, or loaded from the cache, once the loop runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_PROGRAM = """
import importlib, json, pkgutil
import numpy as np
import safety.kernel
from controllers.robot import load_robot
from controllers.types import CommandMode, OperatorEvent
from safety.building import build_filter
from tests.safety.helpers import Arm, sensed
from tests.safety.world import everything

SCALE = {CommandMode.VELOCITY: 1.0, CommandMode.TORQUE: 40.0}

def loaded():
    found = {}
    for entry in pkgutil.iter_modules(safety.kernel.__path__):
        module = importlib.import_module(f"safety.kernel.{entry.name}")
        for name, function in vars(module).items():
            if hasattr(function, "signatures") and function.__module__ == module.__name__:
                found[f"{entry.name}.{name}"] = len(function.signatures)
    return found

built = build_filter(load_robot("panda"), everything("panda"))
before, rng, statuses = loaded(), np.random.default_rng(0), set()
for mode in (CommandMode.POSITION, CommandMode.VELOCITY, CommandMode.TORQUE):
    arm = Arm.at("panda", mode, built=built)
    values, drift = (arm.q.copy() if mode is CommandMode.POSITION else np.zeros(7)), np.zeros(7)
    for tick in range(400):
        drift = 0.98 * drift + rng.normal(size=7) * 0.1 * (tick > 40)
        values = values + drift * 0.005 if mode is CommandMode.POSITION else drift * SCALE[mode]
        force = rng.normal(size=3) * (900.0 if tick == 395 else 60.0 if tick % 100 > 80 else 1.0)
        events = (OperatorEvent.ACKNOWLEDGE,) if tick % 50 == 49 else ()
        asked = np.full(7, np.nan) if tick % 90 > 80 else values
        result = arm.step(asked, events=events, state=arm.state(force=force))
        if mode is CommandMode.TORQUE:
            arm.q, arm.qd = arm.memory.position.copy(), arm.memory.velocity.copy()
        statuses.add(result.status.value)
print(json.dumps([[name for name, count in loaded().items() if count != before[name]], sorted(statuses)]))
"""


@pytest.mark.slow
def test_nothing_is_compiled_after_the_filter_is_built() -> None:
    found = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True).stdout
    late, statuses = json.loads(found.splitlines()[-1])
    assert late == []
    assert {"run", "limiting", "hold", "protective_stop"} <= set(statuses)
