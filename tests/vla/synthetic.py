"""A flat toy world in the layout of recorded episodes: does a model find the thing that the words name?

Coloured shapes lie on a table; the instruction names colour and shape of one of them; the expert moves over it,
then closes the gripper. Distractors share the target's colour or its shape.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from controllers.types import (
    ActionSpace,
    ActionSpec,
    NormalizationStatistics,
    Observation,
    Pose,
    RobotState,
    frozen_array,
)
from vla.tokenizers import COMPACT_TOKENIZER

COLORS = {
    "red": (200, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 200),
    "yellow": (220, 200, 40),
    "purple": (140, 50, 160),
    "orange": (230, 130, 30),
}
SHAPES = ("circle", "square", "bar")
HALF_TABLE_M, WRIST_VIEW_M, STEP_M, REACHED_M = 0.25, 0.08, 0.010, 0.004
SIZE = 128


def toy_spec() -> ActionSpec:
    lower = [-STEP_M] * 3 + [-0.1] * 3 + [0.0]
    upper = [STEP_M] * 3 + [0.1] * 3 + [1.0]
    return ActionSpec(
        space=ActionSpace.EE_DELTA,
        frame="base",
        names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "fraction"),
        lower=frozen_array(lower),
        upper=frozen_array(upper),
        rate_hz=20,
        horizon=8,
        statistics=NormalizationStatistics(
            q01=frozen_array(lower), q99=frozen_array(upper), mask=(True,) * 6 + (False,)
        ),
    )


@dataclass
class ToyWorld:
    """One scene; ``position`` (2,) m and ``gripper`` (fraction open) change, the rest does not."""

    target: int
    places: np.ndarray
    colors: list[str]
    shapes: list[str]
    table: np.ndarray
    light: float
    position: np.ndarray
    gripper: float = 1.0

    @staticmethod
    def create(seed: int) -> ToyWorld:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 6))
        kinds = [(c, s) for c in COLORS for s in SHAPES]
        goal = kinds[rng.integers(len(kinds))]
        similar = [k for k in kinds if k != goal and (k[0] == goal[0] or k[1] == goal[1])]
        chosen = [goal, *(similar[i] for i in rng.permutation(len(similar))[: count - 1])]
        places: list[np.ndarray] = []
        while len(places) < count:
            place = rng.uniform(-0.2, 0.2, 2)
            if all(np.linalg.norm(place - other) > 0.07 for other in places):
                places.append(place)
        return ToyWorld(
            target=0,
            places=np.array(places),
            colors=[c for c, _ in chosen],
            shapes=[s for _, s in chosen],
            table=rng.uniform(90, 200) + rng.uniform(-25, 25, 3),
            light=rng.uniform(0.8, 1.1),
            position=rng.uniform(-0.2, 0.2, 2),
        )

    @property
    def instruction(self) -> str:
        return f"pick up the {self.colors[0]} {self.shapes[0]}"

    @property
    def offset(self) -> np.ndarray:
        return self.places[self.target] - self.position

    def render(self, center: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
        axis = np.linspace(-half, half, SIZE)
        xs, ys = np.meshgrid(axis + center[0], axis + center[1])
        image = np.broadcast_to(self.table, (SIZE, SIZE, 3)).copy()
        for place, color, shape in zip(self.places, self.colors, self.shapes, strict=True):
            dx, dy = xs - place[0], ys - place[1]
            if shape == "circle":
                inside = dx * dx + dy * dy < 0.018**2
            elif shape == "square":
                inside = np.maximum(abs(dx), abs(dy)) < 0.016
            else:
                inside = (abs(dx) < 0.026) & (abs(dy) < 0.010)
            image[inside] = COLORS[color]
        dx, dy = abs(xs - self.position[0]), abs(ys - self.position[1])
        finger = 0.012 + 0.012 * self.gripper
        image[(abs(dx - finger) < 0.004) & (dy < 0.012)] = (60, 60, 60)
        noisy = self.light * image + rng.normal(0, 4, image.shape)
        return noisy.clip(0, 255).astype(np.uint8)

    def chunk(self) -> np.ndarray:
        """(8, 7) expert actions from here."""
        position, rows = self.position.copy(), np.zeros((8, 7))
        for row in rows:
            offset = self.places[self.target] - position
            distance = np.linalg.norm(offset)
            step = offset * min(1.0, STEP_M / max(float(distance), 1e-9))
            row[:2], row[6] = step, float(distance > REACHED_M)
            position += step
        return rows

    def advance(self, rows: np.ndarray) -> None:
        for row in rows:
            self.position = self.position + row[:2]
            self.gripper = float(np.clip(row[6], 0.0, 1.0))

    def observe(self, stamp_ns: int, rng: np.random.Generator) -> Observation:
        pose = Pose(frozen_array([*self.position, 0.1]), frozen_array([0.0, 1.0, 0.0, 0.0]))
        state = RobotState(
            joint_position=frozen_array(np.zeros(7)),
            joint_velocity=frozen_array(np.zeros(7)),
            joint_effort=frozen_array(np.zeros(7)),
            ee_pose=pose,
            wrench=frozen_array(np.zeros(6)),
            gripper_opening=0.08 * self.gripper,
            stamp_ns=stamp_ns,
        )
        images = {
            "workspace": self.render(np.zeros(2), HALF_TABLE_M, rng),
            "wrist": self.render(self.position, WRIST_VIEW_M, rng),
        }
        return Observation(images, state, pose, self.instruction, stamp_ns)


def set_manifest(group: zarr.Group, manifest: dict[str, Any]) -> None:
    group.attrs["manifest"] = manifest


def change_manifest(path: Path, **changes: Any) -> None:
    group = zarr.open_group(str(path), mode="r+")
    manifest: Any = group.attrs["manifest"]
    set_manifest(group, {**manifest, **changes})


def write_episode(folder: Path, seed: int, frames: int | None = None, finished: bool = True) -> Path:
    """Record one expert episode with a few disturbances; ends two frames after the grasp."""
    rng, world, spec = np.random.default_rng(seed + 10**6), ToyWorld.create(seed), toy_spec()
    columns: dict[str, list[np.ndarray]] = {}
    closed, stamp = 0, 0
    while closed < 2 and (frames is None or stamp < frames * 100_000_000):
        observation = world.observe(stamp, rng)
        state, chunk = observation.state, world.chunk()
        pose = np.concatenate((state.ee_pose.position, state.ee_pose.quaternion))
        row = {
            "observations/stamp_ns": np.int64(stamp),
            "observations/images/workspace": observation.images["workspace"],
            "observations/images/wrist": observation.images["wrist"],
            "observations/present/workspace": np.bool_(True),
            "observations/present/wrist": np.bool_(True),
            "observations/commanded_pose": pose,
            "observations/ee_pose": pose,
            "observations/joint_position": state.joint_position,
            "observations/gripper_opening": np.float64(state.gripper_opening),
            "observations/wrench": state.wrench,
            "labels/stamp_ns": np.int64(stamp),
            "labels/tokens": COMPACT_TOKENIZER.encode(chunk, spec),
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(np.asarray(value))
        noisy = chunk[:2].copy()
        noisy[:, :2] += rng.normal(0, 0.002, (2, 2))
        world.advance(noisy)
        closed += int(chunk[1, 6] < 0.5)
        stamp += 100_000_000
    path = folder / f"toy_{seed:06d}.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    for name, values in columns.items():
        array = np.stack(values)
        stored = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=array.shape)
        stored[...] = array
    if finished:
        set_manifest(
            group,
            {
                "instruction": world.instruction,
                "task": f"pick_{world.shapes[0]}",
                "seed": seed,
                "closed": True,
                "outcome": {"success": True, "reason": "success", "ticks": 20 * stamp // 100_000_000},
                "action_spec": spec.to_json(),
                "tokenizer_id": COMPACT_TOKENIZER.tokenizer_id,
            },
        )
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write toy episodes")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=400)
    arguments = parser.parse_args()
    for number in range(arguments.episodes):
        write_episode(arguments.folder, number)
