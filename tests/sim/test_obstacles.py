"""Obstacles: placed from the seed, never overlapping, enclosed by their zones, watched, and replayed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from controllers.robot import load_robot
from controllers.types import CommandMode, JointCommand
from episodes.reader import open_episode
from episodes.replay import replay
from safety.profile.zones import BoxZone, CapsuleZone, CylinderZone, HalfSpaceZone, SphereZone
from sim.assembly import SimCell, assemble_sim, default_config, episode_config, rebuild_for_replay
from sim.experts.detour import Detour
from sim.experts.motion import Aim, Hand
from sim.obstacles.collisions import CollisionMonitor
from sim.obstacles.geometry import distances, hulls_of, zone_top
from sim.obstacles.kinds import sample_obstacle
from sim.obstacles.options import ObstacleOptions
from sim.obstacles.placement import STATION_CLEARANCE_M
from sim.obstacles.routes import ROUTED_TASKS, NoRouteError
from sim.rollout import ExpertSource, run_episode
from sim.stack import StackConfig, StackConfigError
from sim.tasks.physics import ROBOT_CONTYPE

BARE = replace(default_config(), cameras={})
UNSAFE = replace(BARE, safety=None, safety_off_reason="test")


def with_obstacles(level: str, base: StackConfig = UNSAFE) -> StackConfig:
    return replace(base, obstacles=ObstacleOptions(level=level))


def arm_to(cell: SimCell, x: float, y: float, z: float, seconds: float) -> CollisionMonitor:
    """Drive the arm's servos to a posture that reaches (x, y, z), and watch."""
    robot = cell.robot
    monitor = CollisionMonitor(robot.model, robot.data, cell.obstacles.obstacles)
    arm, _ = hulls_of(robot.description)
    arm.go_home()
    assert arm.reach(x, y, z, 0.0, iterations=200)
    goal, start = arm.data.qpos[: robot.description.n].copy(), robot.read().joint_position
    ticks = round(seconds * robot.control_rate_hz)
    for tick in range(ticks):
        share = min(1.0, (tick + 1) / (0.8 * ticks))
        robot.write(JointCommand(CommandMode.POSITION, start + share * (goal - start), 0.08, robot.now_ns))
        monitor.observe()
    return monitor


# ---------------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize("task", ROUTED_TASKS)
def test_equal_seeds_place_equal_obstacles_and_others_differ(task: str) -> None:
    config = with_obstacles("both")
    first, again, other = (assemble_sim(config, task, seed) for seed in (5, 5, 6))
    assert first.obstacles == again.obstacles
    assert first.scene.xml == again.scene.xml
    assert first.obstacles != other.obstacles


@pytest.mark.parametrize("level", ["I", "II", "both"])
@pytest.mark.parametrize("task", ROUTED_TASKS)
def test_obstacles_stand_clear_of_everything_and_stay(task: str, level: str) -> None:
    cell = assemble_sim(with_obstacles(level), task, 3)
    model, data = cell.robot.model, cell.robot.data
    bodies = [model.body(obstacle.name).id for obstacle in cell.obstacles.obstacles]
    assert len(bodies) == (2 if level == "both" else 1)
    table = model.geom("table").id
    for _ in range(200):
        mujoco.mj_step(model, data)
        for contact in data.contact.geom:
            owners = model.geom_bodyid[contact]
            assert not np.isin(owners, bodies).any() or table in contact
    for body, obstacle in zip(bodies, cell.obstacles.obstacles, strict=True):
        assert np.linalg.norm(data.xpos[body][:2] - obstacle.xy) < 1e-3
        assert data.xmat[body][8] > math.cos(math.radians(0.5))


@pytest.mark.parametrize("seed", range(4))
def test_zones_enclose_the_obstacle_with_the_margin(seed: int) -> None:
    cell = assemble_sim(with_obstacles("both"), "pick_up", seed)
    model, data = cell.robot.model, cell.robot.data
    bodies = [model.body(obstacle.name).id for obstacle in cell.obstacles.obstacles]
    rng = np.random.default_rng(seed)
    for geom in np.flatnonzero(np.isin(model.geom_bodyid, bodies)):
        directions = rng.normal(size=(300, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        kind, size = model.geom_type[geom], model.geom_size[geom]
        if kind == mujoco.mjtGeom.mjGEOM_BOX:
            local = directions / np.abs(directions / size).max(axis=1, keepdims=True)
        elif kind == mujoco.mjtGeom.mjGEOM_SPHERE:
            local = directions * size[0]
        else:
            radial = directions[:, :2] / np.linalg.norm(directions[:, :2], axis=1, keepdims=True)
            local = np.column_stack([radial * size[0], rng.choice([-1.0, 1.0], 300) * size[1]])
        surface = data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T
        inside = np.min([distances(zone, surface) for zone in cell.obstacles.zones], axis=0)
        assert inside.max() < -0.0005  # things sink into the table by a part of the margin


def test_sizes_are_those_of_household_things() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        obstacle = sample_obstacle("obstacle_0", rng)
        widths = [2.0 * part.half_width for part in obstacle.hulls]
        assert 0.049 <= max(widths) <= 0.091
        assert 0.08 <= obstacle.height <= 0.25


@pytest.mark.parametrize("task", ROUTED_TASKS)
def test_the_arm_starts_clear_of_the_zones(task: str) -> None:
    cell = assemble_sim(with_obstacles("both"), task, 11)
    arm, _ = hulls_of(load_robot("panda"))
    arm.go_home()
    assert arm.balls().clearance(cell.obstacles.zones) > STATION_CLEARANCE_M


def test_tasks_without_a_route_are_refused() -> None:
    with pytest.raises(NoRouteError, match="pick_up"):
        assemble_sim(with_obstacles("I"), "turn_lever", 0)


def test_scenes_without_obstacles_stay_what_they_were() -> None:
    plain = assemble_sim(BARE, "stack", 9)
    assert plain.obstacles.zones == ()
    assert episode_config(BARE, plain) is BARE
    assert "obstacle" not in plain.scene.xml


# ------------------------------------------------------------------------------------- the configuration


def test_the_configuration_is_logged_only_with_obstacles_and_read_back() -> None:
    assert "obstacles" not in BARE.to_json()
    config = with_obstacles("both", BARE)
    assert StackConfig.from_json(config.to_json()) == config != BARE
    with pytest.raises(StackConfigError, match="levle"):
        StackConfig.from_json({**config.to_json(), "obstacles": {"levle": "I"}})
    with pytest.raises(ValueError, match="I, II, both"):
        ObstacleOptions(level="III")


def test_an_episode_declares_its_own_zones_and_drops_those_of_another() -> None:
    config = with_obstacles("II", BARE)
    first, second = (assemble_sim(config, "stack", seed) for seed in (1, 2))
    own = episode_config(config, first)
    assert own.safety is not None
    assert BARE.safety is not None
    lasting = BARE.safety.keep_outs
    assert own.safety.keep_outs == lasting + first.obstacles.zones
    assert own.safety.carried_object is not None
    assert episode_config(own, first) == own
    later = episode_config(own, second)
    assert later.safety is not None
    assert later.safety.keep_outs == lasting + second.obstacles.zones


# -------------------------------------------------------------------------------------------- collisions


def test_a_contact_is_counted_when_the_arm_is_driven_into_an_obstacle() -> None:
    cell = assemble_sim(with_obstacles("II"), "pick_up", 1)
    (obstacle,) = cell.obstacles.obstacles
    found = arm_to(cell, *obstacle.xy, 0.5 * obstacle.height, 2.0).count()
    assert found.robot_contacts >= 1
    assert found.collisions >= 1


def test_nothing_is_counted_when_the_arm_stays_away() -> None:
    cell = assemble_sim(with_obstacles("II"), "pick_up", 1)
    found = arm_to(cell, 0.45, 0.0, 0.38, 1.0).count()
    assert (found.collisions, found.robot_contacts, found.object_contacts) == (0, 0, 0)


def test_an_obstacle_that_moved_counts_without_a_contact() -> None:
    cell = assemble_sim(with_obstacles("I"), "pick_up", 1)
    robot = cell.robot
    monitor = CollisionMonitor(robot.model, robot.data, cell.obstacles.obstacles)
    joint = robot.model.body(cell.obstacles.obstacles[0].name).jntadr[0]
    robot.data.qpos[robot.model.jnt_qposadr[joint]] += 0.002
    mujoco.mj_forward(robot.model, robot.data)
    monitor.observe()
    assert monitor.count().collisions == 1


def test_a_carried_object_that_touches_counts() -> None:
    cell = assemble_sim(with_obstacles("I"), "pick_up", 1)
    robot, (obstacle,) = cell.robot, cell.obstacles.obstacles
    monitor = CollisionMonitor(robot.model, robot.data, cell.obstacles.obstacles)
    block = cell.instance.arrangement.targets[0]
    first = robot.model.jnt_qposadr[robot.model.body(block).jntadr[0]]
    robot.data.qpos[first : first + 3] = [*obstacle.xy, obstacle.height + 0.018]
    mujoco.mj_forward(robot.model, robot.data)
    monitor.observe()
    assert monitor.count().object_contacts == 1
    assert monitor.count().robot_contacts == 0
    assert not (robot.model.geom_contype[robot.model.geom_bodyid == robot.model.body(block).id] & ROBOT_CONTYPE).any()


# ---------------------------------------------------------------------------------- geometry and detours


def test_distances_and_tops_of_zones() -> None:
    half, up = math.sqrt(0.5), (0.0, 0.0, 0.2)
    cases = [
        (SphereZone("a", (0.0, 0.0, 0.1), 0.05), [[0.1, 0.0, 0.1]], [0.05], 0.15),
        (BoxZone("b", (0.0, 0.0, 0.1), (0.1, 0.2, 0.1), (half, 0.0, 0.0, half)), [[0.3, 0.0, 0.1]], [0.1], 0.2),
        (CapsuleZone("c", (0.0, 0.0, 0.0), up, 0.05), [[0.0, 0.0, 0.3], [0.0, 0.0, 0.1]], [0.05, -0.05], 0.25),
        (CylinderZone("d", (0.0, 0.0, 0.0), up, 0.05), [[0.08, 0.0, 0.24], [0.0, 0.0, 0.19]], [0.05, -0.01], 0.2),
        (HalfSpaceZone("e", (1.0, 0.0, 0.0), 0.3), [[0.5, 0.0, 0.0]], [0.2], math.inf),
    ]  # fmt: skip
    for zone, points, expected, top in cases:
        assert distances(zone, np.array(points)) == pytest.approx(expected)
        assert zone_top(zone) == pytest.approx(top)


def test_a_detour_leaves_free_ways_alone_and_rises_before_a_zone() -> None:
    _, hull = hulls_of(load_robot("panda"))
    detour = Detour(hull, (CylinderZone("z", (0.45, 0.0, 0.0), (0.45, 0.0, 0.2), 0.04),))
    hand = Hand(0.45, -0.30, 0.12, 0.0, 0.08)
    away = Aim(0.45, -0.35, 0.12, 0.0, 1.0)
    assert detour.aim(hand, away, ()) is away
    across = detour.aim(hand, Aim(0.45, 0.30, 0.12, 0.3, 1.0), ())
    assert (across.x, across.y, across.yaw) == (0.45, -0.30, 0.0)
    assert across.z > 0.2
    high = detour.aim(replace(hand, z=across.z), Aim(0.45, 0.30, 0.12, 0.3, 1.0), ())
    assert (high.x, high.y, high.yaw, high.z) == (0.45, 0.30, 0.3, across.z)


@pytest.mark.parametrize("task", ["press_button", "place_in_bowl", "stack"])
@pytest.mark.slow
def test_the_expert_goes_around_what_the_blind_expert_may_hit(task: str) -> None:
    found = run_episode(task, 3, ExpertSource(), with_obstacles("II"))
    assert found.success
    assert found.collisions == 0


# ------------------------------------------------------------------------------------------------ replay


@pytest.mark.parametrize("base", [BARE, UNSAFE], ids=["filter", "off"])
def test_an_episode_with_obstacles_replays_identically(tmp_path: Path, base: StackConfig) -> None:
    config = with_obstacles("both", base)
    outcome = run_episode("press_button", 4, ExpertSource(blind=True), config, out_dir=tmp_path)
    episode = open_episode(tmp_path / outcome.episode)
    recorded = StackConfig.from_json(episode.manifest.stack)
    assert recorded.obstacles == config.obstacles
    if base.safety is not None:
        assert recorded.safety is not None
        assert recorded.safety.keep_outs
    found = replay(episode, rebuild_for_replay)
    assert found.identical, found.first_divergence
