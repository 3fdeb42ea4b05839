"""The hull capsules of every arm contain what can collide, at every opening, and home keeps clear of itself."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import yaml

from controllers.robot import BUILT_IN_ROBOTS, Capsule, RobotDescription, load_robot
from controllers.types import FloatArray

TOLERANCE_M = 1e-3
LARGEST_COUNT = 10
SELF_COLLISION_DISTANCE_M = 0.01  # of every tabletop profile


class Hull:
    """An arm in MuJoCo, and where its capsules are."""

    def __init__(self, robot: RobotDescription) -> None:
        self.robot = robot
        self.model = mujoco.MjModel.from_xml_path(str(robot.model_path))
        self.data = mujoco.MjData(self.model)

    def pose(self, q: FloatArray, openness: float) -> None:
        self.data.qpos[: self.robot.n] = q
        for name in self.robot.gripper.joints:
            joint = self.model.joint(name).id
            lower, upper = self.model.jnt_range[joint]
            self.data.qpos[self.model.jnt_qposadr[joint]] = lower + openness * (upper - lower)
        mujoco.mj_kinematics(self.model, self.data)

    def colliding(self) -> list[int]:
        return [g for g in range(self.model.ngeom) if self.model.geom_contype[g] or self.model.geom_conaffinity[g]]

    def surface(self, geom: int, generator: np.random.Generator, count: int = 60) -> FloatArray:
        """(count, 3) points on a geom, world frame."""
        size = self.model.geom_size[geom]
        kind = mujoco.mjtGeom(int(self.model.geom_type[geom]))
        if kind == mujoco.mjtGeom.mjGEOM_BOX:
            points = generator.uniform(-1.0, 1.0, (count, 3))
            points[np.arange(count), generator.integers(0, 3, count)] = generator.choice([-1.0, 1.0], count)
            points[:8] = [[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
            points *= size
        elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
            angle = generator.uniform(-np.pi, np.pi, count)
            rim = generator.choice([-1.0, 1.0], count)
            points = np.stack([size[0] * np.cos(angle), size[0] * np.sin(angle), size[1] * rim], axis=1)
        else:
            assert kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_SPHERE)
            points = generator.normal(size=(count, 3))
            points *= size[0] / np.linalg.norm(points, axis=1, keepdims=True)
            if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
                points[:, 2] += size[1] * generator.uniform(-1.0, 1.0, count).round()
        return points @ self.data.geom_xmat[geom].reshape(3, 3).T + self.data.geom_xpos[geom]

    def segment(self, capsule: Capsule) -> tuple[FloatArray, FloatArray]:
        body = self.model.body(capsule.body).id
        place, turn = self.data.xpos[body], self.data.xmat[body].reshape(3, 3)
        return turn @ capsule.start + place, turn @ capsule.end + place

    def outside(self, points: FloatArray) -> FloatArray:
        """How far each point is outside of the union, negative inside."""
        distances: list[FloatArray] = []
        for capsule in self.robot.capsules:
            start, end = self.segment(capsule)
            along = end - start
            share = np.clip((points - start) @ along / max(float(along @ along), 1e-12), 0.0, 1.0)
            nearest = start + share[:, None] * along
            distances.append(np.linalg.norm(points - nearest, axis=1) - capsule.radius)
        return np.min(distances, axis=0)

    def joint_depth(self, capsule: Capsule) -> int:
        """How many arm joints lie between the base and a capsule."""
        body, depth = int(self.model.body(capsule.body).id), 0
        while body:
            names = [self.model.joint(j).name for j in range(self.model.njnt) if self.model.jnt_bodyid[j] == body]
            depth += sum(name in self.robot.joint_names for name in names)
            body = int(self.model.body_parentid[body])
        return depth


@pytest.fixture(scope="module", params=BUILT_IN_ROBOTS)
def hull(request: pytest.FixtureRequest) -> Hull:
    return Hull(load_robot(request.param))


def test_the_capsules_contain_every_colliding_geom_at_every_opening(hull: Hull):
    generator = np.random.default_rng(5)
    limits = hull.robot.limits
    worst: dict[str, float] = {}
    for openness in (0.0, 1.0, *generator.random(12)):
        hull.pose(generator.uniform(limits.position_lower, limits.position_upper), openness)
        for geom in hull.colliding():
            name = hull.model.geom(geom).name
            outside = float(hull.outside(hull.surface(geom, generator)).max())
            worst[name] = max(worst.get(name, -1.0), outside)
    assert {name: round(1e3 * value, 2) for name, value in worst.items() if value > TOLERANCE_M} == {}
    assert len(worst) >= 12


def test_the_hull_is_small(hull: Hull):
    assert len(hull.robot.capsules) <= LARGEST_COUNT
    depths = [hull.joint_depth(capsule) for capsule in hull.robot.capsules]
    assert depths == sorted(depths), "capsules are listed from base to tip"
    # What reaches to the table stays slim: the hull ends less than a centimetre beyond the fingertips.
    hull.pose(hull.robot.home, 0.5)
    hand = [(hull.segment(capsule), capsule.radius) for capsule in hull.robot.capsules if capsule.body == "hand"]
    lowest = min(float(min(start[2], end[2])) - radius for (start, end), radius in hand)
    fingertips = float(hull.data.site_xpos[hull.model.site("fingertips").id][2])
    assert fingertips - 0.01 < lowest < fingertips + TOLERANCE_M


def test_home_keeps_clear_of_itself(hull: Hull):
    hull.pose(hull.robot.home, 1.0)
    capsules = hull.robot.capsules
    for i, first in enumerate(capsules):
        for second in capsules[i + 1 :]:
            if hull.joint_depth(second) - hull.joint_depth(first) < 3:
                continue
            gap = _distance(*hull.segment(first), *hull.segment(second)) - first.radius - second.radius
            assert gap > 2.0 * SELF_COLLISION_DISTANCE_M, f"{first.name} and {second.name}"


def test_the_mesh_free_models_say_so(hull: Hull):
    assert hull.model.nmesh == 0
    data = yaml.safe_load((hull.robot.model_path.parent / "robot.yaml").read_text())
    assert tuple(data["capsules"]) == tuple(capsule.name for capsule in hull.robot.capsules)


def _distance(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> float:
    """Between two segments, by dense sampling."""
    shares = np.linspace(0.0, 1.0, 101)[:, None]
    first, second = a + shares * (b - a), c + shares * (d - c)
    return float(np.linalg.norm(first[:, None] - second[None], axis=2).min())
