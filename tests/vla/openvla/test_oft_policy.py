"""OpenVLA-OFT as a policy: the published normalizations, the boundary, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from controllers.types import Observation, Pose, RobotState, frozen_array
from tests.vla.openvla import tiny, tiny_oft
from tests.vla.openvla.tiny import HEADS, KEY, SIDE, Tensors, make_tensors, write_checkpoint
from tests.vla.openvla.tiny_oft import STATISTICS, Files, double, reference_actions, reference_hidden
from vla.openvla.images import ImageProcessor
from vla.openvla.model import with_action_prompt
from vla.openvla.oft.declared import (
    LIBERO_STATE,
    ActionHead,
    OFTDeclaration,
    oft_spec,
    state_parts,
)
from vla.openvla.oft.film import FilmedTensors
from vla.openvla.oft.policy import OFTRegressionPolicy, OFTTokenPolicy, load_oft_policy
from vla.openvla.oft.state import check_state, nearest_turn, proprio_statistics
from vla.openvla.published import CheckpointError, read_config
from vla.process.refusal import is_refusal
from vla.serving.fields import StateField
from vla.tokenizers import decoder_from_id


def encode(text: str) -> list[int]:
    """A stand-in for the Llama tokenizer's files, which are not ours to ship."""
    return [1, *(3 + ord(character) for character in text)]


def observation(seed: int, instruction: str, opening: float = 0.03) -> Observation:
    rng = np.random.default_rng(seed)
    half = rng.uniform(0.0, 0.5)
    pose = Pose(frozen_array(rng.uniform(-0.8, 0.8, 3)), frozen_array([np.cos(half), 0.0, np.sin(half), 0.0]))
    zeros = frozen_array(np.zeros(7))
    state = RobotState(zeros, zeros, zeros, pose, frozen_array(np.zeros(6)), opening, seed)
    images = {name: rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for name in ("wrist", "workspace")}
    return Observation(images, state, pose, instruction, seed)


OBSERVATIONS = [observation(5, "Pick up the Cup"), observation(6, "stack"), observation(7, " open it ")]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return make_tensors()


@pytest.fixture(scope="module")
def files() -> Files:
    return Files(tiny_oft.make_head(), tiny_oft.make_projector())


@pytest.fixture(scope="module")
def folder(tensors: Tensors, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_oft.write_files(write_checkpoint(tmp_path_factory.mktemp("oft"), tensors), files)


def load(folder: Path, declaration: OFTDeclaration) -> OFTRegressionPolicy | OFTTokenPolicy:
    return load_oft_policy(folder, declaration, dtype="fp32", heads=HEADS, encode=encode)


@pytest.fixture(scope="module")
def policy(folder: Path, files: Files) -> OFTRegressionPolicy:
    made = load(folder, tiny_oft.declaration(files, images=2))
    assert isinstance(made, OFTRegressionPolicy)
    return made


def expected_actions(folder: Path, tensors: Tensors, files: Files, seen: Observation) -> np.ndarray:
    """(8, 7) from the description: workspace's picture first, state scaled and clipped, 1e-8 added to the range."""
    processor = ImageProcessor.load(folder, SIDE, 2)
    pixels = processor([seen.images["workspace"], seen.images["wrist"]])
    w, _, y, _ = seen.state.ee_pose.quaternion
    opening = seen.state.gripper_opening
    state = np.array([*seen.state.ee_pose.position, 0.0, 2.0 * np.arctan2(y, w), 0.0, opening / 2, -opening / 2])
    proprio = STATISTICS[KEY]["proprio"]
    low, high = np.array(proprio["q01"]), np.array(proprio["q99"])
    state = np.clip(2 * (state - low) / (high - low + 1e-8) - 1, -1, 1)
    prompt = with_action_prompt(
        encode(f"In: What action should the robot take to {seen.instruction.strip().lower()}?\nOut:")
    )
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    exact_files = Files(double(files.head), double(files.projector))
    hidden = reference_hidden(exact, exact_files, pixels.double(), prompt, torch.from_numpy(state))
    assert exact_files.head is not None
    normalized = reference_actions(exact_files.head, hidden).numpy()
    action = STATISTICS[KEY]["action"]
    q01, q99 = np.array(action["q01"]), np.array(action["q99"])
    return np.where(action["mask"], 0.5 * (normalized + 1) * (q99 - q01 + 1e-8) + q01, normalized)


def test_continuous_chunks_are_the_published_ones_single_and_in_a_batch(
    policy: OFTRegressionPolicy, folder: Path, tensors: Tensors, files: Files
) -> None:
    together = policy.actions(OBSERVATIONS)
    assert together.shape == (3, 8, 7)
    for actions, seen in zip(together, OBSERVATIONS, strict=True):
        expected = expected_actions(folder, tensors, files, seen)
        assert np.abs(actions - expected).max() < 1e-4
        assert np.abs(policy.actions([seen])[0] - expected).max() < 1e-4


def test_the_boundary_rounds_by_less_than_it_states(policy: OFTRegressionPolicy) -> None:
    decoder = decoder_from_id(policy.tokenizer_id, policy.spec)
    continuous = policy.actions(OBSERVATIONS)
    for chunk, actions, seen in zip(policy.infer_batch(OBSERVATIONS), continuous, OBSERVATIONS, strict=True):
        assert (chunk.observation_stamp_ns, chunk.spec_hash) == (seen.stamp_ns, policy.spec.hash)
        assert (np.abs(decoder.decode(chunk.tokens) - actions) <= np.array(policy.account.bound) + 1e-9).all()
    account = policy.account
    assert (account.chunks, account.refused, sum(account.outside)) == (3, 0, 0)
    assert max(account.largest_error) > 0.0


def test_the_state_moves_the_actions(policy: OFTRegressionPolicy) -> None:
    seen = OBSERVATIONS[0]
    other = replace(seen, state=replace(seen.state, gripper_opening=0.07))
    assert np.abs(policy.actions([seen]) - policy.actions([other])).max() > 1e-5


def test_a_policy_of_tokens_writes_a_chunk_of_them_at_once(tensors: Tensors, tmp_path: Path) -> None:
    own = tiny_oft.write_files(write_checkpoint(tmp_path, tensors), Files())
    policy = load(own, tiny_oft.declaration(Files()))
    assert isinstance(policy, OFTTokenPolicy)
    assert (policy.tokenizer_id, policy.spec.horizon) == ("uniform-255/openvla-32000", 8)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    processor = ImageProcessor.load(own, SIDE, 2)
    for chunk, seen in zip(policy.infer_batch(OBSERVATIONS), OBSERVATIONS, strict=True):
        text = f"In: What action should the robot take to {seen.instruction.strip().lower()}?\nOut:"
        pixels = processor([seen.images["workspace"]]).double()
        hidden = reference_hidden(exact, Files(), pixels, with_action_prompt(encode(text)), None)
        scores = hidden @ exact["language_model.lm_head.weight"].T
        expected = 31744 + scores[:, 31744:32000].argmax(dim=-1).reshape(8, 7)
        assert chunk.tokens.tolist() == expected.tolist()
        assert chunk.log_probability is not None
        assert chunk.log_probability.shape == (8, 7)
    blind = replace(OBSERVATIONS[0], images={})
    assert is_refusal(policy.infer(blind))


def test_units_of_a_controller_are_brought_to_metres_and_radians(folder: Path, files: Files) -> None:
    plain = tiny_oft.declaration(files)
    statistics = read_config(folder).statistics_of(KEY)
    large = replace(statistics, q01=frozen_array(20 * statistics.q01), q99=frozen_array(20 * statistics.q99))
    with pytest.raises(CheckpointError, match=r"at most 0\.2 m a row, found 0\.8 m.*\(--oft-units, for LIBERO 0\.05"):
        oft_spec(large, plain)
    spec = oft_spec(large, replace(plain, units=(0.05, 0.5)))
    assert np.allclose(spec.upper, [0.03, 0.04, 0.04, 0.8, 0.8, 2.0, 1.0])
    load_scaled = load(folder, replace(plain, units=(0.5, 0.25), cameras=("workspace", "wrist")))
    as_it_is = load(folder, replace(plain, cameras=("workspace", "wrist")))
    assert isinstance(load_scaled, OFTRegressionPolicy)
    assert isinstance(as_it_is, OFTRegressionPolicy)
    scale = [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 1.0]
    assert np.allclose(load_scaled.actions(OBSERVATIONS), as_it_is.actions(OBSERVATIONS) * scale)


# -------------------------------------------------------------------------------------- what lies out of range


def with_gripper(head: Tensors, bias: float) -> Tensors:
    changed = {**head, "fc2.bias": head["fc2.bias"].clone()}
    changed["fc2.bias"][-1] = bias
    return changed


def loaded_with_gripper(tensors: Tensors, folder: Path, bias: float) -> OFTRegressionPolicy:
    files = Files(with_gripper(tiny_oft.make_head(), bias))
    own = tiny_oft.write_files(write_checkpoint(folder, tensors), files)
    made = load(own, replace(tiny_oft.declaration(files), overshoot=0.5))
    assert isinstance(made, OFTRegressionPolicy)
    return made


def test_a_head_that_misses_the_range_by_little_is_brought_to_its_end_and_counted(
    tensors: Tensors, tmp_path: Path
) -> None:
    policy = loaded_with_gripper(tensors, tmp_path, 1.25)
    beyond = policy.actions(OBSERVATIONS)[..., -1]
    assert ((beyond > 1.0) & (beyond < 1.5)).all()
    decoder = decoder_from_id(policy.tokenizer_id, policy.spec)
    for chunk in policy.infer_batch(OBSERVATIONS):
        assert np.allclose(decoder.decode(chunk.tokens)[:, -1], 1.0, atol=1e-3)
    assert policy.account.outside == (0, 0, 0, 0, 0, 0, 24)
    assert policy.account.refused == 0


@pytest.mark.parametrize("bias", [5.0, float("nan")])
def test_a_head_that_misses_it_by_more_is_refused(tensors: Tensors, tmp_path: Path, bias: float) -> None:
    policy = loaded_with_gripper(tensors, tmp_path, bias)
    chunk = policy.infer(OBSERVATIONS[0])
    assert is_refusal(chunk)
    assert chunk.tokenizer_id.startswith("none: row 0, gripper: expected a value in [-0.5, 1.5] fraction_open, found")


def test_an_observation_that_cannot_be_seen_is_refused(policy: OFTRegressionPolicy) -> None:
    seen = OBSERVATIONS[0]
    chunk = policy.infer(replace(seen, images={"workspace": seen.images["workspace"]}))
    assert chunk.tokenizer_id.startswith("none: expected a camera 'wrist', found workspace")
    chunk = policy.infer(replace(seen, state=replace(seen.state, gripper_opening=float("nan"))))
    assert chunk.tokenizer_id.startswith("none: expected a state of 8 finite values (ee_position, ee_axis_angle")


# ------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: replace(d, head=ActionHead.TOKENS), "expected no action_head, found action_head--150000_checkpoint"),
        (
            lambda d: replace(d, state=()),
            r"expected no proprio_projector, found .*--oft-state; LIBERO's are ee_position",
        ),
        (
            lambda d: replace(d, film=True),
            r"expected vision_backbone--STEP_checkpoint\.pt, found none; download the wh",
        ),
        (lambda d: replace(d, statistics_key="bridge_org"), "did you mean 'bridge_orig'"),
    ],
)
def test_a_declaration_that_the_files_contradict_is_refused(
    change: Callable[[OFTDeclaration], OFTDeclaration], message: str, folder: Path, files: Files
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(folder, change(tiny_oft.declaration(files)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ()}, "expected each of the model's cameras once, found none"),
        ({"cameras": ("wrist", "wrist")}, "expected each of the model's cameras once, found wrist, wrist"),
        ({"horizon": 0}, "expected a chunk of at least one row, found 0"),
        ({"units": (0.0, 1.0)}, "expected positive units"),
        ({"origin": (0.0, 0.0, float("nan"))}, "expected a finite origin"),
        ({"overshoot": 2.0}, "expected a share of the range"),
        ({"center_crop": 0.0}, "expected a share of the area"),
    ],
)
def test_a_declaration_of_no_checkpoint_is_refused(options: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        replace(OFTDeclaration(statistics_key=KEY, rate_hz=5, cameras=("workspace",)), **options)


def damaged(tensors: Tensors, folder: Path, name: str, content: object) -> Path:
    own = write_checkpoint(folder, tensors)
    tiny_oft.write_files(own, Files(tiny_oft.make_head(), tiny_oft.make_projector(), tiny_oft.make_vision(tensors)))
    torch.save(content, own / f"{name}--150000_checkpoint.pt")
    return own


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != name}


def damages(tensors: Tensors) -> dict[str, tuple[str, object, str]]:
    head, vision = tiny_oft.make_head(), tiny_oft.published_vision(tiny_oft.make_vision(tensors))
    block = "vision_backbone.featurizer.blocks.0"
    wide = {**tiny_oft.make_projector(), "fc1.weight": torch.zeros((9, 8))}
    five = {**tiny_oft.make_projector(), "fc1.weight": torch.zeros((tiny.TEXT_WIDTH, 5))}
    narrow = {**vision, f"{block}.scale.weight": torch.zeros((tiny.DINO_WIDTH, 5))}
    return {
        "diffusion": (
            "action_head",
            {"module.noise_predictor.fc1.weight": torch.zeros(2, 2)},
            "a diffusion head, which",
        ),
        "other weights": ("action_head", {**head, "fc1.weight": torch.zeros(4, 6)}, "336 together, found one for 6"),
        "no layer": ("action_head", without(head, "fc2.weight"), r"expected a matrix 'fc2\.weight'"),
        "no bias": ("action_head", without(head, "fc2.bias"), "do not fit L1Head"),
        "more": ("action_head", {**head, "extra": torch.zeros(1)}, "do not fit L1Head"),
        "no tensors": ("action_head", {"fc1.weight": 3}, "expected named tensors, found dict of other things"),
        "code": ("action_head", {"fc1.weight": Path("x")}, "expected tensors only, found a file that does not load"),
        "width": ("proprio_projector", wide, "expected a projector to width 48, found one to 9"),
        "values": ("proprio_projector", five, "expected a projector of 8 values, as the statistics of 'bridge_orig'"),
        "no scale": ("vision_backbone", without(vision, f"{block}.scale.weight"), r"scale\.weight'; did you mean"),
        "no LoRA": (
            "vision_backbone",
            without(vision, f"{block}.block.attn.qkv.lora_B.default.weight"),
            r"expected LoRA matrices A and B of 'vision_backbone\.featurizer\.blocks\.0\.attn\.qkv', found fewer",
        ),
        "FiLM width": ("vision_backbone", narrow, "modulation by embeddings of width 48, found 5"),
        "stranger": ("vision_backbone", {**vision, "gate": torch.zeros(1)}, "than OpenVLA's, found 'gate' and 0 more"),
    }


DAMAGES = damages(make_tensors())


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_component_is_named(name: str, tensors: Tensors, tmp_path: Path) -> None:
    component, content, message = DAMAGES[name]
    own = damaged(tensors, tmp_path, component, content)
    declaration = replace(tiny_oft.declaration(Files(tiny_oft.make_head())), state=LIBERO_STATE, film=True)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(own, declaration)
    assert f"{component}--150000_checkpoint.pt" in str(caught.value)


def test_a_component_that_would_run_code_does_not_run_it(tensors: Tensors, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    own = tiny_oft.write_files(write_checkpoint(tmp_path / "c", tensors), Files(tiny_oft.make_head()))
    (own / "action_head--150000_checkpoint.pt").write_bytes(pickle.dumps({"fc1.weight": Runs()}))
    with pytest.raises(CheckpointError, match="expected tensors only"):
        load(own, tiny_oft.declaration(Files(tiny_oft.make_head())))
    assert not (tmp_path / "ran").exists()


def test_files_of_two_steps_and_of_a_diffusion_head_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    files = Files(tiny_oft.make_head())
    own = tiny_oft.write_files(write_checkpoint(tmp_path, tensors), files)
    torch.save({}, own / "action_head--50000_checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"found action_head--150000_checkpoint\.pt, action_head--50000"):
        load(own, tiny_oft.declaration(files))
    torch.save({}, own / "noisy_action_projector--50000_checkpoint.pt")
    with pytest.raises(CheckpointError, match="found the files of a diffusion head, which is not implemented; choose"):
        load(own, tiny_oft.declaration(files))


def test_towers_without_lora_matrices_are_read_as_they_are(tensors: Tensors, tmp_path: Path) -> None:
    """A model that was trained as a whole has none; merging the others' gives the same."""
    vision = tiny_oft.make_vision(tensors)
    files = Files(tiny_oft.make_head(), None, vision)
    whole = Files(tiny_oft.make_head(), None, tiny_oft.merged(vision))
    chunks = []
    for name, part in (("lora", files), ("whole", whole)):
        own = tiny_oft.write_files(write_checkpoint(tmp_path / name, tensors), part)
        policy = load(own, tiny_oft.declaration(part, images=2))
        assert isinstance(policy, OFTRegressionPolicy)
        chunks.append(policy.actions(OBSERVATIONS))
    assert np.abs(chunks[0] - chunks[1]).max() < 1e-6


@pytest.mark.parametrize("rank", [8, 32])
def test_lora_matrices_are_merged_as_peft_merges_them(rank: int, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    name = "vision_backbone.featurizer.blocks.0.block.attn.qkv"
    root = inner = torch.nn.Module()
    for part in name.split(".")[:-1]:
        inner.add_module(part, torch.nn.Module())
        inner = inner.get_submodule(part)
    inner.add_module("qkv", torch.nn.Linear(12, 36))
    config = peft.LoraConfig(r=rank, lora_alpha=min(rank, 16), target_modules=["qkv"], init_lora_weights=False)
    trained = peft.get_peft_model(root, config)
    torch.save(trained.base_model.model.state_dict(), tmp_path / "vision_backbone--1_checkpoint.pt")
    ours = FilmedTensors(tmp_path / "vision_backbone--1_checkpoint.pt")
    layer = trained.merge_and_unload().get_submodule(name)
    for kind, expected in layer.named_parameters():
        taken = ours.take(f"{name.replace('.block.', '.')}.{kind}", torch.float32, torch.device("cpu"))
        assert (taken - expected).abs().max() < 1e-6
    assert len(ours.names) == 2


def test_a_state_in_another_frame_is_refused_until_the_frame_is_named(folder: Path, files: Files) -> None:
    plain = tiny_oft.declaration(files, images=2)
    seen = OBSERVATIONS[0]
    pose = Pose(frozen_array(seen.state.ee_pose.position + np.array([0.0, 0.0, 5.0])), seen.state.ee_pose.quaternion)
    moved = replace(seen, state=replace(seen.state, ee_pose=pose))
    policy = load(folder, plain)
    assert isinstance(policy, OFTRegressionPolicy)
    reason = policy.infer(moved).tokenizer_id
    assert reason.startswith("none: value 2 of the state, ee_position: expected one near the data set's [0, 1], found")
    named = load(folder, replace(plain, origin=(0.0, 0.0, -5.0)))
    assert isinstance(named, OFTRegressionPolicy)
    assert np.abs(named.actions([moved]) - policy.actions([seen])).max() < 1e-6


def test_a_turn_is_written_as_the_data_set_writes_it() -> None:
    half = np.array([3.1, 0.1, 0.0])
    same = half * (1.0 - 2.0 * np.pi / np.linalg.norm(half))
    assert np.linalg.norm(same) > np.pi
    around = np.array([-3.2, 0.0, 0.0])
    assert np.array_equal(nearest_turn(half, around), same)
    assert np.array_equal(nearest_turn(half, -around), half)
    assert np.array_equal(nearest_turn(np.zeros(3), around), np.zeros(3))
    angle = np.linalg.norm(same)
    ours = np.array([np.cos(angle / 2), *(same / angle * np.sin(angle / 2))])
    expected = np.array(
        [np.cos(np.linalg.norm(half) / 2), *(half / np.linalg.norm(half) * np.sin(np.linalg.norm(half) / 2))]
    )
    assert np.allclose(abs(ours @ expected), 1.0)


def test_a_state_of_another_size_or_name_is_refused(folder: Path, tmp_path: Path) -> None:
    statistics = proprio_statistics(folder, KEY)
    check_state(statistics, LIBERO_STATE, joints=7)
    check_state(statistics, (StateField.JOINT_POSITION, StateField.GRIPPER_OPENING), joints=7)
    with pytest.raises(CheckpointError, match=r"expected 8 values of the state.*found 7: ee_position \(3\), ee_quat"):
        check_state(statistics, (StateField.EE_POSITION, StateField.EE_QUATERNION_WXYZ), joints=7)
    with pytest.raises(CheckpointError, match="did you mean 'ee_axis_angle'"):
        state_parts(["ee_position", "ee_axis_angles"])
    tiny.write_json(tmp_path / "dataset_statistics.json", {KEY: tiny.STATISTICS[KEY]})
    with pytest.raises(CheckpointError, match=r"expected proprio\.q01 and proprio\.q99 to normalize the state"):
        proprio_statistics(tmp_path, KEY)
