"""OpenVLA in the published layout: the same logits, tokens and actions as an independent computation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from controllers.types import Observation, Pose, RobotState, frozen_array
from tests.vla.openvla.tiny import (
    HEADS,
    KEY,
    SIDE,
    STATISTICS,
    Tensors,
    make_tensors,
    reference_logits,
    reference_tokens,
    write_checkpoint,
)
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.images import ImageProcessor
from vla.openvla.model import OpenVLAModel, load_model, with_action_prompt
from vla.openvla.policy import OpenVLAOptions, OpenVLAPolicy
from vla.openvla.published import CheckpointError
from vla.openvla.towers import Heads
from vla.tokenizers import decoder_from_id

PROMPT = [1, 512, 9, 77, 31000, 29871]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return make_tensors()


@pytest.fixture(scope="module")
def folder(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("openvla") / "checkpoint", tensors)


@pytest.fixture(scope="module")
def model(folder: Path) -> OpenVLAModel:
    return load_model(Checkpoint(folder), dtype=torch.float32, heads=HEADS)


def pixels(seed: int, count: int = 1) -> torch.Tensor:
    return torch.randn((count, 6, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def pictures(seed: int, count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 60, 80, 3), dtype=np.uint8))


@pytest.mark.parametrize("seed", range(3))
def test_logits_equal_the_reference(model: OpenVLAModel, tensors: Tensors, seed: int) -> None:
    picture = pixels(seed)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    ours = model.logits(picture, [PROMPT])[0]
    assert (ours - reference_logits(exact, picture.double(), PROMPT)).abs().max() < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_cached_decoding_writes_the_tokens_of_the_uncached_reference(
    model: OpenVLAModel, tensors: Tensors, seed: int
) -> None:
    picture = pixels(10 + seed)
    assert model.decode(picture, [PROMPT], 7).tokens[0].tolist() == reference_tokens(tensors, picture, PROMPT, 7)


def test_a_batch_with_prompts_of_different_lengths_equals_one_at_a_time(model: OpenVLAModel) -> None:
    batch = pixels(20, 3)
    prompts = [PROMPT, [1, 40, 29871], [1, 9, 8, 7, 6, 5, 4, 29871]]
    together = model.decode(batch, prompts, 7)
    for index, prompt in enumerate(prompts):
        alone = model.decode(batch[index : index + 1], [prompt], 7)
        assert together.tokens[index].tolist() == alone.tokens[0].tolist()
        assert (together.log_probability[index] - alone.log_probability[0]).abs().max() < 1e-4


def test_tokens_are_always_action_ids_and_doubt_is_told(model: OpenVLAModel) -> None:
    decoded = model.decode(pixels(30, 4), [PROMPT] * 4, 7)
    assert decoded.tokens.min() >= 31744
    assert decoded.tokens.max() <= 31999
    assert (decoded.log_probability <= 0.0).all()
    # Random weights hardly ever want to write an action.
    assert (decoded.action_mass < 0.2).all()


def test_the_prompt_ends_in_the_empty_piece_once() -> None:
    assert with_action_prompt([1, 5]) == [1, 5, 29871]
    assert with_action_prompt([1, 5, 29871]) == [1, 5, 29871]


def test_preprocessing_is_pillows_bicubic_with_the_rounded_constants(folder: Path) -> None:
    picture = pictures(0, 1)[0]
    made = ImageProcessor.load(folder, SIDE, 2)([picture])[0]
    resized = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255.0
    dino = (resized - [0.484375, 0.455078125, 0.40625]) / [0.228515625, 0.2236328125, 0.224609375]
    assert made.shape == (6, SIDE, SIDE)
    assert np.abs(made[:3].permute(1, 2, 0).numpy() - dino).max() < 1e-6
    assert np.abs(made[3:].permute(1, 2, 0).numpy() - (resized - 0.5) / 0.5).max() < 1e-6


def test_a_centre_crop_keeps_its_share_of_the_area(folder: Path) -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[25:75, 25:75] = 255
    whole, cropped = (ImageProcessor.load(folder, 40, 2, share)([picture])[0, 3] for share in (None, 0.25))
    assert (whole > 0.0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert (cropped > 0.0).float().mean() == pytest.approx(1.0, abs=0.02)


# ------------------------------------------------------------------------------------------------ the policy


def encode(text: str) -> list[int]:
    """A stand-in for the Llama tokenizer's files, which are not ours to ship."""
    return [1, *(3 + ord(character) for character in text)]


def observation(picture: np.ndarray, instruction: str, stamp: int) -> Observation:
    pose = Pose(frozen_array(np.zeros(3)), frozen_array([1.0, 0.0, 0.0, 0.0]))
    zeros = frozen_array(np.zeros(7))
    state = RobotState(zeros, zeros, zeros, pose, frozen_array(np.zeros(6)), 0.04, stamp)
    return Observation({"front": picture}, state, pose, instruction, stamp)


def test_the_policys_actions_are_the_published_un_normalization(folder: Path, tensors: Tensors) -> None:
    options = OpenVLAOptions(statistics_key=KEY, rate_hz=5, dtype="fp32", heads=HEADS)
    policy = OpenVLAPolicy.load(folder, options, encode)
    decoder = decoder_from_id(policy.tokenizer_id, policy.spec)
    observations = [
        observation(picture, instruction, stamp)
        for picture, instruction, stamp in zip(
            pictures(1, 3), ("Pick up the Cup", "stack", "open it"), (5, 6, 7), strict=True
        )
    ]
    chunks = policy.infer_batch(observations)
    entry = STATISTICS[KEY]["action"]
    q01, q99, mask = (np.array(entry[key]) for key in ("q01", "q99", "mask"))
    images = ImageProcessor.load(folder, SIDE, 2)
    for chunk, seen in zip(chunks, observations, strict=True):
        assert chunk.observation_stamp_ns == seen.stamp_ns
        assert chunk.spec_hash == policy.spec.hash
        text = f"In: What action should the robot take to {seen.instruction.lower()}?\nOut:"
        expected = reference_tokens(tensors, images([seen.images["front"]]), with_action_prompt(encode(text)), 7)
        assert chunk.tokens[0].tolist() == expected
        centers = (np.linspace(-1, 1, 256)[:-1] + np.linspace(-1, 1, 256)[1:]) / 2
        normalized = centers[np.clip(32000 - np.array(expected) - 1, 0, 254)]
        action = np.where(mask, 0.5 * (normalized + 1) * (q99 - q01) + q01, normalized)
        if 0.0 <= action[-1] <= 1.0:
            assert np.abs(decoder.decode(chunk.tokens)[0] - action).max() < 1e-9


# ------------------------------------------------------------------------------------------------- bad input


def test_the_statistics_must_be_named(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.config.statistics_of("bridge_org")
    assert str(caught.value) == (
        "expected the data set whose statistics un-normalize the actions (unnorm_key), found 'bridge_org'; did you "
        "mean 'bridge_orig'?; this checkpoint has: bridge_orig"
    )


def test_statistics_beside_the_weights_replace_those_of_the_configuration(
    folder: Path, tensors: Tensors, tmp_path: Path
) -> None:
    own = write_checkpoint(tmp_path / "tuned", tensors)
    (own / "dataset_statistics.json").write_text(json.dumps({"mine": STATISTICS[KEY]}))
    assert list(Checkpoint(own).config.statistics) == ["mine"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("projector.fc2.weight", "expected a tensor 'projector.fc2.weight'"),
        ("language_model.model.layers.1.mlp.up_proj.weight", "do not fit LlamaForCausalLM"),
    ],
)
def test_a_missing_tensor_is_named(tensors: Tensors, tmp_path: Path, missing: str, message: str) -> None:
    folder = write_checkpoint(tmp_path / "c", {name: tensor for name, tensor in tensors.items() if name != missing})
    with pytest.raises(CheckpointError, match=message):
        load_model(Checkpoint(folder), dtype=torch.float32, heads=HEADS)


def test_a_tensor_that_nobody_knows_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", {**tensors, "action_head.fc.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=r"found 'action_head\.fc\.weight' and 0 more"):
        load_model(Checkpoint(folder), dtype=torch.float32, heads=HEADS)


def test_a_missing_shard_is_named(tensors: Tensors, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", tensors)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected the shard .*model-00002-of-00002\.safetensors, found none"):
        Checkpoint(folder)


def test_a_cut_shard_is_named(tensors: Tensors, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", tensors)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(Checkpoint(folder), dtype=torch.float32, heads=HEADS)


def test_heads_that_do_not_divide_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="divides the width 48, found 7"):
        load_model(Checkpoint(folder), dtype=torch.float32, heads=Heads(towers=(2, 3), language=7))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(CheckpointError, match="expected model_type 'openvla', found 'llava'"):
        Checkpoint(tmp_path)
