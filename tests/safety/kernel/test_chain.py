"""Compiled kinematics against MuJoCo and finite differences."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.robot import RobotDescription, load_robot
from controllers.types import FloatArray
from safety.kernel import chain, mjcf

ROBOTS = ("panda", "ur5e")
seeds = st.integers(0, 2**32 - 1)


@cache
def robot(name: str) -> RobotDescription:
    return load_robot(name)


@cache
def reference(name: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """MuJoCo's view of the arm, its fingers half open."""
    model = mujoco.MjModel.from_xml_path(str(robot(name).model_path))
    data = mujoco.MjData(model)
    for joint in robot(name).gripper.joints:
        data.qpos[model.joint(joint).qposadr[0]] = model.joint(joint).range.mean()
    return model, data


@cache
def arm(name: str) -> tuple[chain.Chain, chain.Points, tuple[str, ...]]:
    """The chain, and every site of the model as a point, the end effector first."""
    model, _ = reference(name)
    sites = [model.site(i).name for i in range(model.nsite)]
    sites.sort(key=lambda site: site != robot(name).end_effector_site)
    return mjcf.chain_of(robot(name)), mjcf.site_points(robot(name), sites), tuple(sites)


def posture(name: str, seed: int) -> tuple[FloatArray, FloatArray]:
    limits, rng = robot(name).limits, np.random.default_rng(seed)
    return rng.uniform(limits.position_lower, limits.position_upper), rng.normal(size=robot(name).n)


def geometry(name: str, q: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    links, points, _ = arm(name)
    n, k = links.n, len(points.link)
    # Filled with rubbish: all of the output must be written.
    frames, positions, jacobian = np.full((n, 18), 9.0), np.full((k, 3), 9.0), np.full((3 * k + 3, n), 9.0)
    chain.geometry(links.links, points.link, points.offset, q, frames, positions, jacobian)
    return frames, positions, jacobian


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds)
def test_links_sites_and_jacobians_are_mujocos(name: str, seed: int) -> None:
    model, data = reference(name)
    q, _ = posture(name, seed)
    data.qpos[: len(q)] = q
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    frames, positions, jacobian = geometry(name, q)
    alone = np.full_like(frames, 9.0)
    chain.forward(arm(name)[0].links, q, alone)
    assert (alone == frames).all()

    n, sites = len(q), arm(name)[2]
    for i, joint in enumerate(robot(name).joint_names):
        body = int(model.joint(joint).bodyid[0])
        np.testing.assert_allclose(frames[i, :9], data.xmat[body], rtol=0, atol=1e-12)
        np.testing.assert_allclose(frames[i, 9:12], data.xpos[body], rtol=0, atol=1e-12)
        np.testing.assert_allclose(frames[i, 12:15], data.xaxis[model.joint(joint).id], rtol=0, atol=1e-12)
        np.testing.assert_allclose(frames[i, 15:18], data.xanchor[model.joint(joint).id], rtol=0, atol=1e-12)
    linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    for k, site in enumerate(sites):
        index = model.site(site).id
        np.testing.assert_allclose(positions[k], data.site_xpos[index], rtol=0, atol=1e-12)
        mujoco.mj_jacSite(model, data, linear, angular, index)
        np.testing.assert_allclose(jacobian[3 * k : 3 * k + 3], linear[:, :n], rtol=0, atol=1e-12)
        if k == 0:
            np.testing.assert_allclose(jacobian[-3:], angular[:, :n], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds)
def test_jacobians_are_derivatives(name: str, seed: int) -> None:
    q, step = posture(name, seed)
    h = 1e-6
    k = len(arm(name)[1].link)
    difference = (geometry(name, q + h * step)[1] - geometry(name, q - h * step)[1]) / (2 * h)
    np.testing.assert_allclose((geometry(name, q)[2][: 3 * k] @ step).reshape(k, 3), difference, atol=1e-7)


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds, reach=st.floats(0.0, 1.0))
def test_a_sweep_is_three_postures_on_the_way(name: str, seed: int, reach: float) -> None:
    links, points, _ = arm(name)
    q, velocity = posture(name, seed)
    frames, swept = np.full((links.n, 18), 9.0), np.full((3, len(points.link), 3), 9.0)
    chain.sweep(links.links, points.link, points.offset, q, velocity, reach, frames, swept)
    for i in range(3):
        expected = geometry(name, q + velocity * (0.5 * i * reach))
        np.testing.assert_allclose(swept[i], expected[1], rtol=0, atol=1e-14)
        if i == 0:
            assert (frames == expected[0]).all()


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds, fraction=st.sampled_from([0.0, 0.5, 1.0]))
def test_points_of_bodies_move_with_them(name: str, seed: int, fraction: float) -> None:
    model, _ = reference(name)
    data = mujoco.MjData(model)
    for joint in robot(name).gripper.joints:
        low, high = model.joint(joint).range
        data.qpos[model.joint(joint).qposadr[0]] = low + fraction * (high - low)
    q, _ = posture(name, seed)
    data.qpos[: len(q)] = q
    mujoco.mj_kinematics(model, data)
    bodies = [model.body(i).name for i in range(1, model.nbody)]
    local = np.random.default_rng(seed).normal(size=(len(bodies), 3))
    points = mjcf.body_points(robot(name), bodies, local, fraction)
    assert points.link[0] == -1  # the base does not move

    frames, out = np.zeros((len(q), 18)), np.full((len(bodies), 3), 9.0)
    chain.forward(arm(name)[0].links, q, frames)
    chain.point_positions(frames, points.link, points.offset, out)
    for i, body in enumerate(bodies):
        index = model.body(body).id
        world = data.xpos[index] + data.xmat[index].reshape(3, 3) @ local[i]
        np.testing.assert_allclose(out[i], world, rtol=0, atol=1e-12)
    jacobian = np.full((3 * len(bodies), len(q)), 9.0)
    chain.point_jacobians(frames, points.link, out, jacobian)
    assert not jacobian[:3].any()


TWO_HINGES = '<joint name="a" axis="0 0 1" pos="0.1 0 0.2" ref="0.4"/><joint name="b" axis="1 2 0" pos="0 0.3 0"/>'
TAIL = '<joint name="c" axis="0 1 1" pos="0 0 0.1" damping="2" armature="0.3"/><geom size="0.1" pos="0 0.1 0"/>'


def made_up(folder: Path, body: str) -> RobotDescription:
    """A description whose model is not the Panda's; its gripper has no joints."""
    path = folder / "arm.xml"
    path.write_text(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    panda = robot("panda")
    return replace(panda, model_path=path, joint_names=("a", "b", "c"), gripper=replace(panda.gripper, joints=()))


def test_joints_off_centre_with_a_reference_and_sharing_a_body(tmp_path: Path) -> None:
    tip = f'<body name="tip" pos="0 0.5 0" quat="1 2 3 4">{TAIL}<site name="s" pos="0.1 0.2 0.3"/></body>'
    stand = '<body name="stand" pos="1 2 3" quat="4 3 2 1"><geom size="0.1"/>'
    xml = f'{stand}<body pos="0.2 0 0.1" quat="1 0 1 0">{TWO_HINGES}<geom size="0.2"/>{tip}</body></body>'
    description = made_up(tmp_path, xml)
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    data = mujoco.MjData(model)
    links, points = mjcf.chain_of(description), mjcf.site_points(description, ["s"])
    frames, out = np.zeros((3, 18)), np.zeros((1, 3))
    for seed in range(20):
        data.qpos[:] = np.random.default_rng(seed).normal(size=3)
        mujoco.mj_kinematics(model, data)
        chain.forward(links.links, np.array(data.qpos), frames)
        chain.point_positions(frames, points.link, points.offset, out)
        np.testing.assert_allclose(out[0], data.site_xpos[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(frames[:, 15:18], data.xanchor, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (f'<body>{TWO_HINGES}<geom size="1"/><body>{TAIL}<joint type="slide"/></body></body>', "also"),
        (f'<body>{TWO_HINGES}<geom size="1"/></body><body>{TAIL}</body>', "serial"),
        (f'<body>{TAIL}<body>{TWO_HINGES}<geom size="1"/></body></body>', "serial"),
        (
            f'<body>{TWO_HINGES}<geom size="1"/><body>{TAIL.replace("<joint", "<joint type='slide'")}</body></body>',
            "hinge",
        ),
        (f'<body><joint name="a" type="ball"/><geom size="1"/><body>{TAIL}</body></body>', "'b'"),
    ],
)
def test_other_arms_are_refused(tmp_path: Path, body: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        mjcf.chain_of(made_up(tmp_path, body))


def test_what_is_missing_or_misshapen_is_named() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        mjcf.site_points(robot("panda"), ["nowhere"])
    with pytest.raises(ValueError, match="nobody"):
        mjcf.body_points(robot("panda"), ["nobody"], np.zeros((1, 3)))
    with pytest.raises(ValueError, match="shape"):
        mjcf.body_points(robot("panda"), ["hand"], np.zeros((2, 3)))
