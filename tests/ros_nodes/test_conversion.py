from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("rclpy", reason="needs the extra 'ros'")

from std_msgs.msg import MultiArrayDimension

from controllers.doubt import ChunkDoubt
from controllers.robot import load_robot
from controllers.types import ActionChunk, ChunkArrival, CommandMode, JointCommand, Pose, RobotState, frozen_array
from ros_nodes import conversion
from ros_nodes.errors import MessageError
from ros_nodes.joints import JointIndex, JointNames

ROBOT = load_robot("panda")
NAMES = JointNames.of(ROBOT)
finite = st.floats(-1e6, 1e6)


def joints(n: int = 7) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, n, elements=finite)


def identity_pose(_: object) -> Pose:
    return Pose(frozen_array(np.zeros(3)), frozen_array([1.0, 0.0, 0.0, 0.0]))


@given(st.integers(0, 2**62))
def test_stamps_survive_to_the_nanosecond(stamp: int) -> None:
    stamp = stamp % (2**31 * 1_000_000_000)
    assert conversion.stamp_ns(conversion.time_message(stamp)) == stamp


@given(joints(), joints(), joints(), finite, st.integers(1, 10**18))
def test_a_state_survives_bit_for_bit(q, qd, effort, opening, stamp) -> None:
    wrench = frozen_array(np.arange(6.0))
    state = RobotState(q, qd, effort, identity_pose(q), wrench, opening, stamp)
    message = conversion.joint_state_message(state, NAMES)
    back = conversion.robot_state(message, JointIndex(NAMES), wrench, identity_pose)
    assert back.joint_position.tobytes() == q.tobytes()
    assert back.joint_velocity.tobytes() == qd.tobytes()
    assert back.joint_effort.tobytes() == effort.tobytes()
    assert (back.gripper_opening, back.stamp_ns) == (opening, stamp)


@given(st.sampled_from(CommandMode), joints(), finite, st.integers(1, 10**18))
def test_a_command_survives_bit_for_bit_in_every_mode(mode, values, opening, stamp) -> None:
    message = conversion.command_message(JointCommand(mode, values, opening, stamp), NAMES)
    back = conversion.joint_command(message, JointIndex(NAMES), mode)
    assert back.mode is mode
    assert back.values.tobytes() == values.tobytes()
    assert (back.gripper_opening, back.stamp_ns) == (opening, stamp)


def test_a_message_without_a_stamp_is_refused() -> None:
    message = conversion.command_message(JointCommand(CommandMode.POSITION, np.zeros(7), 0.0, 0), NAMES)
    with pytest.raises(MessageError, match="stamp"):
        conversion.joint_command(message, JointIndex(NAMES), CommandMode.POSITION)


@given(hnp.arrays(np.float64, 3, elements=finite), hnp.arrays(np.float64, 4, elements=st.floats(0.1, 1.0)))
def test_a_pose_changes_its_quaternions_order_and_nothing_else(position, quaternion) -> None:
    unit = quaternion / np.linalg.norm(quaternion)
    message = conversion.pose_message(Pose(position, unit), 5)
    q = message.pose.orientation
    assert [q.x, q.y, q.z, q.w] == [unit[1], unit[2], unit[3], unit[0]]
    back = conversion.pose_from_message(message)
    assert back.position.tobytes() == position.tobytes()
    assert back.quaternion.tobytes() == unit.tobytes()


def test_a_pose_in_another_frame_or_without_direction_is_refused() -> None:
    message = conversion.pose_message(identity_pose(None), 5, "camera")
    with pytest.raises(MessageError, match="'base', found 'camera'"):
        conversion.pose_from_message(message)
    message = conversion.pose_message(identity_pose(None), 5)
    message.pose.orientation.w = 0.0
    with pytest.raises(MessageError, match="unit quaternion"):
        conversion.pose_from_message(message)


def test_a_wrench_keeps_force_before_torque() -> None:
    message = conversion.wrench_message(frozen_array(np.arange(6.0)), 5, "wrist_ft")
    assert (message.wrench.force.z, message.wrench.torque.x) == (2.0, 3.0)
    assert conversion.wrench_from_message(message).tolist() == list(range(6))


pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(pictures)
def test_pictures_survive_raw_and_losslessly_compressed(image) -> None:
    raw = conversion.image_from_message(conversion.image_message(image, 5, "wrist"))
    assert np.array_equal(raw, image)
    assert not raw.flags.writeable
    packed = conversion.compressed_image_message(image, 5, "wrist")
    assert np.array_equal(conversion.image_from_compressed(packed), image)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_every_encoding_is_read_with_padded_rows(encoding: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    if encoding == "mono8":
        rgb[:] = rgb[:, :, :1]
        pixels = rgb[:, :, :1]
    else:
        pixels = rgb[:, :, ::-1] if encoding.startswith("bgr") else rgb
        if encoding.endswith("a8"):
            pixels = np.concatenate([pixels, np.full((4, 5, 1), 255, np.uint8)], axis=2)
    rows = np.zeros((4, 32), np.uint8)
    flat = pixels.reshape(4, -1)
    rows[:, : flat.shape[1]] = flat
    message = conversion.image_message(rgb, 5, "wrist")
    message.encoding, message.step, message.data = encoding, 32, array("B", rows.tobytes())
    assert np.array_equal(conversion.image_from_message(message), rgb)


def test_pictures_that_are_none_are_refused() -> None:
    message = conversion.image_message(np.zeros((4, 5, 3), np.uint8), 5, "wrist")
    message.encoding = "16UC1"
    with pytest.raises(MessageError, match="rgb8"):
        conversion.image_from_message(message)
    message.encoding, message.height = "rgb8", 5
    with pytest.raises(MessageError, match="5 rows of 15 bytes"):
        conversion.image_from_message(message)
    packed = conversion.compressed_image_message(np.zeros((4, 5, 3), np.uint8), 5, "wrist")
    packed.data = array("B", bytes(packed.data)[:10])
    with pytest.raises(MessageError, match="compressed picture"):
        conversion.image_from_compressed(packed)


@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(-(2**63), 2**63 - 1)),
    st.integers(0, 2**62),
    st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text and text.isprintable()),
)
@settings(max_examples=50)
def test_a_chunk_survives_with_its_identity(tokens, stamp, tokenizer) -> None:
    arrival = ChunkArrival(ActionChunk(tokens, tokenizer, "0123456789abcdef", stamp, 7, 1), 123, 456)
    back = conversion.chunk_from_message(conversion.chunk_message(arrival))
    assert back.chunk.tokens.tolist() == tokens.tolist()
    assert back.chunk.tokenizer_id == tokenizer
    assert (back.chunk.spec_hash, back.chunk.observation_stamp_ns) == ("0123456789abcdef", stamp)
    assert (back.chunk.chunk_id, back.chunk.forced_rows, back.inference_ns, back.inferred_ns) == (7, 1, 123, 456)
    assert not back.chunk.tokens.flags.writeable


@pytest.mark.parametrize(
    "doubt", [None, ChunkDoubt(0.1 + 0.2, 0.0), ChunkDoubt(1.0, 0.5, 2.25), ChunkDoubt(1.0, 0.5, None, 0.75)]
)
def test_a_chunk_keeps_its_doubt_to_the_bit(doubt: ChunkDoubt | None) -> None:
    chunk = ActionChunk(np.zeros((2, 3), np.int64), "t", "s", 1, 1, doubt=doubt)
    assert conversion.chunk_from_message(conversion.chunk_message(ChunkArrival(chunk))).chunk.doubt == doubt


def test_a_chunk_with_an_impossible_doubt_is_refused() -> None:
    chunk = ActionChunk(np.zeros((2, 3), np.int64), "t", "s", 1, 1, doubt=ChunkDoubt(1.0, 1.0))
    message = conversion.chunk_message(ChunkArrival(chunk))
    message.data[5] = int(np.float64(1.5).view(np.int64))
    with pytest.raises(MessageError, match=r"a chunk's doubt: expected mean_probability in \[0, 1\], found 1.5"):
        conversion.chunk_from_message(message)


def test_a_chunk_without_the_agreed_layout_is_refused() -> None:
    message = conversion.chunk_message(ChunkArrival(ActionChunk(np.zeros((2, 3), np.int64), "t", "s", 1, 1)))
    next(iter(message.layout.dim)).size = 3
    with pytest.raises(MessageError, match="3 x 3 words, found 15"):
        conversion.chunk_from_message(message)
    message.layout.dim = [MultiArrayDimension(label="x", size=9, stride=9)]
    with pytest.raises(MessageError, match="horizon, action, tokenizer=ID"):
        conversion.chunk_from_message(message)


def test_a_record_of_another_release_is_refused() -> None:
    message = conversion.record_message(b"abc", "vla.control_tick.1")
    assert conversion.record_data(message, "vla.control_tick.1") == b"abc"
    with pytest.raises(MessageError, match=r"expected a record 'vla.control_tick.2'"):
        conversion.record_data(message, "vla.control_tick.2")
