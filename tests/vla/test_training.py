"""From recorded episodes to a policy folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests.vla.synthetic import ToyWorld, change_manifest, toy_spec, write_episode
from vla.catalog import policy_factory
from vla.compact.policy import CompactPolicy
from vla.process import PolicyProcess, ProcessMode
from vla.training.augment import Augmentation, augmented_batch, plain_batch, shift_image
from vla.training.checkpoints import EvaluationPlan, Rollouts
from vla.training.dataset import PackedDataset
from vla.training.loss import SoftLabelLoss
from vla.training.options import TrainOptions
from vla.training.sources import EpisodeError, Source, way_to_next_grip
from vla.training.split import split_dataset
from vla.training.train import train
from vla.training.zarr_source import read_array

TINY = {
    "stem_width": 8,
    "feature_width": 16,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "language_width": 32,
    "keypoints": 8,
    "named_keypoints": 4,
    "keypoint_group": 4,
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    for seed in range(8):
        write_episode(folder, seed, frames=6)
    return folder


def options(recorded: Path, out: Path, **changes: object) -> TrainOptions:
    base = TrainOptions(
        sources=(Source(recorded),),
        out=out,
        cache=out / "cache",
        max_steps=6,
        batch_size=4,
        held_out_fraction=0.3,
        model=TINY,
        quiet=True,
    )
    return dataclasses.replace(base, **changes)  # pyright: ignore[reportArgumentType]


# -- the cache


def test_cache_holds_what_was_recorded(recorded: Path, tmp_path: Path) -> None:
    data = PackedDataset(tmp_path)
    report = data.update([Source(recorded)])
    assert (report.added, report.known, report.waiting) == (8, 0, ())
    for entry in data.episodes[:3]:
        group = zarr.open_group(entry.path, mode="r")
        frames = slice(entry.start, entry.start + entry.count)
        for camera, name in enumerate(("workspace", "wrist")):
            stored = read_array(group, f"observations/images/{name}")
            assert np.array_equal(data.images[frames, camera], stored)
        assert np.array_equal(data.frames["tokens"][frames], read_array(group, "labels/tokens"))
        assert entry.instruction.startswith("pick up the ")


def test_cache_is_incremental_and_survives_reopening(recorded: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    data = PackedDataset(tmp_path / "cache")
    data.update([Source(recorded)])
    before = data.frames["tokens"].copy()
    write_episode(more, 100, frames=5)
    data = PackedDataset(tmp_path / "cache")
    report = data.update([Source(recorded), Source(more)])
    assert (report.added, report.known) == (1, 8)
    assert np.array_equal(data.frames["tokens"][: len(before)], before)
    assert len(data.frames) == data.count == len(data.images)


def test_an_interrupted_update_loses_only_the_open_episode(recorded: Path, tmp_path: Path) -> None:
    data = PackedDataset(tmp_path)
    data.update([Source(recorded)])
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "episodes.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    with (tmp_path / "images.u8").open("ab") as file:
        file.write(b"half an image")
    again = PackedDataset(tmp_path)
    assert len(again.episodes) == 7
    assert again.update([Source(recorded)]).added == 1
    assert np.array_equal(again.images, data.images)
    assert np.array_equal(again.frames, data.frames)


def test_an_unfinished_episode_waits(tmp_path: Path) -> None:
    folder = tmp_path / "episodes"
    write_episode(folder, 0, frames=3, finished=False)
    data = PackedDataset(tmp_path / "cache")
    ((path, reason),) = data.update([Source(folder)]).waiting
    assert path.endswith("toy_000000.zarr")
    assert reason == "not closed yet"
    write_episode(folder, 0, frames=3)
    assert data.update([Source(folder)]).added == 1


def test_observations_without_a_label_or_a_frame_are_left_out(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "episodes", 0, frames=4)
    group = zarr.open_group(str(path), mode="r+")
    stamps = group["labels/stamp_ns"]
    assert isinstance(stamps, zarr.Array)
    stamps[1] = 1  # no observation has this stamp
    present = group["observations/present/wrist"]
    assert isinstance(present, zarr.Array)
    present[2] = False
    data = PackedDataset(tmp_path / "cache")
    data.update([Source(tmp_path / "episodes")])
    assert (data.episodes[0].count, data.episodes[0].skipped) == (2, 2)


def test_episodes_of_another_action_spec_never_mix(recorded: Path, tmp_path: Path) -> None:
    path = write_episode(tmp_path / "other", 0, frames=3)
    change_manifest(path, action_spec={**toy_spec().to_json(), "rate_hz": 10})
    data = PackedDataset(tmp_path / "cache")
    data.update([Source(recorded)])
    with pytest.raises(EpisodeError, match=r"expected action spec \w+, found \w+; episodes of different specs"):
        data.update([Source(tmp_path / "other")])


def test_the_way_to_the_next_grip_ends_where_the_gripper_acts() -> None:
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]])
    tokens = np.zeros((5, 8, 7), np.int64)
    tokens[:2, :, 6] = 254  # open, open, closed ...
    assert way_to_next_grip(positions, tokens)[:, 0].tolist() == [2, 1, 2, 1, 0]


# -- what is drawn


def test_held_out_scenes_never_train_and_stay_held_out(recorded: Path, tmp_path: Path) -> None:
    data = PackedDataset(tmp_path)
    data.update([Source(recorded)])
    split = split_dataset(data, [Source(recorded)], {}, 0.3, True)
    episode = data.frames["episode"]
    assert not set(episode[split.train]) & set(episode[split.held_out])
    assert split.episodes + split.held_out_episodes == 8
    assert split.held_out_episodes > 0
    again = split_dataset(data, [Source(recorded)], {}, 0.3, False)
    assert np.array_equal(again.held_out, split.held_out)


def test_weights_decide_how_often_frames_are_drawn(recorded: Path, tmp_path: Path) -> None:
    relabelled = tmp_path / "relabelled"
    write_episode(relabelled, 50, frames=6)
    sources = [Source(recorded), Source(relabelled, weight=4.0, successes_only=False)]
    data = PackedDataset(tmp_path / "cache")
    data.update(sources)
    split = split_dataset(data, sources, {}, 0.0, balance_tasks=False)
    share = np.diff(split.cumulative, prepend=0.0)
    first_new = data.episodes[-1].start
    assert share[first_new:] == pytest.approx(4.0 * share[0])
    balanced = split_dataset(data, sources[:1], {}, 0.0, balance_tasks=True)
    share = np.diff(balanced.cumulative, prepend=0.0)
    tasks = np.array([data.episodes[i].task for i in data.frames["episode"][balanced.train]])
    totals = [share[tasks == task].sum() for task in np.unique(tasks)]
    assert totals == pytest.approx([1 / len(totals)] * len(totals))


def test_weights_for_unknown_tasks_are_refused(recorded: Path, tmp_path: Path) -> None:
    data = PackedDataset(tmp_path)
    data.update([Source(recorded)])
    with pytest.raises(ValueError, match=r"unknown tasks \['pik_bar'\]"):
        split_dataset(data, [Source(recorded)], {"pik_bar": 2.0}, 0.0, True)


# -- augmentation


@given(dy=st.integers(-6, 6), dx=st.integers(-6, 6))
def test_a_shift_moves_pixels_and_repeats_edges(dy: int, dx: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 12, 3)).astype(np.uint8)
    out = np.zeros_like(image)
    shift_image(image, dy, dx, out)
    rows, columns = (np.arange(16) - dy).clip(0, 15), (np.arange(12) - dx).clip(0, 11)
    assert np.array_equal(out, image[rows][:, columns])


def test_batches_are_a_function_of_the_generator(recorded: Path, tmp_path: Path) -> None:
    data = PackedDataset(tmp_path)
    data.update([Source(recorded)])
    words, frames = np.ones((8, 16), np.int64), np.array([3, 1, 1, 20])
    first, second = (
        augmented_batch(data, frames, words, Augmentation(), np.ones(16, np.float32), np.random.default_rng(7))
        for _ in range(2)
    )
    for a, b in zip(first.images + first.tints, second.images + second.tints, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.state, second.state)
    plain = plain_batch(data, frames, words)
    assert torch.equal(plain.images[0], torch.from_numpy(np.array(data.images[frames, 0])))
    assert torch.equal(first.tokens, plain.tokens)


# -- the loss


def test_near_misses_cost_less_than_far_ones_and_early_rows_more() -> None:
    loss = SoftLabelLoss(255, 8, 1.5, 0.8)
    tokens = torch.full((1, 8, 7), 100)

    def cost(guess: int, row: int | None = None) -> float:
        logits = torch.zeros((1, 8, 7, 255))
        where = slice(None) if row is None else slice(row, row + 1)
        logits[:, where] = -0.5 * ((torch.arange(255) - guess) / 1.5) ** 2
        return float(loss(logits, tokens))

    assert cost(100) < cost(102) < cost(110)
    assert cost(100, row=0) < cost(100, row=7)


# -- the loop


def test_train_writes_a_policy_that_runs_in_its_own_process(recorded: Path, tmp_path: Path) -> None:
    summary = train(options(recorded, tmp_path))
    assert summary.steps == 6
    assert summary.measures is not None
    assert "## Measures" in (summary.policy / "README.md").read_text()
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert entry["step"] == 6
    assert entry["held_out"]["translation_mm"] > 0
    observation = ToyWorld.create(0).observe(3, np.random.default_rng(0))
    expected = CompactPolicy.load(summary.policy, threads=1).infer(observation)
    with PolicyProcess(policy_factory("compact", weights=str(summary.policy)), ProcessMode.LOCK_STEP) as process:
        process.request(observation)
        (arrival,) = process.poll()
    assert np.array_equal(arrival.chunk.tokens, expected.tokens)
    assert arrival.chunk.spec_hash == process.spec.hash


def test_checkpoints_are_rolled_out_where_they_are_due(recorded: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, str, tuple[str, ...]]] = []

    def evaluate(policy: Path, step: int, tasks: tuple[str, ...]) -> Rollouts:
        calls.append((step, CompactPolicy.load(policy).spec.hash, tasks))
        return Rollouts(10, 3 + len(calls), 0.1, 0.7)

    summary = train(options(recorded, tmp_path, evaluation=EvaluationPlan(2, evaluate)))
    assert [step for step, _, _ in calls] == [2, 4, 6]
    assert {spec for _, spec, _ in calls} == {toy_spec().hash}
    assert all(task.startswith("pick_") for task in calls[0][2])
    assert summary.rollouts == Rollouts(10, 6, 0.1, 0.7)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["rollouts"]["successes"] for entry in logged if "rollouts" in entry] == [4, 5, 6]
    assert "6/10 episodes succeeded (10 to 70%)" in (summary.policy / "README.md").read_text()
    with pytest.raises(ValueError, match="expected one step or more between evaluations, found 0"):
        EvaluationPlan(0, evaluate)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["weights"]["master"]


def test_a_resumed_run_ends_where_the_unbroken_one_does(recorded: Path, tmp_path: Path) -> None:
    # A constant rate, so that the length of the run does not enter.
    constant = {"warmup": 0.0, "cooldown": 0.0, "bf16": False}
    train(options(recorded, tmp_path / "whole", **constant))
    train(options(recorded, tmp_path / "parts", max_steps=3, **constant))
    train(options(recorded, tmp_path / "parts", resume=True, **constant))
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_resuming_nothing_is_an_error(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume"):
        train(options(recorded, tmp_path, resume=True))


def test_a_run_continues_from_a_policy_with_new_words(recorded: Path, tmp_path: Path) -> None:
    first = train(options(recorded, tmp_path / "first"))
    relabelled = tmp_path / "relabelled"
    path = write_episode(relabelled, 60, frames=4)
    change_manifest(path, instruction="grab the apple")
    second = train(
        options(
            recorded,
            tmp_path / "second",
            sources=(Source(recorded), Source(relabelled, 3.0, False)),
            init_from=first.policy,
            model={},
        )
    )
    old, new = CompactPolicy.load(first.policy), CompactPolicy.load(second.policy)
    count = len(old.vocabulary.words)
    assert new.vocabulary.words[:count] == old.vocabulary.words
    assert new.vocabulary.words[count:] == ("apple", "grab")
    assert new.config.proprioception_mean == old.config.proprioception_mean


def test_no_successful_episode_is_an_error(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "episodes", 0, frames=3)
    change_manifest(path, outcome={"success": False, "reason": "time_limit", "ticks": 1})
    with pytest.raises(ValueError, match="no episode to train on"):
        train(options(tmp_path / "episodes", tmp_path / "run"))


@pytest.mark.slow
def test_two_processes_train_one_model_together(recorded: Path, tmp_path: Path) -> None:
    summary = train(options(recorded, tmp_path / "run", processes=2))
    assert summary.steps == 6
    policy = CompactPolicy.load(summary.policy)
    assert policy.spec == toy_spec()
    assert not (tmp_path / "run" / "meeting").exists()
