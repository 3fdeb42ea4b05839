"""LoRA on a small checkpoint: the published targets, exact resumption, and a merged folder that says the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("peft")

from tests.vla.openvla.tiny import HEADS, SIDE, make_tensors, write_checkpoint, write_json
from tests.vla.openvla.tiny_process import encode
from tests.vla.synthetic import write_episode
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.images import ImageProcessor
from vla.openvla.model import OpenVLAModel, load_model, with_action_prompt
from vla.openvla.policy import PROMPT, OpenVLAOptions, OpenVLAPolicy
from vla.openvla.published import CheckpointError
from vla.openvla.tuning.adapters import AdaptedModel, adapted_layers, published_name
from vla.openvla.tuning.general import STOP_ID, GeneralDataError, read_pairs
from vla.openvla.tuning.merging import write_merged
from vla.openvla.tuning.options import AdaptedPart, GeneralSource, LoraOptions, TuneOptions
from vla.openvla.tuning.samples import Samples, frame_actions
from vla.openvla.tuning.statistics import statistics_file, tuned_spec
from vla.openvla.tuning.train import tune
from vla.tokenizers import COMPACT_TOKENIZER, TokenConvention, UniformBinTokenizer
from vla.training.checkpoints import EvaluationPlan, Rollouts
from vla.training.dataset import PackedDataset
from vla.training.resampling import join_motions
from vla.training.sources import Layout, Source
from vla.training.split import split_dataset

KEY = "toy"
LAYOUT = Layout(("workspace",), state=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_checkpoint(tmp_path_factory.mktemp("openvla") / "checkpoint", make_tensors())
    write_json(out / "tokenizer_config.json", {"model_max_length": 2048})
    return out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("episodes")
    for seed in range(6):
        write_episode(out, seed, frames=5)
    return out


def fresh_model(folder: Path) -> OpenVLAModel:
    return load_model(Checkpoint(folder), dtype=torch.float32, heads=HEADS)


def options(folder: Path, recorded: Path, out: Path, **changes: object) -> TuneOptions:
    base = TuneOptions(
        checkpoint=folder,
        sources=(Source(recorded),),
        out=out,
        cache=out / "cache",
        unnorm_key=KEY,
        steps=6,
        batch_size=4,
        checkpoint_every=3,
        measure_every=3,
        held_out_fraction=0.3,
        lora=LoraOptions(rank=4),
        dtype="fp32",
        heads=HEADS,
        quiet=True,
    )
    return dataclasses.replace(base, **changes)  # pyright: ignore[reportArgumentType]


def samples(folder: Path, recorded: Path, cache: Path, **more: object) -> Samples:
    data = PackedDataset(cache, LAYOUT)
    data.update([Source(recorded)])
    split = split_dataset(data, [Source(recorded)], {}, 0.0, True)
    actions = frame_actions(data, 20)
    return Samples(
        data,
        split,
        actions,
        tuned_spec(actions, 20),
        UniformBinTokenizer(255, TokenConvention.OPENVLA, 32000),
        ImageProcessor.load(folder, SIDE, 2),
        encode,
        **more,  # pyright: ignore[reportArgumentType]
    )


def steps(out: Path) -> list[dict[str, float]]:
    return [entry for line in (out / "log.jsonl").read_text().splitlines() if "loss" in (entry := json.loads(line))]


# -- what is learned


def test_logits_at_the_targets_are_those_of_the_whole_sequence(folder: Path) -> None:
    model = fresh_model(folder)
    pixels = torch.randn((2, 6, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    prompts, targets = [[1, 512, 9, 29871], [1, 40, 7, 8, 9, 29871]], [[31800, 31900, 31744], [31999, 2]]
    found = model.target_logits(pixels, prompts, targets).split([3, 2])
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        whole = model.logits(pixels[row : row + 1], [[*prompt, *target]])[0]
        assert (found[row] - whole[-len(target) - 1 : -1]).abs().max() < 1e-4


def test_a_samples_ids_are_the_published_ones(folder: Path, recorded: Path, tmp_path: Path) -> None:
    made = samples(folder, recorded, tmp_path)
    data = PackedDataset(tmp_path, LAYOUT)
    batch = made.plain(np.array([7]))
    words = data.episodes[int(data.frames["episode"][7])].instruction
    prompt = encode(f"In: What action should the robot take to {words}?\nOut:")
    assert list(batch.prompts[0]) == [*prompt, 29871]
    # Written as the published ActionTokenizer does: 256 edges, ids counted down from the end of the vocabulary.
    assert data.spec is not None
    action = COMPACT_TOKENIZER.decode(data.frames["tokens"][7, 0].astype(np.int64), data.spec)
    entry = statistics_file(KEY, made.actions, 6)[KEY]["action"]
    q01, q99, mask = (np.array(entry[name]) for name in ("q01", "q99", "mask"))
    span = np.where(q99 > q01, q99 - q01, 1.0)
    normalized = np.where(mask, np.where(q99 > q01, 2 * (action - q01) / span - 1, 0.0), action)
    expected = 32000 - np.digitize(np.clip(normalized, -1, 1), np.linspace(-1, 1, 256))
    assert list(batch.targets[0]) == expected.tolist()
    assert samples(folder, recorded, tmp_path, stop_token=True).draw(0, 0, 1, False).targets[0][7:] == (STOP_ID,)


def test_a_lower_rate_joins_the_rows_of_a_label(recorded: Path, tmp_path: Path) -> None:
    data = PackedDataset(tmp_path, LAYOUT)
    data.update([Source(recorded)])
    assert data.spec is not None
    rows = COMPACT_TOKENIZER.decode(data.frames["tokens"].astype(np.int64), data.spec)
    assert np.array_equal(frame_actions(data, 20), rows[:, 0])
    assert np.array_equal(frame_actions(data, 5), join_motions(rows[:, :4], 4))
    for rate in (0, 3, 40, 2):
        with pytest.raises(ValueError, match=rf"expected a rate that divides the labels' 20 Hz.*found {rate}"):
            frame_actions(data, rate)


def test_batches_follow_from_seed_and_step_alone(folder: Path, recorded: Path, tmp_path: Path) -> None:
    made = samples(folder, recorded, tmp_path)
    first, again, other = made.draw(3, 8, 4, True), made.draw(3, 8, 4, True), made.draw(3, 9, 4, True)
    assert torch.equal(first.pixels, again.pixels)
    assert (first.prompts, first.targets) == (again.prompts, again.targets)
    assert not torch.equal(first.pixels, other.pixels)


# -- adapters


def test_adapters_are_on_every_linear_layer_but_the_head_and_change_nothing_at_first(folder: Path) -> None:
    model = fresh_model(folder)
    pixels = torch.randn((1, 6, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    before = model.logits(pixels, [[1, 5, 29871]])
    names = adapted_layers(model, tuple(AdaptedPart))
    # Two used blocks of six layers in each tower (query, key and value apart), three of the projector, two of seven.
    assert len(names) == 2 * 2 * 6 + 3 + 2 * 7
    assert not any("lm_head" in name for name in names)
    adapted = AdaptedModel(model, LoraOptions(rank=4), seed=0)
    assert torch.equal(model.logits(pixels, [[1, 5, 29871]]), before)
    assert {weight.dtype for weight in adapted.trained} == {torch.float32}
    assert len(adapted.trained) == 2 * len(names)
    known = set(Checkpoint(folder).names)
    assert all(published_name(name)[0] in known for name in names)
    only = adapted_layers(model, (AdaptedPart.PROJECTOR,))
    assert all(name.startswith("projector.") for name in only)


def test_the_published_alpha_is_the_rank_up_to_16() -> None:
    assert [LoraOptions(rank=rank).scale_alpha for rank in (4, 16, 32)] == [4, 16, 16]
    assert LoraOptions(rank=4, alpha=8).scale_alpha == 8


def shaken(folder: Path, dtype: torch.dtype = torch.float32) -> AdaptedModel:
    """Adapters that do change something."""
    adapted = AdaptedModel(load_model(Checkpoint(folder), dtype=dtype, heads=HEADS), LoraOptions(rank=4), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in adapted.trained:
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return adapted


def test_the_merged_folder_says_what_the_adapted_model_says(folder: Path, tmp_path: Path) -> None:
    adapted = shaken(folder)
    write_merged(folder, tmp_path / "policy", adapted.changes(), {KEY: {}})
    pixels = torch.randn((2, 6, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    prompts = [[1, 5, 29871], [1, 6, 7, 29871]]
    expected, plain = adapted.model.logits(pixels, prompts), fresh_model(folder).logits(pixels, prompts)
    (tmp_path / "policy" / "dataset_statistics.json").unlink()
    merged = load_model(Checkpoint(tmp_path / "policy"), dtype=torch.float32, heads=HEADS)
    assert (merged.logits(pixels, prompts) - expected).abs().max() < 2e-4
    assert (plain - expected).abs().max() > 0.1
    assert sorted(item.name for item in (tmp_path / "policy").iterdir()) == sorted(
        item.name for item in folder.iterdir()
    )
    own = Checkpoint(tmp_path / "policy")
    assert own.names == Checkpoint(folder).names
    unused = "vision_backbone.featurizer.norm.weight"
    cpu = torch.device("cpu")
    assert torch.equal(own.take(unused, torch.float32, cpu), Checkpoint(folder).take(unused, torch.float32, cpu))


def test_the_saved_adapter_loads_onto_the_checkpoint_it_was_trained_on(folder: Path, tmp_path: Path) -> None:
    import peft

    adapted = shaken(folder)
    adapted.save(str(tmp_path))
    assert (tmp_path / "adapter_config.json").is_file()
    other = fresh_model(folder)
    peft.PeftModel.from_pretrained(other, str(tmp_path))  # pyright: ignore[reportArgumentType]
    pixels = torch.randn((1, 6, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.logits(pixels, [[1, 5, 29871]]), adapted.model.logits(pixels, [[1, 5, 29871]]))


def test_adapters_of_another_rank_are_refused(folder: Path) -> None:
    state = shaken(folder).state()
    other = AdaptedModel(fresh_model(folder), LoraOptions(rank=2), seed=0)
    with pytest.raises(ValueError, match="expected the weights of these adapters, found others"):
        other.load(state)


# -- the loop


def test_loss_falls_and_the_merged_folder_runs_as_a_policy(folder: Path, recorded: Path, tmp_path: Path) -> None:
    calls: list[tuple[Path, int, tuple[str, ...]]] = []

    def evaluate(policy: Path, step: int, tasks: tuple[str, ...]) -> Rollouts:
        assert (policy / "dataset_statistics.json").is_file()
        calls.append((policy, step, tasks))
        return Rollouts(4, 1, 0.05, 0.7)

    summary = tune(
        options(folder, recorded, tmp_path, steps=40, learning_rate=5e-3, evaluation=EvaluationPlan(20, evaluate)),
        encode,
    )
    assert summary.last_loss < 0.7 * summary.first_loss
    assert [step for _, step, _ in calls] == [20, 40]
    assert summary.rollouts == Rollouts(4, 1, 0.05, 0.7)
    assert summary.measures is not None
    policy = OpenVLAPolicy.load(
        summary.policy, OpenVLAOptions(statistics_key=KEY, rate_hz=20, dtype="fp32", heads=HEADS), encode
    )
    made = samples(folder, recorded, tmp_path / "cache")
    assert policy.spec.rate_hz == 20
    text = "1/4 episodes succeeded"
    assert text in (tmp_path / "README.md").read_text()
    held = summary.measures
    assert 0.0 <= held.accuracy <= 1.0
    assert made.spec.names == policy.spec.names


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_is_bit_for_bit_the_unbroken_one(
    dropout: float, folder: Path, recorded: Path, tmp_path: Path
) -> None:
    lora = LoraOptions(rank=4, dropout=dropout)
    tune(options(folder, recorded, tmp_path / "whole", lora=lora), encode)
    tune(options(folder, recorded, tmp_path / "parts", lora=lora, steps=4), encode)  # its checkpoint: step 4
    resumed = tune(options(folder, recorded, tmp_path / "parts", lora=lora, resume=True), encode)
    assert resumed.steps == 6
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole")
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole["adapters"][name], parts["adapters"][name]) for name in whole["adapters"])
    for file in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        first, second = ((tmp_path / name / "policy" / file).read_bytes() for name in ("whole", "parts"))
        assert first == second


def test_frozen_weights_in_bfloat16_train_float32_adapters(folder: Path, recorded: Path, tmp_path: Path) -> None:
    summary = tune(options(folder, recorded, tmp_path, dtype="bf16", steps=30, learning_rate=5e-3), encode)
    assert summary.last_loss < 0.8 * summary.first_loss
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["adapters"]
    assert {weight.dtype for weight in saved.values()} == {torch.float32}


def test_steps_behind_the_checkpoint_are_done_again(folder: Path, recorded: Path, tmp_path: Path) -> None:
    tune(options(folder, recorded, tmp_path, steps=3), encode)
    before = steps(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as log:  # a run that was cut short between checkpoints
        log.write('{"step": 4, "loss": 1.0, "accuracy": 0.0}\n')
    tune(options(folder, recorded, tmp_path, resume=True), encode)
    assert [entry["step"] for entry in steps(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert steps(tmp_path)[:3] == before


def test_how_a_batch_is_cut_into_parts_does_not_matter(folder: Path, recorded: Path, tmp_path: Path) -> None:
    for name, parts in (("one", 1), ("four", 4)):
        tune(options(folder, recorded, tmp_path / name, steps=3, accumulate=parts), encode)
    one, four = (steps(tmp_path / name) for name in ("one", "four"))
    assert [entry["loss"] for entry in one] == pytest.approx([entry["loss"] for entry in four], rel=1e-4)
    assert [entry["accuracy"] for entry in one] == [entry["accuracy"] for entry in four]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 8}, "expected batch_size 4 as the run began, found 8; resume with the options"),
        ({"learning_rate": 1e-3}, "expected learning_rate 0.0005 as the run began, found 0.001"),
        ({"lora": LoraOptions(rank=2)}, "expected rank 4 as the run began, found 2"),
        ({"held_out_fraction": 0.0}, "expected samples "),
        ({"steps": 3}, "expected more than 3 steps for a run that has made them, found 3"),
    ],
)
def test_a_run_is_not_resumed_as_another(
    change: dict, words: str, folder: Path, recorded: Path, tmp_path: Path
) -> None:
    tune(options(folder, recorded, tmp_path, steps=3), encode)
    with pytest.raises(ValueError, match=words):
        tune(options(folder, recorded, tmp_path, resume=True, **change), encode)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unnorm_key": ""}, "expected a name for the data's statistics, found none"),
        ({"accumulate": 3}, "expected a batch size that 3 parts divide, found 4"),
        ({"dtype": "fp16"}, "expected dtype bf16 or fp32, found 'fp16'"),
        ({"general": (GeneralSource(Path("x"), 1.0),)}, "expected shares of general data above 0% and below 100%"),
        ({"steps": 0}, "expected at least one step"),
    ],
)
def test_options_that_cannot_be_are_refused(change: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        options(tmp_path, tmp_path, tmp_path, **change)


def test_resuming_nothing_is_an_error(folder: Path, recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to resume"):
        tune(options(folder, recorded, tmp_path, resume=True), encode)


def test_a_checkpoint_without_a_tuned_tensor_is_refused(folder: Path, tmp_path: Path) -> None:
    adapted = shaken(folder)
    lost = "projector.fc2.weight"
    tensors = {name: tensor for name, tensor in make_tensors().items() if name != lost}
    other = write_checkpoint(tmp_path / "other", tensors)
    with pytest.raises(CheckpointError, match=f"expected a tensor '{lost}', found none"):
        write_merged(other, tmp_path / "policy", adapted.changes(), {})
    assert not (tmp_path / "policy").exists()


# -- general data


def write_pairs(folder: Path, *lines: object) -> Path:
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(folder / "a.png")
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text)
    return folder


CUP = {"image": "a.png", "question": "What is this?", "answer": "a cup"}


def test_general_data_is_mixed_in_by_its_share(folder: Path, recorded: Path, tmp_path: Path) -> None:
    (pair,) = read_pairs(write_pairs(tmp_path / "general", CUP), encode)
    assert list(pair.prompt) == encode("In: What is this?\nOut:")
    assert list(pair.target) == [*encode(" a cup")[1:], STOP_ID]
    made = samples(folder, recorded, tmp_path / "cache", general=[([pair], 0.25)])
    drawn = [count for step in range(50) for count in made.draw(0, step, 16, False).actions]
    share = drawn.count(0) / len(drawn)
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(drawn)) ** 0.5)
    summary = tune(
        options(folder, recorded, tmp_path / "run", general=(GeneralSource(tmp_path / "general", 0.5),)), encode
    )
    assert summary.steps == 6
    assert "general, 50% of all samples" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: expected JSON"),
        ({"image": "a.png", "text": "a cup"}, "line 1: expected the entries answer, image, question, found"),
        ({**CUP, "image": "b.png"}, "line 1: expected the picture .*b.png, found none"),
        ({**CUP, "answer": ""}, "line 1: expected a question and an answer, found an empty one"),
    ],
)
def test_pairs_that_are_none_are_named(line: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(GeneralDataError, match=words):
        read_pairs(write_pairs(tmp_path / "general", line), encode)


def test_the_prompt_of_training_is_the_policys(folder: Path, recorded: Path, tmp_path: Path) -> None:
    made = samples(folder, recorded, tmp_path)
    data = PackedDataset(tmp_path, LAYOUT)
    words = data.episodes[0].instruction
    assert list(made.plain(np.array([0])).prompts[0]) == with_action_prompt(
        encode(PROMPT.format(instruction=words.lower()))
    )
