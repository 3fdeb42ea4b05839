"""The compact model: mask, determinism, files that refuse to load when damaged."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from controllers.types import Observation
from tests.vla.conftest import make_spec
from tests.vla.synthetic import ToyWorld
from vla.catalog import build_policy, policy_factory
from vla.compact.config import CompactConfig
from vla.compact.decoding import mean_around_mode, mode
from vla.compact.files import PolicyFileError, load_policy, save_policy
from vla.compact.language import WordVocabulary
from vla.compact.model import CompactModel
from vla.compact.policy import CompactPolicy, Decoding
from vla.compact.preprocess import PROPRIOCEPTION_NAMES, observation_proprioception, proprioception

WORDS = WordVocabulary.from_instructions(["pick up the red circle", "pick up the blue bar"])
SMALL = CompactConfig(
    vocabulary_size=len(WORDS.words),
    stem_width=8,
    feature_width=16,
    width=32,
    depth=2,
    heads=2,
    language_width=32,
    keypoints=8,
    named_keypoints=4,
    keypoint_group=4,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = CompactModel(SMALL)
    save_policy(tmp_path / "policy", SMALL, WORDS, make_spec(), dict(model.named_parameters()))
    return tmp_path / "policy"


def observations(count: int) -> list[Observation]:
    rng = np.random.default_rng(0)
    seen = [ToyWorld.create(seed).observe(seed, rng) for seed in range(count)]
    return [dataclasses.replace(o, instruction="pick up the red circle") for o in seen]


def inputs(batch: int = 2) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = tuple(
        torch.randint(0, 256, (batch, 128, 128, 3), dtype=torch.uint8, generator=generator) for _ in range(2)
    )
    words = torch.zeros((batch, SMALL.max_words), dtype=torch.int64)
    words[:, :4] = torch.tensor([3, 4, 5, 6])
    return images, words, torch.randn((batch, 16), generator=generator)


# -- the model


def test_padding_of_the_instruction_does_not_matter() -> None:
    torch.manual_seed(0)
    model = CompactModel(SMALL).eval()
    images, words, state = inputs()
    with torch.inference_mode():
        padded, bare = model(images, words, state)[0], model(images, words[:, :4], state)[0]
    assert torch.allclose(padded, bare, atol=1e-4)


def test_prefix_does_not_see_the_action_slots() -> None:
    mask = CompactModel(SMALL)._mask(torch.zeros(1, 4), 50)[0, 0]
    assert (mask[:42, 42:] < -1e3).all()
    assert (mask[42:] == 0).all()


def test_every_input_reaches_the_actions() -> None:
    torch.manual_seed(0)
    model = CompactModel(SMALL).eval()
    images, words, state = inputs()
    with torch.inference_mode():
        reference = model(images, words, state)[0]
        changed = [
            model((255 - images[0], images[1]), words, state),
            model((images[0], 255 - images[1]), words, state),
            model(images, words.roll(1, 1), state),
            model(images, words, state + 1.0),
        ]
    assert all((logits - reference).abs().max() > 1e-4 for logits, _ in changed)


def test_neutral_tint_changes_nothing() -> None:
    model = CompactModel(SMALL).eval()
    images, words, state = inputs()
    tint = torch.stack((torch.ones(2, 3), torch.zeros(2, 3)), dim=1)
    with torch.inference_mode():
        plain, tinted = model(images, words, state)[0], model(images, words, state, (tint, tint))[0]
    assert torch.allclose(plain, tinted, atol=1e-4)


def test_the_default_model_is_small_enough() -> None:
    count = sum(p.numel() for p in CompactModel(CompactConfig(vocabulary_size=200)).parameters())
    assert 2 * count < 20e6  # bytes in bfloat16


def test_it_overfits_a_tiny_batch() -> None:
    torch.manual_seed(0)
    model = CompactModel(dataclasses.replace(SMALL, image_size=64))
    images, words, state = inputs(4)
    images = tuple(image[:, ::2, ::2].contiguous() for image in images)
    tokens = torch.randint(0, 255, (4, 8, 7), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        logits, _ = model(images, words, state)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 2), tokens.flatten()).backward()
        optimizer.step()
    with torch.inference_mode():
        accuracy = (mode(model(images, words, state)[0]) == tokens).float().mean()
    assert accuracy > 0.95


# -- decoding


def test_mean_around_the_mode_finds_the_middle_of_a_smeared_label() -> None:
    bins = torch.arange(255.0)
    centers = torch.tensor([0.0, 3.0, 127.4, 251.2, 254.0])
    logits = -0.5 * ((bins - centers[:, None]) / 1.5) ** 2
    logits[:, 60] = logits.max(1).values - 0.5  # another, slightly lower mode must not pull
    assert mode(logits).tolist() == [0, 3, 127, 251, 254]
    found = mean_around_mode(logits).tolist()
    assert found[1:4] == [3, 127, 251]
    assert found[0] <= 2
    assert found[4] >= 252


# -- language


def test_the_same_word_in_a_later_noun_phrase_is_another_word() -> None:
    words = WordVocabulary.from_instructions(["stack the red block on the blue block"])
    one, other = (
        words.encode(f"stack the {a} block on the {b} block", 16) for a, b in (("red", "blue"), ("blue", "red"))
    )
    assert words.words[one[2]] == "red"
    assert words.words[one[6]] == "blue@2"
    assert words.words[other[2]] == "blue@2"  # never seen in the first place, but it is known
    old = WordVocabulary(("<pad>", "<unk>", "blue", "red", "stack", "the"))
    assert old.encode("stack the red the blue", 5).tolist() == [4, 5, 3, 5, 2]


def test_vocabulary_round_trip_and_unknown_words() -> None:
    again = WordVocabulary.from_json(WORDS.to_json())
    assert again == WORDS
    ids = again.encode("Pick up the GREEN circle", 8)
    assert ids.tolist()[5:] == [0, 0, 0]
    assert ids[3] == 1
    assert again.unknown_words("pick the green one") == ("green", "one")


def test_an_extended_vocabulary_keeps_old_ids() -> None:
    extended = WORDS.extended(["pick up the apple"])
    assert extended.words[: len(WORDS.words)] == WORDS.words
    assert extended.words[len(WORDS.words) :] == ("apple",)


@pytest.mark.parametrize(("instruction", "message"), [("", "empty"), ("go " * 17, "17 words, at most 16")])
def test_instructions_that_do_not_fit_are_refused(instruction: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WORDS.encode(instruction, 16)


# -- proprioception


def test_proprioception_is_the_same_for_one_and_for_many() -> None:
    (observation,) = observations(1)
    one = observation_proprioception(observation)
    pose = np.concatenate((observation.commanded_pose.position, observation.commanded_pose.quaternion))
    many = proprioception(pose[None], pose[None], np.array([observation.state.gripper_opening]), np.zeros((1, 6)))
    assert np.array_equal(one, many[0])
    assert one.shape == (len(PROPRIOCEPTION_NAMES),)


def test_rotation_columns_match_the_quaternion() -> None:
    half = np.sqrt(0.5)  # a quarter turn about z: x axis to y, y axis to -x
    pose = np.array([0.1, 0.2, 0.3, half, 0.0, 0.0, half])
    vector = proprioception(pose, pose, 0.04, np.zeros(6))
    assert vector[3:9] == pytest.approx([0, 1, 0, -1, 0, 0], abs=1e-7)


# -- the policy


def test_inference_is_deterministic_and_batches_agree(folder: Path) -> None:
    policy = CompactPolicy.load(folder, dtype="fp32", threads=1)
    seen = observations(3)
    together = policy.infer_batch(seen)
    for observation, chunk in zip(seen, together, strict=True):
        alone, again = policy.infer(observation), policy.infer(observation)
        assert np.array_equal(alone.tokens, again.tokens)
        assert np.abs(alone.tokens - chunk.tokens).max() <= 1  # sums are ordered differently
        assert alone.tokens.dtype == np.int64
        assert not alone.tokens.flags.writeable
        assert alone.observation_stamp_ns == observation.stamp_ns
        assert alone.spec_hash == policy.spec.hash


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("decoding", Decoding)
def test_a_reloaded_policy_gives_equal_tokens(folder: Path, tmp_path: Path, dtype: str, decoding: Decoding) -> None:
    first = CompactPolicy.load(folder, dtype=dtype, decoding=decoding)
    files = load_policy(folder)
    save_policy(tmp_path / "copy", files.config, files.vocabulary, files.spec, files.weights)
    second = CompactPolicy.load(tmp_path / "copy", dtype=dtype, decoding=decoding)
    for observation in observations(2):
        assert np.array_equal(first.infer(observation).tokens, second.infer(observation).tokens)


def test_a_wrong_camera_is_refused_by_name(folder: Path) -> None:
    policy = CompactPolicy.load(folder)
    (observation,) = observations(1)
    missing = dataclasses.replace(observation, images={"workspace": observation.images["workspace"]})
    with pytest.raises(ValueError, match=r"needs camera 'wrist'; the observation has: workspace"):
        policy.infer(missing)
    for shape in ((96, 96, 3), (224, 128, 3)):
        other = {**observation.images, "wrist": np.zeros(shape, np.uint8)}
        with pytest.raises(
            ValueError, match=f"square picture of 128 pixels a side or more, found {shape[0]} x {shape[1]}"
        ):
            policy.infer(dataclasses.replace(observation, images=other))
    gray = {**observation.images, "wrist": np.zeros((224, 224), np.uint8)}
    with pytest.raises(ValueError, match=re.escape("must give (N, N, 3) uint8, found (224, 224)")):
        policy.infer(dataclasses.replace(observation, images=gray))


def test_a_larger_picture_is_scaled_down_by_its_areas(folder: Path) -> None:
    policy = CompactPolicy.load(folder)
    (observation,) = observations(1)
    doubled = {name: image.repeat(2, axis=0).repeat(2, axis=1) for name, image in observation.images.items()}
    tokens = policy.infer(dataclasses.replace(observation, images=doubled)).tokens
    assert np.array_equal(tokens, policy.infer(observation).tokens)


def test_a_state_that_is_not_finite_is_refused(folder: Path) -> None:
    (observation,) = observations(1)
    broken = dataclasses.replace(observation.state, gripper_opening=float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        CompactPolicy.load(folder).infer(dataclasses.replace(observation, state=broken))


# -- files


def test_truncated_weights_say_what_was_expected_and_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PolicyFileError, match=r"model.safetensors \(\d+ bytes\): expected sha256 \w+, found \w+"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocabulary.json", "action_spec.json"])
def test_one_changed_byte_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(PolicyFileError, match=f"{name}.*expected sha256"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "vocabulary.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PolicyFileError, match=f"{name} is missing"):
        load_policy(folder)


def _reseal(folder: Path) -> None:
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["sha256"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_edited_action_spec_is_refused_even_when_its_checksum_fits(folder: Path) -> None:
    path = folder / "action_spec.json"
    contract = json.loads(path.read_text())
    contract["spec"]["q99"][0] *= 2
    path.write_text(json.dumps(contract))
    _reseal(folder)
    with pytest.raises(PolicyFileError, match=r"expected action spec hash \w+, found \w+"):
        load_policy(folder)


def test_an_unknown_config_field_names_the_near_match(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["widht"] = config.pop("width")
    path.write_text(json.dumps(config))
    _reseal(folder)
    with pytest.raises(PolicyFileError, match="unknown field 'widht'; did you mean 'width'"):
        load_policy(folder)


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["depth"] = 3
    path.write_text(json.dumps(config))
    _reseal(folder)
    with pytest.raises(PolicyFileError, match=r"(?s)do not fit config.json.*Missing key"):
        CompactPolicy.load(folder)


# -- by name


def test_policies_by_name(folder: Path) -> None:
    assert build_policy("compact", weights=str(folder)).tokenizer_id == "uniform-255/rt2"
    assert policy_factory("compact", weights=str(folder)).target == "vla.catalog:build_compact"
    with pytest.raises(ValueError, match=r"unknown policy 'compct'; did you mean 'compact'\? \(known: compact, "):
        build_policy("compct")
