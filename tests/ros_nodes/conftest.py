"""What tests of the graph share."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A domain of this test's own: workers beside it are not heard."""
    environment = {
        "ROS_DOMAIN_ID": str(random.SystemRandom().randrange(1, 100)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONPATH": str(ROOT),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment
