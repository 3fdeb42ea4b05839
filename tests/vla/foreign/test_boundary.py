"""The declaration of a foreign policy is read strictly; its actions cross to tokens with the cost stated."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import ActionSpec, Observation, Pose, RobotState, frozen_array
from sim.tabletop import TABLETOP_ACTION_SPEC as SPEC
from vla.foreign.boundary import Boundary, OutOfRange
from vla.foreign.declaration import built_in_declarations, load_declaration, parse_declaration
from vla.process.account import BoundaryAccount
from vla.process.refusal import is_refusal
from vla.serving.fields import MappingError
from vla.tokenizers import decoder_from_id

RT2 = "uniform-255/rt2"
MINIMAL = {"observation": {"images": {"image": {"camera": "workspace"}}, "state": {}}}


def seen() -> Observation:
    pose = Pose(frozen_array([0.4, 0.0, 0.3]), frozen_array([1.0, 0.0, 0.0, 0.0]))
    zeros = frozen_array(np.zeros(7))
    state = RobotState(zeros, zeros, zeros, pose, frozen_array(np.zeros(6)), 0.08, 5)
    return Observation({}, state, pose, "go", 5)


def chunk(value: float = 0.0) -> np.ndarray:
    actions = np.full((SPEC.horizon, SPEC.dims), value)
    actions[:, -1] = 0.5
    return actions


# ---------------------------------------------------------------------------------------------- boundary


@given(st.lists(st.floats(0.0, 1.0), min_size=56, max_size=56))
def test_what_the_tokens_mean_is_within_the_stated_error(shares: list[float]) -> None:
    boundary = Boundary(SPEC, RT2)
    actions = boundary.lower + np.array(shares).reshape(8, 7) * (boundary.upper - boundary.lower)
    actions = np.clip(actions, boundary.lower, boundary.upper)
    written = boundary.chunk(actions, seen())
    error = np.abs(decoder_from_id(RT2, SPEC).decode(written.tokens) - actions)
    account = boundary.account
    assert account.largest_error == tuple(error.max(axis=0))
    assert (error.max(axis=0) <= np.array(account.bound) * (1 + 1e-9)).all()
    assert np.allclose(account.mean_error, error.mean(axis=0), rtol=1e-12, atol=0)
    assert (account.chunks, account.refused, account.values, account.outside) == (1, 0, 8, (0,) * 7)


def test_a_value_outside_is_refused_counted_and_named() -> None:
    boundary, actions = Boundary(SPEC, RT2), chunk()
    actions[3, 1] = 0.03
    answer = boundary.chunk(actions, seen())
    assert is_refusal(answer)
    assert answer.tokenizer_id == (
        "none: row 3, dy: expected a value in [-0.025, 0.025] m, found 0.03; check scale, offset and statistics"
    )
    account = boundary.account
    assert (account.chunks, account.refused, account.outside) == (0, 1, (0, 1, 0, 0, 0, 0, 0))
    assert account.lines()[-1] == "  outside the range, of 8 values each: dy 1; their chunks were refused"


def test_where_it_is_declared_a_value_outside_is_brought_to_the_end_and_counted() -> None:
    boundary, actions = Boundary(SPEC, RT2, OutOfRange.SATURATE), chunk()
    actions[3, 1], actions[4, 6] = 0.03, -0.2
    decoded = decoder_from_id(RT2, SPEC).decode(boundary.chunk(actions, seen()).tokens)
    assert decoded[3, 1] == pytest.approx(0.025, abs=1e-4)
    assert decoded[4, 6] == pytest.approx(0.0, abs=4e-3)
    account = boundary.account
    assert (account.chunks, account.refused, account.outside) == (1, 0, (0, 1, 0, 0, 0, 0, 1))
    assert account.lines()[-1] == (
        "  outside the range, of 8 values each: dy 1, gripper 1; brought to the end of the range, as declared"
    )


def test_quantiles_narrower_than_the_bounds_are_the_range() -> None:
    q99 = frozen_array(0.5 * np.array(SPEC.statistics.q99))
    narrow = replace(SPEC, statistics=replace(SPEC.statistics, q99=q99))
    boundary = Boundary(narrow, RT2)
    assert is_refusal(boundary.chunk(chunk(0.02), seen()))
    assert not is_refusal(boundary.chunk(chunk(0.0125), seen()))


def test_an_account_survives_the_journey_and_a_false_one_does_not() -> None:
    boundary = Boundary(SPEC, RT2)
    boundary.chunk(chunk(), seen())
    data = {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(boundary.account).items()}
    assert BoundaryAccount.from_json(data) == boundary.account
    with pytest.raises(TypeError, match="expected numbers"):
        BoundaryAccount.from_json({**data, "bound": ["x"]})


# ------------------------------------------------------------------------------------------- declaration


@pytest.mark.parametrize("name", built_in_declarations())
def test_the_built_in_mappings_are_read(name: str) -> None:
    declaration = load_declaration(name)
    assert declaration.stack.action_spec is not None
    declaration.actions.check(declaration.stack.action_spec)


def test_what_is_declared_of_the_stack_is_read() -> None:
    spec = SPEC.to_json() | {"rate_hz": 10, "horizon": 4}
    stack = {"action_spec": spec, "tokenizer": "uniform-1000/rt2", "cameras": {"front": [48, 64]}}
    declaration = parse_declaration(MINIMAL | {"stack": stack | {"execution_horizon": 3}})
    assert declaration.stack.action_spec == ActionSpec.from_json(spec)
    assert declaration.stack.cameras == {"front": (48, 64)}
    assert (declaration.stack.tokenizer_id, declaration.stack.execution_horizon) == ("uniform-1000/rt2", 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"obsrvation": {}}, "mapping: unknown entry 'obsrvation'; did you mean 'observation'?"),
        ({"actions": {"out_of_range": "clip"}}, "actions.out_of_range: unknown name 'clip'.*valid: refuse, saturate"),
        ({"actions": {"scale": ["x"]}}, "actions.scale: expected finite numbers, found 'x'"),
        ({"stack": {"tokenizer": "uniform-255/rt3"}}, "stack.tokenizer: unknown tokenizer.*mean 'uniform-255/rt2'"),
        ({"stack": {"tokenizer": "bspline-5/255"}}, "one token for each row and dimension, found 'bspline-5/255'"),
        ({"stack": {"cameras": {"front": 64}}}, r"stack.cameras.front: expected a list, found int 64"),
        ({"stack": {"action_spec": {"space": "ee_delta"}}}, "stack.action_spec: missing frame, names"),
        ({"stack": {"action_spec": SPEC.to_json() | {"q01": [0.0]}}}, "has 7 names but 1 values in 'q01'"),
        ({"stack": {"action_spec": SPEC.to_json() | {"space": "ee"}}}, "'ee' is not a valid ActionSpace"),
        ({"text": {"prompt": "go"}}, "text.prompt: expected {instruction} in it once, found 'go'"),
        ({"text": {"rows_apart": " 0 "}}, "text.rows_apart: expected text without digits"),
    ],
)
def test_a_mistake_in_a_mapping_is_named(change: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | change))
    with pytest.raises(MappingError, match=f"{re.escape(str(path))}: .*{words}"):
        load_declaration(path)


def test_no_mapping_and_an_unknown_one_are_errors_that_help() -> None:
    with pytest.raises(MappingError, match=r"expected a mapping from the robot's cameras.*--policy-mapping"):
        load_declaration("")
    with pytest.raises(MappingError, match=r"unknown mapping 'tabletop_lerbot'; did you mean 'tabletop_lerobot'\?"):
        load_declaration("tabletop_lerbot")
