import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import CommandMode
from ros_nodes.errors import MessageError
from ros_nodes.joints import JointIndex, JointNames, JointValues, command_mode

NAMES = JointNames(("a", "b", "c"), "grip", gripper_scale=2.0, gripper_offset=0.01)


@given(st.permutations(["a", "b", "c", "grip", "other"]))
def test_joints_are_found_by_name_in_any_order(order: list[str]) -> None:
    number = {"a": 1.0, "b": 2.0, "c": 3.0, "grip": 0.02, "other": 9.0}
    values = [number[name] for name in order]
    found = JointIndex(NAMES).read(order, values, values, [])
    assert found.position is not None
    assert found.position.tolist() == [1.0, 2.0, 3.0]
    assert found.gripper_opening == pytest.approx(0.05)
    assert found.effort is None


def test_a_changed_order_is_noticed() -> None:
    index = JointIndex(NAMES)
    index.read(["a", "b", "c", "grip"], [1, 2, 3, 0], [], [])
    found = index.read(["c", "b", "a", "grip"], [1, 2, 3, 0], [], [])
    assert found.position is not None
    assert found.position.tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("names", "position", "words"),
    [
        (["a", "b", "cc", "grip"], [0, 0, 0, 0], "missing c; did you mean 'cc'?"),
        (["a", "b", "c", "grip", "a"], [0] * 5, "a more than once"),
        (["a", "b", "c", "grip"], [0, 0, 0], "expected 4 values"),
        (["a", "b", "c", "grip"], [], "found no positions"),
        ([], [0.0], "found no names"),
    ],
)
def test_messages_that_do_not_fit_are_refused_in_words(names: list[str], position: list[float], words: str) -> None:
    with pytest.raises(MessageError, match=words.replace("?", r"\?")):
        JointIndex(NAMES).read(names, position, [], [])


def test_names_must_differ_and_the_scale_must_be_invertible() -> None:
    with pytest.raises(ValueError, match="all different"):
        JointNames(("a", "a"), "g")
    with pytest.raises(ValueError, match="gripper scale"):
        JointNames(("a",), "g", gripper_scale=0.0)


@pytest.mark.parametrize("mode", list(CommandMode))
def test_a_command_in_another_mode_is_refused(mode: CommandMode) -> None:
    array = np.ones(3)
    nan = np.full(3, np.nan)
    of = {
        CommandMode.POSITION: JointValues(array, None, None, 0.0),
        CommandMode.VELOCITY: JointValues(nan, array, None, 0.0),
        CommandMode.TORQUE: JointValues(nan, None, array, 0.0),
    }
    assert command_mode(of[mode], mode) is array
    for other in {CommandMode.VELOCITY, CommandMode.TORQUE} - {mode}:
        with pytest.raises(MessageError, match=r"both sides must agree|found positions"):
            command_mode(of[mode], other)


def test_a_position_command_that_also_commands_velocities_is_refused() -> None:
    with pytest.raises(MessageError, match="position values only"):
        command_mode(JointValues(np.ones(3), np.ones(3), None, 0.0), CommandMode.POSITION)
