"""Check this machine: packages, rendering, timing, permissions, weights; say what to do where something is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rich.table import Table

from cli.deadlines import measure_deadlines
from cli.output import console, print_json
from controllers.realtime import RealtimeOptions, realtime

_TIMING_S = 5.0


@dataclass(frozen=True)
class Options:
    """Options of ``vla doctor``."""

    json: bool = False
    """Print one JSON object as the last line of stdout."""


class Verdict(Enum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"  # works, with a restriction that is worth knowing
    FAIL = "fail"  # something the default job needs is missing


@dataclass(frozen=True, slots=True)
class Check:
    """One finding and, where it is not ok, what to do."""

    name: str
    verdict: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings; ``ok`` when nothing failed."""

    ok: bool
    checks: tuple[Check, ...]


def main(options: Options) -> int:
    """Run all checks; 1 when one failed."""
    checks = tuple(_guarded(check) for check in _CHECKS)
    diagnosis = Diagnosis(all(check.verdict != Verdict.FAIL.value for check in checks), checks)
    table = Table("check", "", "found", "what to do", title="vla doctor")
    colours = {"ok": "green", "note": "yellow", "fail": "red"}
    for check in checks:
        table.add_row(check.name, f"[{colours[check.verdict]}]{check.verdict}[/]", check.found, check.advice)
    console.print(table)
    if options.json:
        print_json(diagnosis)
    return 0 if diagnosis.ok else 1


def _guarded(check: Callable[[], Check]) -> Check:
    """A check that itself breaks is a finding, not a crash of the doctor."""
    try:
        return check()
    except Exception as error:
        return Check(check.__name__.strip("_"), Verdict.FAIL.value, f"{type(error).__name__}: {error}")


def _python() -> Check:
    return Check(
        "python", Verdict.OK.value, f"{platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
    )


def _packages() -> Check:
    names = ("torch", "mujoco", "numpy", "zarr", "gymnasium", "opencv-python-headless")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return Check("packages", Verdict.OK.value, ", ".join(versions))


def _own_packages() -> Check:
    import controllers
    import safety

    root = Path(__file__).resolve().parent.parent
    for module in (controllers, safety):
        where = Path(str(module.__file__)).resolve()
        if root not in where.parents:
            return Check(
                "our packages",
                Verdict.FAIL.value,
                f"{module.__name__} comes from {where}",
                f"another distribution owns the name; pip uninstall it, or run from {root.name}/",
            )
    return Check("our packages", Verdict.OK.value, "controllers, safety are ours")


def _optional() -> Check:
    present, absent = [], []
    for extra, name in (("ros", "ros-kilted-rclpy"), ("lerobot", "lerobot"), ("viz", "viser"), ("ray", "ray")):
        try:
            present.append(f"{extra} ({importlib.metadata.version(name)})")
        except importlib.metadata.PackageNotFoundError:
            absent.append(extra)
    advice = f"make setup EXTRAS={','.join(absent)}" if absent else ""
    return Check("extras", Verdict.NOTE.value if absent else Verdict.OK.value, ", ".join(present) or "none", advice)


def _rendering() -> Check:
    import mujoco

    backend = os.environ.get("MUJOCO_GL", "unset")
    spheres = "".join(
        f'<geom type="sphere" size=".03" pos="{i % 6 * 0.1 - 0.25} {i // 6 * 0.1 - 0.25} 0"/>' for i in range(36)
    )
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><visual><quality offsamples="0"/></visual>'
        f'<worldbody><light pos="0 0 2"/>{spheres}</worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    frames = 40
    try:
        with mujoco.Renderer(model, 224, 224) as renderer:
            renderer.update_scene(data)
            renderer.render()
            started = time.perf_counter()
            for _ in range(frames):
                renderer.render()
            rate = frames / (time.perf_counter() - started)
    except Exception as error:
        return Check(
            "rendering",
            Verdict.FAIL.value,
            f"MUJOCO_GL={backend}: {type(error).__name__}: {error}",
            "export MUJOCO_GL=egl (or osmesa), or run `make setup`, which installs what is missing",
        )
    return Check("rendering", Verdict.OK.value, f"MUJOCO_GL={backend}, 36 spheres at 224 px: {rate:.0f} frames/s")


def _timing() -> Check:
    """What rate the control loop holds here, at the present load."""
    found = measure_deadlines(_TIMING_S)
    priority = "with real-time priority" if found.realtime_priority else "without real-time priority"
    words = (
        f"{found.ticks} ticks at {found.rate_hz} Hz {priority}: begun {found.late_p50_ms:.3f} ms late at the median, "
        f"{found.late_p999_ms:.2f} ms at p99.9; a tick with its physics takes {found.tick_p50_ms:.2f} ms, "
        f"{found.tick_p999_ms:.2f} ms at p99.9; {found.missed} deadlines missed; "
        f"this load leaves room for {found.holds_hz} Hz"
    )
    if found.holds_hz < found.rate_hz:
        advice = f"lower the load, or run at {found.holds_hz} Hz" if found.holds_hz else "lower the load"
        return Check("timing", Verdict.NOTE.value, words, advice)
    return Check("timing", Verdict.OK.value, words)


def _realtime_priority() -> Check:
    with realtime(RealtimeOptions()) as grants:
        pass
    if grants.fifo and grants.locked:
        return Check("real-time priority", Verdict.OK.value, "SCHED_FIFO and locked memory permitted")
    granted = "SCHED_FIFO" if grants.fifo else "locked memory" if grants.locked else "neither"
    return Check("real-time priority", Verdict.NOTE.value, f"permitted: {granted}", grants.message)


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("accelerator", Verdict.OK.value, torch.cuda.get_device_name(0))
    return Check("accelerator", Verdict.NOTE.value, "none: policies run on the CPU", "")


def _weights() -> Check:
    from vla.catalog import build_policy

    policy = build_policy("compact")
    return Check("compact VLA", Verdict.OK.value, f"weights load; action spec {policy.spec.hash}")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    verdict = Verdict.OK if free > 5 else Verdict.NOTE
    advice = "" if free > 5 else "an hour of episodes with two cameras takes about 2 GB"
    return Check("disk", verdict.value, f"{free:.0f} GB free here", advice)


_CHECKS = (
    _python,
    _packages,
    _own_packages,
    _optional,
    _rendering,
    _timing,
    _realtime_priority,
    _accelerator,
    _weights,
    _disk,
)
