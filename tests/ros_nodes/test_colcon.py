"""The repository as an ament_python package: colcon builds it, and ament finds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ros_nodes.graph import NodeName

ROOT = Path(__file__).parents[2]
pytest.importorskip("colcon_core", reason="needs colcon-common-extensions, of the extra 'full'")
pytest.importorskip("ament_index_python", reason="needs the extra 'ros'")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_colcon_builds_the_package_and_ament_finds_it(tmp_path: Path) -> None:
    colcon = shutil.which("colcon", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert colcon is not None
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [
            colcon, "--log-base", str(tmp_path / "log"), "build", "--base-paths", str(ROOT),
            "--packages-select", "vla_stack", "--build-base", str(tmp_path / "build"),
            "--install-base", str(tmp_path / "install"),
        ],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    prefix = tmp_path / "install" / "vla_stack"
    code = (
        "from ament_index_python import get_package_prefix, get_package_share_directory as share\n"
        "print(get_package_prefix('vla_stack')); print(share('vla_stack'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "AMENT_PREFIX_PATH": str(prefix)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(prefix), str(prefix / "share" / "vla_stack")]
    for name in NodeName:
        assert os.access(prefix / "lib" / "vla_stack" / name.value, os.X_OK)
    for name in ("sim", "robot", "replay"):
        assert (prefix / "share" / "vla_stack" / "launch" / f"{name}.launch.py").is_file()
        assert (prefix / "share" / "vla_stack" / "config" / f"{name}.yaml").is_file()
