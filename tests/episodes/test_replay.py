"""Replay re-executes every bit, and names the tick and the field of whatever is not as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from controllers.types import RobotState, TickInputs
from episodes.errors import EpisodeError
from episodes.manifest import EngineVersions, Manifest, Outcome, current_engine
from episodes.reader import open_episode
from episodes.replay import Refusal, ReplayResult, replay
from episodes.verification import verify
from episodes.writer import EpisodeWriter
from tests.episodes.builders import (
    PERIOD_NS,
    SPEC,
    SpringPlant,
    build_loop,
    change,
    make_chunk,
    manifest,
    rebuild,
    rebuild_with,
    record_plant,
    simple_tick,
    write_simple,
)


def check(path: Path, **options: Any) -> ReplayResult:
    return replay(open_episode(path), rebuild, **options)


def change_manifest(path: Path, edit: Callable[[Any], None]) -> None:
    root = zarr.open_group(str(path), mode="r+")
    data: Any = root.attrs["manifest"]
    edit(data)
    root.attrs["manifest"] = data


def test_an_episode_re_executes_bit_for_bit(tmp_path: Path) -> None:
    result = check(record_plant(tmp_path / "p.zarr"))
    assert result.first_divergence is None
    assert result.identical
    assert result.ticks == 600
    assert result.refusal is None


def test_the_recorded_plant_saw_every_kind_of_event(tmp_path: Path) -> None:
    episode = open_episode(record_plant(tmp_path / "p.zarr"))
    kinds = {event.kind.value for event in episode.events}
    assert kinds == {"operator", "accepted", "rejection", "safety_reason", "target_frame"}
    assert 0 < episode.chunks.accepted.sum() < len(episode.chunks.accepted)


def test_a_real_robots_episode_re_executes_from_its_logged_sensors(tmp_path: Path) -> None:
    path = record_plant(tmp_path / "p.zarr")
    result = replay(open_episode(path), rebuild_with(lambda parts: replace(parts, robot=None)))
    assert result.identical


class OtherStamps(SpringPlant):
    """A plant whose clock is not the recording's."""

    def read(self) -> RobotState:
        return replace(super().read(), stamp_ns=-1)


def test_a_wall_clocks_stamps_are_inputs(tmp_path: Path) -> None:
    path = record_plant(tmp_path / "p.zarr", realtime=True)
    other_clock = rebuild_with(lambda parts: replace(parts, robot=OtherStamps(3.0)))
    assert replay(open_episode(path), other_clock).identical


def test_a_killed_recording_replays_as_far_as_it_goes(tmp_path: Path) -> None:
    robot, loop = SpringPlant(3.0), build_loop()
    writer = EpisodeWriter(tmp_path / "k.zarr", manifest(), initial_state=np.zeros(6)).open()
    loop_state = loop.initial(robot.read())
    for tick in range(600):
        arrivals = (make_chunk(tick, tick),) if tick % 40 == 0 else ()
        inputs, digest = TickInputs(tick, tick * PERIOD_NS, robot.read(), arrivals), robot.physics_digest()
        loop_state, outputs = loop.tick(loop_state, inputs)
        writer.record_tick(inputs, outputs, digest)
        robot.write(outputs.safety.command)
    result = check(tmp_path / "k.zarr")  # never closed: 512 of 600 ticks have been written
    assert result.identical
    assert result.ticks == 512


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"robot": SpringPlant(3.0000001)}, "physics_digest"),
        ({"loop": build_loop(gain=8.0 + 1e-12)}, "command_values[0]"),
        ({"loop": build_loop(limit=0.2499)}, "safety_status"),
    ],
)
def test_a_stack_that_differs_is_found_at_its_first_effect(part: dict[str, Any], name: str, tmp_path: Path) -> None:
    path = record_plant(tmp_path / "p.zarr")
    result = replay(open_episode(path), rebuild_with(lambda parts: replace(parts, **part)))
    assert not result.identical
    assert result.first_divergence is not None
    if name == "safety_status":
        # The speed ceiling is lower: the margin is the first number that shows it.
        assert result.first_divergence.field in ("safety_min_margin", "safety_status", "safety_speed_scale")
    elif name == "physics_digest":
        assert result.first_divergence.field in ("physics_digest", "state_wrench[0]", "state_joint_effort[0]")
    else:
        assert result.first_divergence.field == name
    assert result.first_divergence.recorded != result.first_divergence.replayed


def test_a_loop_that_raises_is_a_divergence(tmp_path: Path) -> None:
    class Broken(SpringPlant):
        def write(self, command: Any) -> None:
            super().write(command)
            if self._tick == 100:
                raise ValueError("the simulation diverged")

    path = record_plant(tmp_path / "p.zarr")
    result = replay(open_episode(path), rebuild_with(lambda parts: replace(parts, robot=Broken(3.0))))
    assert str(result.first_divergence) == (
        "tick 99, exception: recorded a completed tick, replayed ValueError: the simulation diverged"
    )


# --------------------------------------------------------------------------------------------- tampering


@pytest.mark.parametrize(
    ("name", "index", "value", "tick"),
    [
        ("chunks/tokens", (2, 3, 1), 17, 40),
        ("chunks/chunk_id", 1, 99, 20),
        ("chunks/observation_stamp_ns", 3, 1, 60),
        ("chunks/arrival_tick", 1, 21, 20),
        ("ticks/now_ns", 33, 1, 33),
        ("ticks/state_joint_position", (71, 2), 0.5, 71),
        ("ticks/safety_speed_scale", 5, 0.25, 5),
        ("ticks/physics_digest", (119, 15), 1, 119),
        ("events/value", 3, 0.5, 49),
        ("events/message_data", 0, 63, 49),
    ],
)
def test_a_changed_value_is_named_by_tick_and_field(
    name: str, index: Any, value: Any, tick: int, tmp_path: Path
) -> None:
    path = write_simple(tmp_path / "t.zarr")
    change(path, name, index, value)
    damage = verify(open_episode(path))
    assert [(item.tick, item.field) for item in damage] == [(tick, name)]
    result = check(path)
    assert (result.identical, result.refusal) == (False, Refusal.DAMAGED)
    assert result.first_divergence is not None
    assert (result.first_divergence.tick, result.first_divergence.field) == (tick, name)


def test_a_changed_value_with_a_renewed_checksum_still_breaks_the_chain(tmp_path: Path) -> None:
    path = write_simple(tmp_path / "t.zarr")
    change(path, "chunks/tokens", (2, 3, 1), 17, reseal=True)
    assert [(item.tick, item.field) for item in verify(open_episode(path))] == [(40, "ticks/chain")]


def test_a_changed_token_is_found_by_re_execution_alone(tmp_path: Path) -> None:
    path = record_plant(tmp_path / "t.zarr")
    tick = int(open_episode(path).chunks.arrival_tick[2])
    change(path, "chunks/tokens", (2, 0, 0), 3)
    result = check(path, waive={"integrity"})
    assert result.first_divergence is not None
    assert tick <= result.first_divergence.tick <= tick + 2
    assert result.first_divergence.field.startswith("target_")


@pytest.mark.parametrize(
    ("edit", "field", "recorded", "found"),
    [
        (lambda m: m["safety_profile"]["joint_velocity"].__setitem__(1, 2.5),
         "manifest.safety_profile.joint_velocity[1]", "0.25", "2.5"),
        (lambda m: m["engine"].update(mujoco="9.9.9"), "manifest.engine.mujoco", None, '"9.9.9"'),
        (lambda m: m["action_spec"]["upper"].__setitem__(0, 2.0), "manifest.action_spec.upper[0]", "1.0", "2.0"),
        (lambda m: m.update(instruction="drop it"), "manifest.instruction", '"reach the mark"', '"drop it"'),
        (lambda m: m["outcome"].update(success=False), "manifest.outcome.success", "null", "false"),
        (lambda m: m["stack"].update(extra=1), "manifest.stack.extra", "null", "1"),
    ],
)  # fmt: skip
def test_a_changed_manifest_entry_is_named_with_both_values(
    edit: Callable[[Any], None], field: str, recorded: str | None, found: str, tmp_path: Path
) -> None:
    path = record_plant(tmp_path / "m.zarr", ticks=60)
    change_manifest(path, edit)
    result = check(path)
    assert result.refusal is Refusal.DAMAGED
    assert result.first_divergence is not None
    expected = json.dumps(current_engine().mujoco) if recorded is None else recorded
    divergence = result.first_divergence
    assert (divergence.tick, divergence.field, divergence.recorded, divergence.replayed) == (-1, field, expected, found)
    assert len(verify(open_episode(path))) == 1


def test_a_changed_model_is_named(tmp_path: Path) -> None:
    path = record_plant(tmp_path / "x.zarr", ticks=60)
    change(path, "model_xml", 30, 65)
    result = check(path)
    assert result.refusal is Refusal.DAMAGED
    assert result.first_divergence is not None
    assert (result.first_divergence.tick, result.first_divergence.field) == (-1, "model_xml")


def test_a_changed_picture_is_named(tmp_path: Path) -> None:
    path = write_simple(tmp_path / "i.zarr")
    change(path, "observations/images/wrist", (1, 2, 3, 0), 7)
    assert [(item.tick, item.field) for item in verify(open_episode(path))] == [(40, "observations/images/wrist[1]")]
    with pytest.raises(EpisodeError, match="frame 1: expected digest"):
        open_episode(path).image("wrist", 1)


def test_a_changed_codebook_is_named(tmp_path: Path) -> None:
    path = write_simple(tmp_path / "n.zarr")
    root = zarr.open_group(str(path), mode="r+")
    chunks: Any = root["chunks"]
    chunks.attrs["spec_hashes"] = ["something else"]
    assert [(item.tick, item.field) for item in verify(open_episode(path))] == [(0, "chunks attributes")]


# ----------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("changes", "refusal", "field"),
    [
        ({"engine": EngineVersions("2.0.0", "2", "3", "0")}, Refusal.ENGINE, "engine.mujoco"),
        ({"code_hash": "0" * 64}, Refusal.CODE, "code_hash"),
        ({"action_spec_hash": "0" * 16}, Refusal.SPEC, "action_spec_hash"),
        ({"safety_profile_hash": "0" * 16}, Refusal.PROFILE, "safety_profile_hash"),
    ],
)
def test_another_stack_is_refused_by_name_and_can_be_waived(
    changes: dict[str, Any], refusal: Refusal, field: str, tmp_path: Path
) -> None:
    path = record_plant(tmp_path / "r.zarr", ticks=60, **changes)
    result = check(path)
    assert (result.identical, result.ticks, result.refusal) == (False, 0, refusal)
    assert result.first_divergence is not None
    assert result.first_divergence.field == field
    waived = check(path, waive={field})
    assert waived.identical
    assert [item.field for item in waived.waived] == [field]


@pytest.mark.parametrize(
    ("identity", "refusal"), [("tokenizer_id", Refusal.TOKENIZER), ("model_xml_sha256", Refusal.MODEL)]
)
def test_a_rebuilt_stack_of_another_identity_is_refused(identity: str, refusal: Refusal, tmp_path: Path) -> None:
    path = record_plant(tmp_path / "r.zarr", ticks=60)
    other = rebuild_with(lambda parts: replace(parts, identity=replace(parts.identity, **{identity: "other"})))
    result = replay(open_episode(path), other)
    assert result.refusal is refusal
    assert result.first_divergence is not None
    assert (result.first_divergence.field, result.first_divergence.replayed) == (identity, "other")


def test_a_configuration_that_cannot_be_rebuilt_is_refused_with_the_reason(tmp_path: Path) -> None:
    def fail(parts: Any) -> Any:
        raise ValueError("profile: missing standoff_m")

    result = replay(open_episode(record_plant(tmp_path / "b.zarr", ticks=20)), rebuild_with(fail))
    assert result.refusal is Refusal.STACK
    assert result.first_divergence is not None
    assert result.first_divergence.replayed == "ValueError: profile: missing standoff_m"


def test_other_library_versions_are_noted(tmp_path: Path) -> None:
    engine = replace(current_engine(), numpy="1.0.0")
    result = check(record_plant(tmp_path / "v.zarr", ticks=20, engine=engine))
    assert result.identical
    assert result.notes == (f"numpy: recorded with 1.0.0, replayed with {current_engine().numpy}",)


def test_a_log_from_the_middle_cannot_replay(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "l.zarr", manifest()) as writer:
        writer.record_tick(*simple_tick(5), b"")
        writer.close(Outcome(None, "done"))
    with pytest.raises(EpisodeError, match="expected an episode that begins at tick 0, found 1 ticks from tick 5"):
        check(tmp_path / "l.zarr")


def test_a_chunk_too_strange_to_log_ends_the_replay_there(tmp_path: Path) -> None:
    robot, loop = SpringPlant(3.0), build_loop()
    loop_state = loop.initial(robot.read())
    with EpisodeWriter(tmp_path / "s.zarr", manifest(), initial_state=np.zeros(6)) as writer:
        for tick in range(10):
            arrivals = (make_chunk(tick, tokens=object()),) if tick == 4 else ()
            inputs, digest = TickInputs(tick, tick * PERIOD_NS, robot.read(), arrivals), robot.physics_digest()
            loop_state, outputs = loop.tick(loop_state, inputs)
            writer.record_tick(inputs, outputs, digest)
            robot.write(outputs.safety.command)
    result = check(tmp_path / "s.zarr")
    assert result.first_divergence is not None
    assert (result.first_divergence.tick, result.first_divergence.field) == (4, "exception")


def test_the_manifest_has_what_the_plant_needs() -> None:
    assert Manifest.from_json(manifest().to_json()).action_spec == SPEC.to_json()
