"""LeRobot policies: a folder that does not fit is refused with what to change; one that fits answers in tokens."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("lerobot")

import torch
from safetensors.torch import load_file, save_file

from controllers.types import ActionSpec, Observation, Pose, RobotState, frozen_array
from sim.tabletop import CAMERAS
from sim.tabletop import TABLETOP_ACTION_SPEC as SPEC
from tests.vla.foreign import tiny_lerobot, tiny_pi0_fast, tiny_text
from vla.foreign.declaration import parse_declaration
from vla.lerobot_policy.folder import LeRobotFolderError, check_fit, read_folder
from vla.lerobot_policy.policy import LeRobotOptions, LeRobotPolicy
from vla.process.refusal import is_refusal
from vla.tokenizers import decoder_from_id

RT2 = "uniform-255/rt2"
KINDS = ("act", "diffusion", "smolvla", "pi0_fast")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny policy of each kind."""
    out = tmp_path_factory.mktemp("lerobot")
    features = tiny_lerobot.Features()
    vlm = tiny_text.save_model(out / "vlm", weights=False)
    return {
        "act": tiny_lerobot.save(tiny_lerobot.act(), out / "act", features.statistics()),
        "diffusion": tiny_lerobot.save(tiny_lerobot.diffusion(), out / "diffusion", features.statistics()),
        "smolvla": tiny_lerobot.save(tiny_lerobot.smolvla(vlm), out / "smolvla", features.statistics()),
        "pi0_fast": tiny_pi0_fast.save(out / "pi0_fast"),
    }


def seen(seed: int = 0, stamp_ns: int = 0) -> Observation:
    random = np.random.default_rng(seed)
    pose = Pose(frozen_array([0.4, 0.0, 0.3]), frozen_array([1.0, 0.0, 0.0, 0.0]))
    joints = frozen_array(random.normal(0, 0.5, 7))
    state = RobotState(joints, joints, joints, pose, frozen_array(np.zeros(6)), 0.04, stamp_ns)
    images = {name: random.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in CAMERAS.items()}
    return Observation(images, state, pose, "pick up the red block", stamp_ns)


def mapping() -> dict:
    return yaml.safe_load(tiny_lerobot.MAPPING)


def load(folder: Path, data: dict | None = None, spec: ActionSpec = SPEC) -> LeRobotPolicy:
    return LeRobotPolicy(read_folder(folder), parse_declaration(data or mapping()), LeRobotOptions(spec, RT2))


# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_answers_as_lerobot_does_up_to_rounding(kind: str, folders: dict[str, Path]) -> None:
    policy = load(folders[kind])
    policy.warm_up()
    observation = seen()
    chunk = policy.infer(observation)
    policy.reset()
    expected = lerobot_alone(policy, observation)[: SPEC.horizon]
    decoded = decoder_from_id(RT2, SPEC).decode(chunk.tokens)
    inside = (expected >= SPEC.lower) & (expected <= SPEC.upper)
    error = np.where(inside, np.abs(decoded - expected), 0.0)
    assert inside.mean() > 0.5
    assert (error <= np.array(policy.account.bound) * 1.001).all()
    assert policy.account.largest_error == pytest.approx(tuple(error.max(axis=0)), rel=1e-3, abs=1e-9)
    assert sum(policy.account.outside) == (~inside).sum()


def lerobot_alone(policy: LeRobotPolicy, observation: Observation) -> np.ndarray:
    """The same through LeRobot's own ``select_action``, one action after the other."""
    import cv2

    batch: dict = {"task": [observation.instruction]}
    for name, image in observation.images.items():
        small = cv2.resize(image, (tiny_lerobot.SIDE,) * 2, interpolation=cv2.INTER_AREA)
        batch[f"observation.images.{name}"] = torch.from_numpy(small).permute(2, 0, 1)[None] / 255.0
    state = np.append(observation.state.joint_position, observation.state.gripper_opening)
    batch["observation.state"] = torch.from_numpy(state.astype(np.float32))[None]
    with torch.inference_mode():
        ready = policy._before(batch)
        rows = [policy._after(policy._policy.select_action(dict(ready)))[0] for _ in range(SPEC.horizon)]
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("kind", ["diffusion", "smolvla"])
def test_sampling_starts_from_the_same_noise_in_every_episode(kind: str, folders: dict[str, Path]) -> None:
    policy = load(folders[kind])
    first = policy.infer(seen()).tokens
    again = policy.infer(seen()).tokens
    policy.reset()
    assert (policy.infer(seen()).tokens == first).all()
    assert (again != first).any()


def test_a_history_holds_observations_that_are_one_row_apart(folders: dict[str, Path]) -> None:
    policy, row_ns = load(folders["diffusion"]), round(1e9 / SPEC.rate_hz)

    def stacked(*stamps_ns: int) -> list[float]:
        policy.reset()
        for stamp_ns in stamps_ns:
            ready = {"observation.state": torch.full((1, 8), stamp_ns / row_ns)}
            answer = policy._with_history(ready, stamp_ns)
        return answer["observation.state"][0, :, 0].tolist()

    assert stacked(row_ns) == [1.0, 1.0]  # the first of an episode
    assert stacked(row_ns, 2 * row_ns) == [1.0, 2.0]
    assert stacked(row_ns, 4 * row_ns) == [4.0, 4.0]  # the one before is too old


def test_pi0_fast_that_writes_no_action_is_refused_not_played_as_zeros(tmp_path: Path) -> None:
    policy = load(tiny_pi0_fast.save(tmp_path / "policy", validate_prefix=True))
    policy.warm_up()
    answer = policy.infer(seen())
    assert is_refusal(answer)
    assert answer.tokenizer_id.startswith("none: pi0-FAST wrote no action: Token sequence does not start with")


def test_pi0_fast_of_another_length_is_refused(folders: dict[str, Path]) -> None:
    policy = load(folders["pi0_fast"])
    policy._policy.config.n_action_steps = 9
    answer = policy.infer(seen())
    assert answer.tokenizer_id == "none: pi0-FAST wrote 56 coefficients, 9 rows of 7 were expected"


def test_a_state_that_nobody_knows_is_refused(folders: dict[str, Path]) -> None:
    observation = seen()
    unknown = frozen_array(np.full(7, np.nan))
    blind = Observation(
        observation.images,
        RobotState(unknown, unknown, unknown, observation.state.ee_pose, observation.state.wrench, 0.04, 0),
        observation.commanded_pose,
        "go",
        0,
    )
    answer = load(folders["act"]).infer(blind)
    assert answer.tokenizer_id.startswith("none: observation.state: expected finite values, found [nan")


# ------------------------------------------------------------------------------------------------ misfits

Change = Callable[[dict], object]


def fit(folder: Path, data: dict, horizon: int = 1) -> None:
    declaration = parse_declaration(data)
    check_fit(read_folder(folder), declaration, declaration.stack.action_spec or SPEC, CAMERAS, horizon)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: m["observation"]["images"].pop("observation.images.wrist"),
            r"observation\.images\.wrist: expected a camera for this picture 3 x 64 x 64, found none in the mapping; "
            r"did you mean 'observation\.images\.workspace'\?; add `observation\.images\.wrist: \{camera: NAME\}` to "
            r"observation\.images \(cameras: workspace, wrist\)",
        ),
        (
            lambda m: m["observation"]["images"].update({"observation.images.wist": {"camera": "wrist", "size": 64}}),
            r"observation\.images\.wist: expected an input of the policy, found none of that name; did you mean "
            r"'observation\.images\.wrist'\?",
        ),
        (
            lambda m: m["observation"]["images"]["observation.images.wrist"].update(size=32),
            r"observation\.images\.wrist: expected a picture 3 x 64 x 64 \(channels x height x width\), found 3 x 32 "
            r"x 32 of the camera 'wrist'; write `size: 64`, or declare `stack\.cameras: \{wrist: \[64, 64\]\}`",
        ),
        (
            lambda m: m["observation"]["images"]["observation.images.wrist"].update(camera="wirst"),
            r"mapping of observation\.images\.wrist: unknown camera 'wirst'; did you mean 'wrist'\?",
        ),
        (
            lambda m: m["observation"]["state"].update({"observation.state": ["joint_position"]}),
            r"observation\.state: expected 8 values, found 7: joint_position \(7\); list the parts of the vector",
        ),
        (
            lambda m: m["observation"].update(state={}),
            r"observation\.state: expected the parts of this vector of 8, found none in the mapping",
        ),
        (
            lambda m: m["observation"].update(prompt="prompt"),
            r"instruction: expected the key 'task', found 'prompt'; write `prompt: task`",
        ),
        (
            lambda m: m["actions"].update(rows="exact"),
            r"actions: expected 8 rows in a chunk, found 10; write `rows: first` to take the first of them",
        ),
        (
            lambda m: m["actions"].update(scale=[1.0, 1.0]),
            r"actions\.scale: expected 7 values \(dx, dy, dz, drx, dry, drz, gripper\), found 2",
        ),
        (
            lambda m: m["stack"].update(action_spec=SPEC.to_json() | {"horizon": 12}),
            r"actions: expected 12 rows in a chunk, found 10; declare stack\.action_spec with a horizon of at most",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(change: Change, words: str, folders: dict[str, Path]) -> None:
    data = mapping()
    change(data)
    with pytest.raises(ValueError, match=words):
        fit(folders["act"], data)


def test_another_number_of_action_dimensions_is_refused(tmp_path: Path) -> None:
    features = tiny_lerobot.Features(action=6)
    folder = tiny_lerobot.save(tiny_lerobot.act(features), tmp_path / "act", features.statistics())
    with pytest.raises(
        LeRobotFolderError, match=r"actions: expected 7 dimensions \(dx, .*, gripper\).*found 6; declare"
    ):
        fit(folder, mapping())


def test_a_history_needs_an_observation_a_row(folders: dict[str, Path]) -> None:
    with pytest.raises(LeRobotFolderError, match="it sees 2 that are one row apart, found one in 2 rows; use --stack"):
        fit(folders["diffusion"], mapping(), horizon=2)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "model.safetensors",
            "expected model.safetensors, found .*name the folder that LeRobot calls pretrained_model",
        ),
        ("config.json", "expected config.json, found"),
        ("policy_preprocessor.json", "expected policy_preprocessor.json, found .*migrate_policy_normalization"),
    ],
)
def test_a_missing_file_is_named(file: str, words: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["act"], tmp_path / "copy")
    (folder / file).unlink()
    with pytest.raises(LeRobotFolderError, match=words):
        read_folder(folder)


@pytest.mark.parametrize(
    ("step", "key", "words"),
    [
        (
            "policy_postprocessor_step_0_unnormalizer_processor",
            "action.std",
            r"expected the statistics action\.std \(MEAN_STD\), found .*LeRobot would pass the values through",
        ),
        (
            "policy_preprocessor_step_3_normalizer_processor",
            "observation.state.mean",
            r"expected the statistics observation\.state\.mean \(MEAN_STD\), found",
        ),
    ],
)
def test_missing_statistics_are_refused(
    step: str, key: str, words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["act"], tmp_path / "copy")
    path = folder / f"{step}.safetensors"
    tensors = load_file(path)
    lost = tensors.pop(key)
    save_file(tensors, path)
    with pytest.raises(LeRobotFolderError, match=words):
        read_folder(folder)
    save_file(tensors | {key: lost * torch.nan}, path)
    with pytest.raises(LeRobotFolderError, match=rf"expected finite statistics, found {re.escape(key)} = \[nan"):
        read_folder(folder)


def test_a_policy_saved_without_any_statistics_is_refused(tmp_path: Path) -> None:
    folder = tiny_lerobot.save(tiny_lerobot.act(), tmp_path / "act", None)
    with pytest.raises(LeRobotFolderError, match=r"expected the statistics .*, found none; without them"):
        read_folder(folder)


def test_weights_of_another_configuration_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["act"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dim_model": 64}))
    with pytest.raises(LeRobotFolderError, match=r"(?s)LeRobot cannot load the act policy: .*size mismatch"):
        load(folder)


def test_a_kind_that_lerobot_does_not_know_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["act"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type": "akt"}))
    with pytest.raises(LeRobotFolderError, match=r"(?s)LeRobot cannot read the configuration: .*akt"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda tensors, name: tensors.pop(name),
            r"expected weights for 'model\..*', found none; the file is not of this",
        ),
        (
            lambda tensors, name: tensors.update({f"{name}.more": tensors[name].clone()}),
            r"expected weights of this pi0_fast configuration only, found 'model\..*\.more', too",
        ),
    ],
)
def test_random_weights_instead_of_those_in_the_file_are_found_out(
    change: Callable, words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """LeRobot's loader of pi0-FAST prints what went wrong, and goes on."""
    tiny_pi0_fast.shrink()
    folder = shutil.copytree(folders["pi0_fast"], tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    change(tensors, max(tensors))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LeRobotFolderError, match=words):
        load(folder)
