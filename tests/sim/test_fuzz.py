"""The fuzzer: deterministic, reproducible episode by episode, blind to nothing, and stronger than no filter at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controllers.types import CommandMode, JointCommand, OperatorEvent, RobotState, SafetyResult, SafetyStatus
from safety.monitor import GroundTruthMonitor, MonitoredLimit
from sim.fuzz import Attack, CampaignOptions, EpisodeName, plan_episode, run_campaign
from sim.fuzz import cell as cells
from sim.fuzz.episode import EpisodeOutcome, run_episode
from sim.fuzz.joints import malformed
from sim.fuzz.plan import EpisodePlan, Level

TICKS = 60


def planned(name: str, level: Level | None = None, mode: CommandMode | None = None) -> EpisodePlan:
    plan = plan_episode(3, EpisodeName.parse(name), TICKS)
    return replace(plan, level=level or plan.level, mode=mode or plan.mode, rate_hz=200, profile_seed=None)


def same(first: EpisodeOutcome, second: EpisodeOutcome) -> None:
    assert (first.ticks, first.violations, first.margins, first.counts, first.crash) == (
        second.ticks,
        second.violations,
        second.margins,
        second.counts,
        second.crash,
    )


@pytest.mark.parametrize("attack", list(Attack))
def test_an_episode_depends_on_its_name_and_seed_alone(attack: Attack) -> None:
    plan = planned(f"panda:{attack.value}:0")
    first = run_episode(plan)
    run_episode(planned(f"panda:{attack.value}:1"))  # whatever ran in between
    same(first, run_episode(plan))
    assert first.ticks > TICKS
    assert first.crash == ""


@pytest.mark.parametrize(
    ("level", "mode"),
    [
        (Level.TOKENS, CommandMode.POSITION),
        (Level.TOKENS, CommandMode.TORQUE),
        (Level.TARGETS, CommandMode.POSITION),
        (Level.TARGETS, CommandMode.VELOCITY),
        (Level.TARGETS, CommandMode.TORQUE),
        (Level.JOINTS, CommandMode.POSITION),
        (Level.JOINTS, CommandMode.VELOCITY),
        (Level.JOINTS, CommandMode.TORQUE),
    ],
)
def test_every_level_and_mode_moves_the_arm_and_ends_at_rest(level: Level, mode: CommandMode) -> None:
    plan = replace(planned("panda:random:0", level, mode), events=False, drops=False, late_ticks=0, surprise=False)
    outcome = run_episode(plan)
    assert outcome.crash == ""
    assert not outcome.diverged
    margins = {margin.limit: margin for margin in outcome.margins}
    assert margins[MonitoredLimit.JOINT_VELOCITY].relative < 1.029  # it moved: 1.03 is rest
    assert margins[MonitoredLimit.REST_AFTER_STOP].margin > 0.0


def test_without_the_filter_the_monitor_finds_violations() -> None:
    for attack in ("max", "bang-bang", "near-limit"):
        plan = replace(planned(f"panda:{attack}:0", Level.JOINTS, CommandMode.VELOCITY), ticks=200)
        assert run_episode(plan, guarded=False).violations > 20
        assert run_episode(plan).violations < run_episode(plan, guarded=False).violations


class _Sabotaged(cells.PassThrough):
    """A filter that says that all is well and passes everything."""

    def enforce(
        self,
        memory: None,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[None, SafetyResult]:
        return None, SafetyResult(command, SafetyStatus.RUN, (), 1.0, 0.0)


class _Raising(_Sabotaged):
    def enforce(
        self,
        memory: None,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[None, SafetyResult]:
        raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize("broken", [_Sabotaged, _Raising])
def test_a_broken_filter_is_found(monkeypatch: pytest.MonkeyPatch, broken: type[_Sabotaged]) -> None:
    honest = cells.cell_of

    def sabotaged(plan: EpisodePlan) -> cells.Cell:
        return replace(honest(plan), filter=broken())

    monkeypatch.setattr("sim.fuzz.episode.cell_of", sabotaged)
    outcome = run_episode(planned("panda:max:0", Level.JOINTS, CommandMode.POSITION))
    if broken is _Raising:
        assert "on purpose" in outcome.crash
    else:
        assert outcome.violations > 0
        assert outcome.first is not None
        assert outcome.min_margin < 0.0


def test_the_campaign_does_not_depend_on_the_number_of_workers() -> None:
    options = CampaignOptions(900, 5, (Attack.RANDOM, Attack.NAN), ("panda",), workers=1, reference=False)
    alone, together = run_campaign(options), run_campaign(replace(options, workers=2))
    assert alone.total == together.total
    assert alone.attacks == together.attacks
    assert alone.limits == together.limits
    assert alone.findings == together.findings
    assert alone.total.ticks >= options.ticks
    assert alone.total.ticks_without_filter == 0


def test_one_episode_can_be_run_again_alone() -> None:
    name = EpisodeName("panda", Attack.REPLAY, 0)
    options = CampaignOptions(1, 5, (Attack.REPLAY,), ("panda",), only=name, reference=False)
    report = run_campaign(options)
    assert report.episodes == 1
    assert report.total.ticks == run_episode(plan_episode(5, name, 400)).ticks
    assert str(EpisodeName.parse(str(name))) == "panda:replay:0"
    with pytest.raises(ValueError, match="ARM:ATTACK:INDEX"):
        EpisodeName.parse("panda:nothing:0")


@pytest.mark.parametrize("arm", ["panda", "ur5e", "so101"])
def test_random_profiles_suit_their_arm_and_hold_every_kind_of_zone(arm: str) -> None:
    shapes: set[str] = set()
    cones = polytopes = 0
    for seed in range(6):
        plan = replace(planned(f"{arm}:random:{seed}"), profile_seed=seed)
        cell = cells.cell_of(plan)
        shapes |= {type(zone).__name__ for zone in cell.profile.keep_outs}
        cones += cell.profile.orientation is not None
        polytopes += len(cell.profile.polytopes)
        start = cells.start_position(plan, cell)
        cell.plant.start(start)
        assert cell.plant.data.ncon == 0
    assert len(shapes) >= 4
    assert cones
    assert polytopes


def test_the_plant_goes_back_to_any_moment_bit_for_bit() -> None:
    cell = cells.cell_of(planned("panda:random:0", Level.JOINTS, CommandMode.POSITION))
    plant = cell.plant
    monitor = GroundTruthMonitor(plant.model, cell.description, cell.profile)
    plant.start(cell.description.home)
    target = np.array(cell.description.home) + 0.05
    command = JointCommand(CommandMode.POSITION, target, 0.02, 0)

    def go(ticks: int) -> np.ndarray:
        for _ in range(ticks):
            plant.apply(command)
            plant.advance(monitor)
        return plant.get_state()

    go(10)
    moment = plant.get_state()
    first = go(20)
    plant.set_state(moment)
    np.testing.assert_array_equal(go(20), first)


def test_malformed_commands_are_of_many_kinds() -> None:
    rng = np.random.default_rng(0)
    command = JointCommand(CommandMode.POSITION, np.zeros(7), 0.02, 10)
    kinds = {repr(malformed(command, rng)) for _ in range(200)}
    assert len(kinds) > 20
