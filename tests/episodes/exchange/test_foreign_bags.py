"""Bags that other tools recorded become episodes that open, verify, report and say what they lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import CommandMode
from episodes.errors import EpisodeError
from episodes.exchange import ros2
from episodes.exchange.bag_file import bag_files
from episodes.exchange.mcap_export import McapExporter
from episodes.exchange.mcap_import import McapImporter
from episodes.exchange.mcap_options import McapImportOptions
from episodes.provenance import provenance
from episodes.reader import open_episode
from episodes.replay import Refusal, replay
from episodes.report.page import write_report
from episodes.verification import verify
from sim.assembly import rebuild_for_replay
from sim.watching import watched_motion
from tests.episodes.builders import write_simple

pytest.importorskip("mcap")
rosbags = pytest.importorskip("rosbags.rosbag2")

START = 1_700_000_000_000_000_000
STEP = 10_000_000
JOINTS = tuple(f"panda_joint{index + 1}" for index in range(7))
NAMES = [*reversed(JOINTS), "panda_finger_joint1", "panda_finger_joint2"]
TICKS = 50


def position(tick: int) -> np.ndarray:
    return np.arange(9) * 0.1 + 0.01 * tick


class Bag:
    """Writes a bag with rosbags' own writer, as a stranger would have it."""

    def __init__(self, path: Path) -> None:
        self.store: Any = ros2.typestore()
        self.writer = rosbags.Writer(path, version=9, storage_plugin=rosbags.StoragePlugin.MCAP)
        self.writer.open()
        self.connections: dict[str, Any] = {}

    def write(self, topic: str, kind: str, stamp: int, *values: Any) -> None:
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        self.writer.write(self.connections[topic], stamp, self.store.serialize_cdr(self.new(kind, *values), kind))

    def new(self, kind: str, *values: Any) -> Any:
        return self.store.types[kind](*values)

    def header(self, stamp: int) -> Any:
        return self.new("std_msgs/msg/Header", ros2.time(stamp), "")

    def joints(self, tick: int) -> None:
        stamp = START + tick * STEP
        q = position(tick)
        empty = np.zeros(0)
        self.write("/robot/joint_states", ros2.JOINT_STATE, stamp + 1000, self.header(stamp), NAMES, q, q + 5, empty)

    def picture(self, topic: str, stamp: int, encoding: str, pixels: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        data = np.pad(pixels.reshape(height, -1), ((0, 0), (0, 4)))  # rows are padded, as some drivers do
        step = data.shape[1]
        self.write(topic, ros2.IMAGE, stamp, self.header(stamp), height, width, encoding, 0, step, data.reshape(-1))

    def close(self) -> None:
        self.writer.close()


def record(path: Path, command: str = "trajectory") -> np.ndarray:
    """50 joint states, 5 pictures at times of their own, commands; returns the pictures."""
    bag = Bag(path)
    pictures = np.random.default_rng(0).integers(0, 255, (5, 6, 10, 3), np.uint8)
    bag.write("/task_instruction", ros2.STRING, START, "fold the towel")
    for tick in range(TICKS):
        bag.joints(tick)
        if tick % 10 == 3:
            stamp = START + tick * STEP + 1_234_567
            bag.picture("/front_camera/image_raw", stamp, "bgr8", pictures[tick // 10][..., ::-1])
        if tick == 10 and command == "trajectory":
            point = [
                bag.new(
                    ros2.TRAJECTORY_POINT,
                    np.full(7, value),
                    np.zeros(0),
                    np.zeros(0),
                    np.zeros(0),
                    bag.new("builtin_interfaces/msg/Duration", 0, when),
                )
                for value, when in ((1.0, 100_000_000), (2.0, 200_000_000))
            ]
            bag.write("/arm/joint_trajectory", ros2.TRAJECTORY, START + 10 * STEP, bag.header(0), list(JOINTS), point)
        if tick >= 10 and command == "array":
            layout = bag.new("std_msgs/msg/MultiArrayLayout", [], 0)
            bag.write(
                "/forward_velocity_controller/commands", ros2.FLOATS, START + tick * STEP, layout, np.arange(7) * 0.1
            )
    bag.close()
    return pictures


def test_joint_states_pictures_and_a_trajectory_become_an_episode(tmp_path: Path) -> None:
    pictures = record(tmp_path / "bag")
    done = McapImporter(
        McapImportOptions(gripper_joints=("panda_finger_joint1", "panda_finger_joint2"), robot="panda")
    ).read(tmp_path / "bag", tmp_path / "out")
    assert not done.exact
    episode = open_episode(done.episodes[0])
    assert verify(episode) == ()
    ticks = episode.ticks
    assert len(episode) == TICKS
    assert episode.manifest.control_rate_hz == 100
    assert episode.manifest.instruction == "fold the towel"
    origin = provenance(episode.manifest)
    assert origin is not None
    assert origin.joint_names == tuple(reversed(JOINTS))
    expected = np.stack([position(tick) for tick in range(TICKS)])
    np.testing.assert_array_equal(ticks.state_joint_position, expected[:, :7])
    np.testing.assert_array_equal(ticks.state_joint_velocity, expected[:, :7] + 5)
    np.testing.assert_array_equal(ticks.state_gripper_opening, expected[:, 7] + expected[:, 8])
    np.testing.assert_array_equal(ticks.state_stamp_ns, START + STEP * np.arange(TICKS))
    np.testing.assert_array_equal(ticks.now_ns, ticks.state_stamp_ns + 1000)
    assert np.isnan(ticks.state_joint_effort).all()
    assert np.isnan(ticks.state_wrench).all()
    # The first point is in force from the start of the trajectory, the second from when the first is due.
    applied = ticks.applied_values[:, 0]
    assert np.isnan(applied[:10]).all()
    assert set(applied[10:20]) == {1.0}
    assert set(applied[20:]) == {2.0}
    np.testing.assert_array_equal(episode.images("front_camera"), pictures)
    np.testing.assert_array_equal(episode.observations.stamp_ns, START + STEP * np.arange(3, 50, 10) + 1_234_567)
    for lacking in ("physics and scene", "action tokens", "joint efforts", "the wrist wrench"):
        assert any(lacking in text for text in done.lacks)


def test_arrays_of_a_velocity_controller_are_velocity_commands(tmp_path: Path) -> None:
    record(tmp_path / "bag", command="array")
    episode = open_episode(McapImporter().read(tmp_path / "bag", tmp_path / "out").episodes[0])
    assert set(episode.ticks.applied_mode) == {list(CommandMode).index(CommandMode.VELOCITY)}
    np.testing.assert_array_equal(episode.ticks.applied_values[20], np.arange(7) * 0.1)
    assert np.isnan(episode.ticks.applied_values[5]).all()


def test_it_reports_is_drawn_and_is_refused_by_replay_with_reasons(tmp_path: Path) -> None:
    record(tmp_path / "bag")
    options = McapImportOptions(robot="panda", joints=JOINTS)
    path = McapImporter(options).read(tmp_path / "bag", tmp_path / "out").episodes[0]
    episode = open_episode(path)
    write_report(tmp_path / "out", [], tmp_path / "report.html", selected=[path.name])
    assert "fold the towel" in (tmp_path / "report.html").read_text()
    motion = watched_motion(episode)
    assert motion is not None
    assert "measured joint angles" in motion.source
    assert np.ptp(motion.position, axis=0).max() > 0.05
    found = replay(episode, rebuild_for_replay)
    assert found.refusal is Refusal.IMPORTED
    assert found.first_divergence is not None
    assert "lacks physics and scene; action tokens" in found.first_divergence.replayed


def test_our_own_bag_can_be_read_by_its_messages_alone(tmp_path: Path) -> None:
    source = write_simple(tmp_path / "simple.zarr", 60)
    bag = McapExporter().export([source], tmp_path / "bags").files[0]
    done = McapImporter(McapImportOptions(foreign=True)).read(bag, tmp_path / "out")
    before, after = open_episode(source), open_episode(done.episodes[0])
    assert not done.exact
    for name in ("state_joint_position", "state_ee_pose", "state_wrench", "applied_values", "state_stamp_ns"):
        assert getattr(before.ticks, name).tobytes() == getattr(after.ticks, name).tobytes()
    np.testing.assert_array_equal(before.images("wrist"), after.images("wrist"))
    assert after.manifest.instruction == "reach the mark"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"joint_states": "/robot/joint_state"}, r"did you mean '/robot/joint_states'"),
        ({"wrench": "/robot/joint_states"}, r"expected geometry_msgs/msg/WrenchStamped, found /robot/joint_states"),
        ({"cameras": ("/front/image_raw",)}, r"did you mean '/front_camera/image_raw'"),
        ({"joints": ("panda_joint1", "panda_jont2")}, r"expected panda_joint1, panda_jont2, found panda_joint7"),
    ],
)
def test_a_topic_or_joint_that_is_not_there_is_named_with_what_is(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    record(tmp_path / "bag")
    with pytest.raises(EpisodeError, match=message):
        McapImporter(McapImportOptions(**options)).read(tmp_path / "bag", tmp_path / "out")


def test_a_bag_without_joint_states_is_refused_and_lists_what_it_has(tmp_path: Path) -> None:
    bag = Bag(tmp_path / "bag")
    bag.write("/chatter", ros2.STRING, START, "hello")
    bag.close()
    with pytest.raises(EpisodeError, match=r"a topic of sensor_msgs/msg/JointState, found only /chatter"):
        McapImporter().read(tmp_path / "bag", tmp_path / "out")
    assert bag_files(tmp_path / "bag")


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.lists(st.integers(0, 1000), max_size=20))
def test_the_value_held_at_a_moment_is_the_last_one_before_it(at: list[int], given_at: list[int]) -> None:
    from episodes.exchange.mcap_foreign import _Series

    series = _Series()
    for number, stamp in enumerate(given_at):
        series.add(stamp, (float(number),))
    moments = np.array(sorted(at), np.int64)
    values, stamps = series.held(moments, 1)
    for moment, value, stamp in zip(moments, values[:, 0], stamps, strict=True):
        before = [(when, number) for number, when in enumerate(given_at) if when <= moment]
        if not before:
            assert np.isnan(value)
            assert stamp == 0
        else:
            assert (stamp, value) == max(before)
