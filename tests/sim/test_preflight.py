"""Preflight: every planted mistake is named with what was expected and found, and what fits passes in silence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contract_mistakes import DECLARED, HIDDEN, DeclaredMistake, HiddenMistake, planted
from controllers.doubt import DoubtMeasure, DoubtOptions
from controllers.types import FloatArray, Observation, Pose, RobotState, frozen_array
from sim.assembly import default_config
from sim.policies import PolicyChoice
from sim.preflight import Recording, predictions, preflight, require_preflight, stack_contract
from sim.tabletop import TABLETOP_ACTION_SPEC
from vla.preflight.checks import compare
from vla.preflight.contract import ContractError, contract_from_json, contract_to_json
from vla.preflight.data import compare_predicted, compare_recorded
from vla.preflight.findings import Check, PreflightError
from vla.preflight.reading import read_contract

STACK = stack_contract(default_config())
POLICY = replace(read_contract(PolicyChoice("compact").folder), joints=STACK.joints)


@pytest.mark.parametrize("robot", ["panda", "ur5e", "so101"])
def test_the_compact_policy_fits_every_robot_of_the_suite(robot: str) -> None:
    assert preflight(PolicyChoice("compact"), default_config(robot), "pick up the red block") == []


def test_experts_have_no_contract() -> None:
    assert preflight(PolicyChoice("expert"), default_config()) == []


@pytest.mark.parametrize(
    ("policy", "samples", "measure", "refusal"),
    [
        ("expert", 0, DoubtMeasure.MEAN_ENTROPY, "'expert' tells no doubt at all; drop the thresholds"),
        ("compact", 0, DoubtMeasure.MEAN_ENTROPY, ""),
        ("compact", 4, DoubtMeasure.AGREEMENT, ""),
        ("compact", 0, DoubtMeasure.AGREEMENT, "one of these measures, or sample decodes with --doubt-samples"),
    ],
)
def test_thresholds_on_a_doubt_that_the_policy_does_not_tell_are_refused(
    policy: str, samples: int, measure: DoubtMeasure, refusal: str
) -> None:
    choice = PolicyChoice(policy, doubt_samples=samples)
    config = replace(default_config(), doubt=DoubtOptions(measure, hold_above=0.9))
    if not refusal:
        assert preflight(choice, config) == []
        return
    with pytest.raises(ValueError, match=f"expected a policy that tells its doubt by {measure.value}.*{refusal}"):
        require_preflight(choice, config)


@pytest.mark.parametrize("mistake", DECLARED, ids=lambda mistake: mistake.name)
def test_a_declared_mistake_is_named_with_what_was_expected_and_found(mistake: DeclaredMistake, tmp_path: Path) -> None:
    wrong = contract_to_json(mistake.plant(POLICY))
    (tmp_path / "contract.json").write_text(json.dumps(wrong))
    findings = compare(read_contract(tmp_path), STACK)
    assert {finding.check for finding in findings} == {mistake.check}
    text = "\n".join(map(str, findings))
    for word in mistake.words:
        assert word in text


def test_a_run_that_does_not_fit_is_refused_with_all_mistakes(tmp_path: Path) -> None:
    choice = PolicyChoice("compact")
    config = replace(default_config(), cameras={"front": (224, 224)})
    with pytest.raises(PreflightError) as error:
        require_preflight(choice, config)
    assert str(error.value) == (
        "the preflight of 'compact' found 2 mistake(s), nothing was moved:\n"
        "  camera_names: expected a camera 'workspace', which the policy needs; found cameras front; "
        "rename the stack's cameras, or map them\n"
        "  camera_names: expected a camera 'wrist', which the policy needs; found cameras front; "
        "rename the stack's cameras, or map them"
    )


def test_a_prompt_may_not_be_in_the_instruction_already() -> None:
    policy = replace(POLICY, prompt="In: What action should the robot take to {instruction}?\nOut:")
    assert compare(policy, STACK, "pick up the block") == []
    (finding,) = compare(policy, STACK, "In: What action should the robot take to pick up the block?\nOut:")
    assert finding.check is Check.PROMPT


# --------------------------------------------------------------------------------------- contract files


def test_a_contract_survives_its_file() -> None:
    again = contract_from_json(json.loads(json.dumps(contract_to_json(POLICY))), POLICY.owner)
    assert contract_to_json(again) == contract_to_json(POLICY)
    assert compare(again, STACK) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gripers": 1}, "unknown entry 'gripers'; did you mean 'gripper'?"),
        ({"space": "nowhere"}, "cannot be read"),
        ({"lower": [0.0]}, "lower: expected 7 numbers, found 1"),
        ({"rate_hz": None}, "cannot be read"),
    ],
)
def test_a_contract_file_is_read_strictly(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ContractError) as error:
        contract_from_json({**contract_to_json(POLICY), **changes}, "policy")
    assert reason in str(error.value)


def test_a_folder_without_a_contract_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ContractError, match=r"expected contract\.json, or .*found model\.safetensors"):
        read_contract(tmp_path)


# ------------------------------------------------------------------------------------------ with a recording


def looking_policy(seen: Observation) -> FloatArray:
    """A policy of these tests: its actions follow the colours of the four corners of its picture."""
    corners = seen.images["workspace"][[0, 0, -1, -1], [0, -1, 0, -1]].astype(float) / 255.0
    unit = np.concatenate((corners[0] - corners[3], 0.5 * (corners[1] - corners[2])))
    row = np.concatenate((0.02 * unit[:3], 0.1 * unit[3:], [float(corners[0, 0] > 0.5)]))
    return np.tile(row, (TABLETOP_ACTION_SPEC.horizon, 1))


def recording(noise: float) -> Recording:
    rng = np.random.default_rng(0)
    observations = []
    for stamp in range(24):
        image = np.zeros((8, 8, 3), np.uint8)
        image[[0, 0, -1, -1], [0, -1, 0, -1]] = rng.integers(0, 256, (4, 3))
        pose = Pose(frozen_array(rng.uniform([0.3, -0.3, 0.1], [0.6, 0.3, 0.5])), frozen_array([0, 1, 0, 0]))
        zeros = frozen_array(np.zeros(7))
        state = RobotState(zeros, zeros, zeros, pose, frozen_array(np.zeros(6)), 0.04, stamp)
        observations.append(Observation({"workspace": image}, state, pose, "go", stamp))
    actions = np.stack([looking_policy(seen) for seen in observations])
    actions[..., :6] += noise * rng.normal(size=actions[..., :6].shape) * [*[0.01] * 3, *[0.05] * 3]
    return Recording(tuple(observations), actions)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_a_policy_that_fits_its_recording_is_not_complained_of(noise: float) -> None:
    data = predictions(recording(noise), looking_policy)
    assert compare_predicted(data, POLICY) == []
    assert compare_recorded(recording(0.0).actions, POLICY, "episode") == []


def test_a_policy_that_is_merely_bad_is_not_a_mistake() -> None:
    rng = np.random.default_rng(1)

    def bad(seen: Observation) -> FloatArray:
        return looking_policy(seen) * 0.7 + rng.normal(size=(8, 7)) * [*[0.008] * 3, *[0.04] * 3, 0.1]

    assert compare_predicted(predictions(recording(0.5), bad), POLICY) == []


@pytest.mark.parametrize("mistake", HIDDEN, ids=lambda mistake: mistake.name)
def test_a_hidden_mistake_shows_in_the_predictions(mistake: HiddenMistake) -> None:
    data = predictions(recording(0.1), planted(mistake, looking_policy))
    findings = compare_predicted(data, POLICY)
    assert mistake.check in {finding.check for finding in findings}
    assert all(word in "\n".join(map(str, findings)) for word in mistake.words)


def test_a_recording_in_other_units_is_named() -> None:
    (finding,) = compare_recorded(recording(0.0).actions * 50, POLICY, "episode.zarr")
    assert finding.check is Check.ACTION_SCALE
    assert "in episode.zarr" in finding.found


def test_a_handful_of_chunks_proves_nothing() -> None:
    few = Recording(recording(0.0).observations[:3], recording(0.0).actions[:3])
    wrong = planted(HIDDEN[0], looking_policy)
    assert compare_predicted(predictions(few, wrong), POLICY) == []


def test_joint_names_are_compared_only_where_both_sides_know_them() -> None:
    assert compare(replace(POLICY, joints=()), STACK) == []
