"""What `import` and the command line find is this repository, whole and nothing else."""

import importlib
import importlib.metadata
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["benchmarks", "cli", "controllers", "episodes", "ros_nodes", "safety", "sim", "vla"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_ours(name: str):
    """Other distributions install a top-level `safety`, too."""
    package = importlib.import_module(name)
    assert package.__file__ is not None, f"{name}/__init__.py is missing"
    assert Path(package.__file__).is_relative_to(ROOT)


def test_every_package_is_listed():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    listed = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert folders == listed == set(PACKAGES)


def test_every_folder_of_code_is_a_package():
    """A folder without `__init__.py` works in a checkout and is missing from the wheel."""
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", ["__init__.py", "launch.py"])
def test_launch_folder_does_not_hide_ros_launch(name: str):
    assert not (ROOT / "launch" / name).exists()


def test_installed_version_is_the_declared_one():
    assert importlib.metadata.version("vla-stack") == PROJECT["project"]["version"]


def test_vla_command_is_installed():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="vla")
    assert callable(command.load())
    assert Path(sysconfig.get_path("scripts"), "vla").exists()


def test_lock_files_name_no_host_and_no_path():
    for name in ("requirements.lock", "constraints.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert line.startswith("#") or "==" in line
            assert "://" not in line
