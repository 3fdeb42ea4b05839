"""Presses: the surface is as stiff as it says, the check can fail, and the filter keeps to the ceilings."""

import math
from itertools import pairwise

import mujoco
import numpy as np
import pytest

from controllers.robot import load_robot
from controllers.types import CommandMode, JointCommand, frozen_array
from safety.profile import load_profile
from sim.press.contact import BLOW_M_S, TOLERANCE, press
from sim.press.experiment import by_stiffness, figures, run_contacts
from sim.press.plan import PressCase
from sim.press.rig import CONTROL_RATE_HZ, PHYSICS_RATE_HZ, Rig, rig_of

_SEED = 20


def _rig(mode: CommandMode = CommandMode.POSITION, arm: str = "panda") -> Rig:
    return rig_of(arm, mode, "")


def _case(index: int, mode: CommandMode = CommandMode.POSITION) -> PressCase:
    return PressCase("panda", mode, _SEED, index)


@pytest.mark.parametrize("stiffness_n_mm", [10.0, 150.0])
def test_a_slow_press_feels_the_declared_stiffness(stiffness_n_mm: float) -> None:
    rig = _rig()
    setup = next(rig.setups(_case(3), stiffness_n_mm))
    rig.stand(setup)
    robot, surface = rig.robot, rig.surface
    felt: list[tuple[float, float, float]] = []
    # In steps of 0.5 mm past first touch, each held until the arm has come to rest.
    for way_m in setup.plan.gap_m + np.arange(0.0, 0.004, 0.0005):
        command = JointCommand(CommandMode.POSITION, frozen_array(setup.along(way_m)), 0.0, 0)
        for _ in range(PHYSICS_RATE_HZ // 4):
            surface.push(robot.model, robot.data)
            robot.write(command)
        surface.push(robot.model, robot.data)
        normal_n = float(np.dot(robot.data.xfrc_applied[robot.model.body("hand").id, :3], setup.plan.normal))
        if surface.penetration > 0.0:
            felt.append((surface.penetration, surface.force, normal_n))
    assert len(felt) >= 3
    for depth_m, force_n, normal_n in felt:
        assert normal_n == pytest.approx(1e3 * stiffness_n_mm * depth_m, rel=1e-9)
        assert force_n < normal_n * 1.08  # friction holds against sliding: no more than its cone
    slopes = [(b[2] - a[2]) / (b[0] - a[0]) for a, b in pairwise(felt)]
    assert slopes == pytest.approx([1e3 * stiffness_n_mm] * len(slopes), rel=1e-6)


def test_the_arm_feels_what_the_surface_exerts() -> None:
    rig = _rig()
    setup = next(rig.setups(_case(3), 50.0))
    rig.stand(setup)
    robot, surface = rig.robot, rig.surface
    command = JointCommand(CommandMode.POSITION, frozen_array(setup.along(setup.plan.gap_m + 0.004)), 0.0, 0)
    for _ in range(PHYSICS_RATE_HZ):
        surface.push(robot.model, robot.data)
        robot.write(command)
    sensed = robot.read()
    turn = robot.data.site("wrist_ft").xmat.reshape(3, 3)
    weightless = turn @ sensed.wrench[:3]  # gravity is compensated by the drives, not in the sensor
    weightless[2] += robot.model.body_subtreemass[robot.model.body("hand").id] * 9.81
    assert float(np.linalg.norm(weightless)) == pytest.approx(surface.force, rel=0.03)


def test_the_surface_gives_back_what_it_takes() -> None:
    """A weightless arm that no drive holds bounces off."""
    rig = _rig(CommandMode.TORQUE)
    setup = next(rig.setups(PressCase("panda", CommandMode.TORQUE, _SEED, 0), 40.0))
    rig.stand(setup)
    model, data, surface = rig.robot.model, rig.robot.data, rig.surface
    depths = []
    data.qvel[: rig.description.n] = np.linalg.pinv(rig.arm.jacobian(setup.start)[:3]) @ (0.4 * setup.plan.direction)
    model_damping = model.dof_damping.copy()
    model.dof_damping[:] = 0.0
    try:
        data.ctrl[:] = 0.0
        for _ in range(PHYSICS_RATE_HZ // 2):
            data.qfrc_applied[:] = data.qfrc_bias  # weightless
            surface.push(model, data)
            mujoco.mj_step(model, data)
            depths.append(surface.penetration)
    finally:
        model.dof_damping[:] = model_damping
        data.qfrc_applied[:] = 0.0
    assert max(depths) > 0.0
    assert depths[-1] < 0.0  # it came, and went away again


def test_unfiltered_presses_break_the_ceilings_and_filtered_ones_do_not() -> None:
    rig = _rig()
    force = load_profile("panda_tabletop").force
    outcomes = [press(rig, _case(index)) for index in range(24)]
    guarded = [outcome.guarded for outcome in outcomes if outcome.guarded is not None]
    bare = [outcome.bare for outcome in outcomes if outcome.bare is not None]
    assert len(guarded) >= 22
    assert max(contact.peak_n for contact in bare) > 2.0 * force.transient_n
    assert not all(contact.within for contact in bare)
    for contact in guarded:
        assert contact.peak_n <= force.transient_n * (1.0 + TOLERANCE), contact
        assert contact.lasting_n <= force.quasi_static_n * (1.0 + TOLERANCE), contact
        assert contact.within
    assert max(contact.peak_n for contact in guarded) > 0.3 * force.transient_n  # they do press
    reactions = [contact.reaction_ms for contact in guarded if contact.reaction_ms is not None]
    assert reactions
    assert max(reactions) <= 10.0
    assert not any(contact.needless for contact in guarded)
    assert all(outcome.early_stops == 0 for outcome in outcomes)
    assert any(contact.impact_m_s > BLOW_M_S for contact in guarded)


def test_contacts_depend_on_the_seed_and_on_nothing_else() -> None:
    here = tuple(run_contacts("panda", CommandMode.POSITION, 4, _SEED, workers=0, bare=False))
    there = tuple(run_contacts("panda", CommandMode.POSITION, 4, _SEED, workers=2, bare=False))
    assert here == there
    alone = press(_rig(), _case(2), bare=False)
    assert alone == here[2]
    other = press(_rig(), PressCase("panda", CommandMode.POSITION, _SEED + 1, 2), bare=False)
    assert other.guarded != alone.guarded


def test_figures_count_what_is_outside() -> None:
    outcomes = tuple(run_contacts("panda", CommandMode.POSITION, 3, _SEED, workers=0))
    bare = [outcome.bare for outcome in outcomes if outcome.bare is not None]
    got = figures(bare)
    assert got.contacts == len(bare)
    assert got.peak_n == max(contact.peak_n for contact in bare)
    assert got.within == sum(contact.within for contact in bare)
    assert sum(one.guarded.contacts for one in by_stiffness(outcomes)) == len(outcomes)
    assert figures([]).within_ceiling is None


@pytest.mark.parametrize("arm", ["panda", "ur5e"])
def test_setups_start_outside_and_lead_inside(arm: str) -> None:
    rig = _rig(arm=arm)
    setup = next(rig.setups(PressCase(arm, CommandMode.POSITION, _SEED, 1)))
    rig.stand(setup)
    assert rig.surface.penetration < 0.0
    plan = setup.plan
    assert math.isclose(float(np.linalg.norm(plan.normal)), 1.0, rel_tol=1e-9)
    start, end = (rig.arm.end_effector_pose(q).position for q in (setup.start, setup.along(setup.length_m)))
    assert np.allclose(end - start, setup.length_m * plan.direction, atol=3e-3)
    assert PHYSICS_RATE_HZ % CONTROL_RATE_HZ == 0
    assert load_robot(arm).n == setup.path.shape[1]
