"""Real episodes, recorded once for all tests of exchange."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three short episodes of the expert in the simulator, with two small cameras."""
    from sim.assembly import default_config
    from sim.rollout import ExpertSource, run_episode

    folder = tmp_path_factory.mktemp("recorded")
    config = replace(default_config(), cameras={"workspace": (64, 64), "wrist": (64, 64)})
    names = [run_episode("reach", seed, ExpertSource(), config, out_dir=folder).episode for seed in (1, 2, 3)]
    return [folder / name for name in names]
