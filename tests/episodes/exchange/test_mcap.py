"""Episodes as ROS 2 bags: bit for bit there and back, and readable by everybody else's readers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import (
    NANOSECONDS,
    JointTarget,
    Pose,
    PoseTarget,
    TwistTarget,
)
from episodes.errors import EpisodeError
from episodes.exchange import ros2
from episodes.exchange.bag import BagWriter
from episodes.exchange.bag_file import BagFile
from episodes.exchange.mcap_export import McapExporter, McapOptions
from episodes.exchange.mcap_import import McapImporter
from episodes.manifest import Outcome
from episodes.reader import open_episode
from episodes.writer import EpisodeWriter
from tests.episodes.builders import (
    JOINTS,
    MODEL_XML,
    any_bits,
    any_command,
    any_float,
    any_state,
    make_chunk,
    manifest,
    record_plant,
    simple_observation,
    simple_tick,
    write_simple,
)

pytest.importorskip("rosbags")
pytest.importorskip("mcap")


def exported(source: Path, out: Path, images: Any = "png") -> Path:
    return McapExporter(McapOptions(images)).export([source], out).files[0]


def assert_same_episode(first: Path, second: Path) -> None:
    """Every array, attribute and link of the chain is equal: the seals are over all of them."""
    before, after = open_episode(first), open_episode(second)
    assert before.integrity == after.integrity
    assert before.manifest == after.manifest
    for camera in before.cameras:
        np.testing.assert_array_equal(before.images(camera), after.images(camera))


def any_target(rng: np.random.Generator, index: int) -> Any:
    pose = Pose(any_bits(rng, 3), any_bits(rng, 4))
    return (
        JointTarget(any_bits(rng, JOINTS), any_float(rng)),
        PoseTarget(pose, any_bits(rng, 6), any_float(rng), "base"),
        TwistTarget(any_bits(rng, 6), any_float(rng), "tool"),
    )[index % 3]


def write_any(path: Path, seed: int, ticks: int = 30) -> Path:
    """An episode of random bits: every kind of NaN, subnormals, malformed chunks, a dropped picture."""
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, manifest(), model_xml=MODEL_XML, initial_state=any_bits(rng, 5)) as writer:
        for tick in range(ticks):
            chunk = make_chunk(tick, tick)
            if tick % 10 == 5:
                chunk = make_chunk(tick, tick, tokens=np.full((2, 2), 3.5))
            inputs, outputs = simple_tick(tick, arrivals=(chunk,) if tick % 5 == 0 else ())
            stamp = int(rng.integers(-(2**30), 2**60))
            inputs = replace(inputs, state=any_state(rng, JOINTS, stamp))
            safety = replace(outputs.safety, command=any_command(rng, JOINTS), min_margin=any_float(rng))
            command = any_command(rng, JOINTS)
            command, safety = replace(command, stamp_ns=stamp), safety
            safety = replace(safety, command=replace(safety.command, stamp_ns=stamp))
            outputs = replace(outputs, target=any_target(rng, tick), command=command, safety=safety)
            if tick % 10 == 0:
                observation = simple_observation(tick)
                images = dict(observation.images)
                if tick == 10:
                    del images["wrist"]
                writer.record_observation(replace(observation, images=images, instruction=f"word {tick}"))
            writer.record_tick(inputs, outputs, bytes(16))
        return writer.close(Outcome(None, "time_limit"))


@pytest.mark.parametrize("images", ["png", "raw"])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_episode_comes_back_bit_for_bit(tmp_path: Path, images: str, seed: int) -> None:
    source = write_any(tmp_path / "any.zarr", seed)
    bag = exported(source, tmp_path / "bags", images)
    done = McapImporter().read(bag, tmp_path / "back")
    assert done.exact
    assert done.lacks == ()
    assert_same_episode(source, done.episodes[0])


def test_an_episode_that_was_driven_through_the_loop_comes_back_and_the_losses_say_nothing(tmp_path: Path) -> None:
    source = record_plant(tmp_path / "plant.zarr", 300)
    done = McapExporter().export([source], tmp_path / "bags")
    assert done.losses == ()
    assert json.loads((tmp_path / "bags.losses.json").read_text()) == {"losses": []}
    assert_same_episode(source, McapImporter().read(tmp_path / "bags", tmp_path / "back").episodes[0])


def test_a_recording_that_was_never_closed_is_exported_as_far_as_it_goes(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "cut.zarr", manifest(), model_xml=MODEL_XML, initial_state=np.zeros(5)).open()
    for tick in range(600):
        if tick % 100 == 0:
            writer.record_observation(simple_observation(tick))
        inputs, outputs = simple_tick(tick, arrivals=(make_chunk(tick, tick),) if tick % 100 == 0 else ())
        writer.record_tick(inputs, outputs, bytes(16))
    before = open_episode(tmp_path / "cut.zarr")
    assert before.recovered
    assert 0 < len(before) < 600
    done = McapExporter().export([before.path], tmp_path / "bags")
    assert [loss.what for loss in done.losses] == ["journal"]
    after = open_episode(McapImporter().read(tmp_path / "bags", tmp_path / "back").episodes[0])
    assert not after.manifest.closed
    assert after.array("ticks/chain").tobytes() == before.array("ticks/chain").tobytes()
    np.testing.assert_array_equal(after.images("front"), before.images("front"))


def test_rosbags_reads_the_bag_with_its_own_reader(tmp_path: Path) -> None:
    from rosbags.highlevel import AnyReader

    source = write_simple(tmp_path / "simple.zarr", 60)
    bag = exported(source, tmp_path / "bags", "raw")
    episode = open_episode(source)
    with AnyReader([bag]) as opened:
        reader = cast(Any, opened)
        assert {c.topic for c in reader.connections} >= {"/joint_states", "/camera/wrist/image_raw", "/policy/tokens"}
        joints = [c for c in reader.connections if c.topic == "/joint_states"]
        read = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections=joints)]
        np.testing.assert_array_equal([m.position for m in read], episode.ticks.state_joint_position)
        stamps = [m.header.stamp.sec * NANOSECONDS + m.header.stamp.nanosec for m in read]
        np.testing.assert_array_equal(stamps, episode.ticks.state_stamp_ns)
        images = [c for c in reader.connections if c.topic == "/camera/wrist/image_raw"]
        pictures = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections=images)]
        pixels = [m.data.reshape(m.height, m.width, 3) for m in pictures]
        np.testing.assert_array_equal(pixels, episode.images("wrist"))
        tokens = [c for c in reader.connections if c.topic == "/policy/tokens"]
        first = next(reader.messages(connections=tokens))
        message = reader.deserialize(first[2], first[0].msgtype)
        assert [(d.label, d.size) for d in message.layout.dim] == [("horizon", 8), ("dims", 4)]
        np.testing.assert_array_equal(message.data.reshape(8, 4), episode.chunks.tokens[0])


def test_mcap_ros2_support_decodes_every_message_by_the_embedded_definitions(tmp_path: Path) -> None:
    reader_module = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    source = write_simple(tmp_path / "simple.zarr", 60)
    bag = exported(source, tmp_path / "bags")
    episode = open_episode(source)
    counts: dict[str, int] = {}
    wrenches: list[list[float]] = []
    levels: list[int] = []
    with next(bag.glob("*.mcap")).open("rb") as stream:
        reader = reader_module.make_reader(stream, decoder_factories=[decoder.DecoderFactory()])
        for _, channel, _, message in reader.iter_decoded_messages():
            counts[channel.topic] = counts.get(channel.topic, 0) + 1
            if channel.topic == "/wrist/wrench":
                f, t = message.wrench.force, message.wrench.torque
                wrenches.append([f.x, f.y, f.z, t.x, t.y, t.z])
            if channel.topic == "/safety/status":
                levels.append(int.from_bytes(bytes([message.status[0].level])))
    np.testing.assert_array_equal(wrenches, episode.ticks.state_wrench)
    assert levels.count(1) == int((episode.ticks.safety_status == 1).sum()) > 0
    assert counts["/joint_states"] == counts["/command/applied"] == 60
    assert counts["/camera/front/image_raw/compressed"] == 2


def test_the_metadata_beside_the_bag_are_what_ros2_bag_expects(tmp_path: Path) -> None:
    bag = exported(write_simple(tmp_path / "simple.zarr", 60), tmp_path / "bags")
    information = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["storage_identifier"] == "mcap"
    assert information["relative_file_paths"] == ["simple_0.mcap"]
    counted = sum(1 for _ in BagFile(bag / "simple_0.mcap").messages())
    listed = sum(topic["message_count"] for topic in information["topics_with_message_count"])
    assert counted == listed == information["message_count"]
    topics = [topic["topic_metadata"] for topic in information["topics_with_message_count"]]
    # The hash that ROS 2 Jazzy and Kilted publish for the type.
    published = "RIHS01_a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e"
    assert {t["type_description_hash"] for t in topics if t["type"] == ros2.JOINT_STATE} == {published}


def test_a_bag_that_was_cut_or_changed_is_refused_by_name(tmp_path: Path) -> None:
    bag = exported(write_simple(tmp_path / "simple.zarr", 60), tmp_path / "bags")
    file = bag / "simple_0.mcap"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(EpisodeError, match="a whole MCAP file"):
        McapImporter().read(bag, tmp_path / "back")
    assert not list((tmp_path / "back").glob("*"))


def test_a_bag_whose_values_were_changed_does_not_pass_as_the_recording(tmp_path: Path) -> None:
    bag = exported(write_simple(tmp_path / "simple.zarr", 60), tmp_path / "bags")
    original = BagFile(bag / "simple_0.mcap")
    attachments = original.attachments()
    changed = tmp_path / "changed"
    with BagWriter(changed) as writer:
        for message in original.messages():
            data = message.data
            if message.topic == "/wrist/wrench" and message.sequence == 30:
                data = data[:-1] + bytes([data[-1] ^ 1])
            topic = ros2.Topic(message.topic, message.type)
            writer.write(ros2.Message(topic, message.log_time_ns, data), message.sequence)
        for name, data in attachments.items():
            writer.attach(name, "application/octet-stream", data)
    with pytest.raises(EpisodeError, match="ticks/state_wrench: expected checksum"):
        McapImporter().read(changed, tmp_path / "back")


@given(st.integers(-(2**31) * NANOSECONDS, 2**31 * NANOSECONDS - 1))
def test_every_stamp_that_ros_can_express_comes_back(stamp: int) -> None:
    message = ros2.time(stamp)
    assert 0 <= message.nanosec < NANOSECONDS
    assert ros2.stamp_ns(message) == stamp


@given(st.one_of(st.integers(max_value=-(2**31) * NANOSECONDS - 1), st.integers(min_value=2**31 * NANOSECONDS)))
def test_a_stamp_beyond_ros_is_an_error_not_a_wrap(stamp: int) -> None:
    with pytest.raises(EpisodeError, match="seconds that fit 32 bits"):
        ros2.time(stamp)


@given(st.integers(0, 2**32), st.integers(0, 9))
def test_cdr_keeps_every_bit_of_state_and_command(seed: int, joints: int) -> None:
    rng = np.random.default_rng(seed)
    state = any_state(rng, joints, int(rng.integers(0, 2**60)))
    encoder = ros2.MessageEncoder("arm", [f"j{index}" for index in range(joints)])
    by_topic = {m.topic: ros2.deserialize(m.topic.type, m.data) for m in encoder.state(5, state)}
    joint_state = by_topic[ros2.JOINT_STATES]
    assert joint_state.position.tobytes() == state.joint_position.tobytes()
    assert joint_state.velocity.tobytes() == state.joint_velocity.tobytes()
    assert joint_state.effort.tobytes() == state.joint_effort.tobytes()
    assert ros2.stamp_ns(joint_state.header.stamp) == state.stamp_ns
    pose = by_topic[ros2.EE_POSE].pose
    read = np.array([pose.orientation.w, pose.orientation.x, pose.orientation.y, pose.orientation.z])
    assert read.tobytes() == state.ee_pose.quaternion.tobytes()


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 8))
def test_tokens_keep_their_values_and_their_shape(seed: int, horizon: int, dims: int) -> None:
    tokens = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, (horizon, dims))
    message = ros2.deserialize(ros2.INTEGERS, ros2.integers(tokens, ("horizon", "dims")))
    assert [d.size for d in message.layout.dim] == [horizon, dims]
    assert message.layout.dim[0].stride == horizon * dims
    np.testing.assert_array_equal(message.data.reshape(horizon, dims), tokens)
