"""Settings that must hold before any test imports numpy, torch or MuJoCo."""

import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings


def _gl_backend() -> str:
    """The back end that scripts/setup found to work here."""
    chosen = Path(sys.prefix, "vla-gl")
    return chosen.read_text().strip() if chosen.exists() else "egl"


os.environ.setdefault("MUJOCO_GL", _gl_backend())
# Two test processes share two cores: a second torch thread in each would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests of Ctrl-C need it back.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines, and no complaint about slow data: a busy machine is not a failing test.
settings.register_profile("dev", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), max_examples=100, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))
