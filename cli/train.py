"""Train the compact VLA, or fine-tune an OpenVLA checkpoint with LoRA; resumes after an interruption."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cli.output import console, print_json

if TYPE_CHECKING:
    from vla.training.checkpoints import EvaluationPlan, Rollouts

_COMPACT, _OPENVLA = "compact", "openvla:"
_COMPACT_CACHE = Path("runs/cache")


@dataclass(frozen=True)
class LoraFlags:
    """With --model openvla:PATH: adapters, and how they are trained."""

    rank: int = 32
    """Rank of the adapters."""
    alpha: int = 0
    """Their product is scaled with alpha / rank; 0 for the rank, at most 16, as published."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is left out at random."""
    parts: tuple[Literal["language", "projector", "vision"], ...] = ("language", "projector", "vision")
    """Whose linear layers have adapters."""
    accumulate: int = 1
    """Parts that a step is computed in, one after the other, to save memory."""
    augment: bool = True
    """Crop and colours change at random, as published; run the policy with --openvla-center-crop 0.9 then."""
    stop_token: bool = False
    """Learn the end of sequence behind the action, too, as the published script does."""
    picture_size: int = 128
    """Side of the recorded pictures, px; those of data sets with a mapping are scaled to it."""
    checkpoint_every: int = 500
    """Steps between checkpoints, and between measurements on held-out frames."""
    held_out: float = 0.04
    """Share of scenes that never train."""


@dataclass(frozen=True)
class Options:
    """Options of ``vla train``."""

    data: tuple[str, ...]
    """Folders of episodes and LeRobotDatasets, each as PATH, PATH:WEIGHT or PATH:SHARE%; a weight over 1 draws its
    frames more often, a share is that of all drawn frames."""
    out: Path
    """Run folder: checkpoint, log, and the policy under OUT/policy."""
    model: str = _COMPACT
    """compact, or openvla:PATH to fine-tune that checkpoint with LoRA."""
    data_mapping: tuple[str, ...] = ()
    """What the columns of a LeRobotDataset of other origin mean: DATASET=FILE or DATASET=NAME (docs/training.md)."""
    general: tuple[str, ...] = ()
    """With openvla: folders of questions about pictures, each as PATH:SHARE% of all samples (docs/training.md)."""
    cache: Path | None = None
    """Folder of the packed frames; by default runs/cache, with openvla OUT/cache."""
    minutes: float = 30.0
    """Compact: training time in all."""
    steps: int = 0
    """Optimizer steps in all; 0 for --minutes, with openvla 1000."""
    resume: bool = False
    """Continue the run in OUT from its checkpoint."""
    init_from: Path | None = None
    """Compact: policy folder to start from."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 for 1e-3, with openvla 5e-4."""
    batch_size: int = 0
    """Frames of a step; 0 for 32, with openvla 16."""
    relabelled: tuple[str, ...] = ()
    """Folders of a student's rollouts that the expert relabelled; their failures are learned from too."""
    task_weights: str = ""
    """How often tasks are drawn, as NAME=WEIGHT separated by commas; 1 for those that are not named."""
    eval_every: int = 0
    """Steps between evaluations of the policy in simulation; 0 for none."""
    eval_episodes: int = 10
    """Episodes for each task of such an evaluation."""
    eval_tasks: str = ""
    """Its tasks, separated by commas; empty for those of the data."""
    unnorm_key: str = ""
    """With openvla: name of the data's statistics, which the policy is run with."""
    policy_camera: str = "workspace"
    """With openvla: the camera that the model sees."""
    policy_rate_hz: int = 0
    """With openvla: actions a second; divides the labels' rate, 0 for it."""
    device: str = "cpu"
    """With openvla: cpu or cuda."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """With openvla: precision of the frozen weights; adapters are always float32."""
    lora: LoraFlags = field(default_factory=LoraFlags)
    """With openvla: the adapters."""
    threads: int = 1
    """Torch threads; more than one stalls on a machine that does other work."""
    processes: int = 1
    """Compact: processes that train together, one for each free core."""
    seed: int = 0
    """Seed of weights and batches."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla train --json`` prints for the compact VLA."""

    policy: str
    steps: int
    frames: int
    episodes: int
    samples_per_second: float
    minutes: float
    translation_mm: float | None
    token_accuracy: float | None
    eval_success_rate: float | None


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What ``vla train --json`` prints for an OpenVLA checkpoint."""

    policy: str
    adapter: str
    steps: int
    frames: int
    episodes: int
    trained_weights: int
    samples_per_second: float
    first_loss: float
    last_loss: float
    last_accuracy: float
    held_out_loss: float | None
    held_out_accuracy: float | None
    translation_mm: float | None
    eval_success_rate: float | None


def main(options: Options) -> int:
    """Train and export."""
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    if options.model == _COMPACT:
        return _train_compact(options)
    if options.model.startswith(_OPENVLA):
        return _tune(options)
    raise ValueError(f"--model: expected compact or openvla:PATH, found {options.model!r}")


def _train_compact(options: Options) -> int:
    from cli.training_data import read_mappings, read_sources, read_task_weights
    from vla.training.options import TrainOptions
    from vla.training.train import train

    _refuse(options, {"--general": bool(options.general), "--unnorm-key": bool(options.unnorm_key)})
    mappings = read_mappings(options.data_mapping, (*options.data, *options.relabelled))
    summary = train(
        TrainOptions(
            sources=(
                *read_sources(options.data, True, mappings),
                *read_sources(options.relabelled, False, mappings),
            ),
            out=options.out,
            cache=options.cache or _COMPACT_CACHE,
            minutes=options.minutes,
            max_steps=options.steps or None,
            resume=options.resume,
            init_from=options.init_from,
            learning_rate=options.learning_rate or 1e-3,
            batch_size=options.batch_size or 32,
            task_weights=read_task_weights(options.task_weights),
            threads=options.threads,
            processes=options.processes,
            evaluation=_evaluation(options),
            seed=options.seed,
        )
    )
    console.print(f"policy: {summary.policy} ({summary.steps} steps, {summary.minutes:.1f} minutes)")
    measures = summary.measures
    if options.json:
        print_json(
            Result(
                policy=str(summary.policy),
                steps=summary.steps,
                frames=summary.frames,
                episodes=summary.episodes,
                samples_per_second=summary.samples_per_second,
                minutes=summary.minutes,
                translation_mm=None if measures is None else measures.translation_mm,
                token_accuracy=None if measures is None else measures.accuracy,
                eval_success_rate=_rate(summary.rollouts),
            )
        )
    return 0


def _tune(options: Options) -> int:
    from cli.training_data import read_general, read_mappings, read_sources, read_task_weights
    from vla.openvla.tuning.options import AdaptedPart, LoraOptions, TuneOptions
    from vla.openvla.tuning.train import tune

    flags = options.lora
    _refuse(options, {"--init-from": options.init_from is not None, "--processes": options.processes != 1})
    mappings = read_mappings(options.data_mapping, (*options.data, *options.relabelled))
    summary = tune(
        TuneOptions(
            checkpoint=Path(options.model.removeprefix(_OPENVLA)),
            sources=(
                *read_sources(options.data, True, mappings),
                *read_sources(options.relabelled, False, mappings),
            ),
            out=options.out,
            cache=options.cache or options.out / "cache",
            unnorm_key=options.unnorm_key,
            camera=options.policy_camera,
            picture_size=flags.picture_size,
            rate_hz=options.policy_rate_hz,
            general=read_general(options.general),
            steps=options.steps or 1000,
            resume=options.resume,
            seed=options.seed,
            batch_size=options.batch_size or 16,
            accumulate=flags.accumulate,
            learning_rate=options.learning_rate or 5e-4,
            lora=LoraOptions(flags.rank, flags.alpha, flags.dropout, tuple(AdaptedPart(part) for part in flags.parts)),
            augment=flags.augment,
            stop_token=flags.stop_token,
            task_weights=read_task_weights(options.task_weights),
            held_out_fraction=flags.held_out,
            checkpoint_every=flags.checkpoint_every,
            measure_every=flags.checkpoint_every,
            evaluation=_evaluation(options),
            device=options.device,
            dtype=options.dtype,
            threads=options.threads,
        )
    )
    console.print(
        f"loss {summary.first_loss:.3f} to {summary.last_loss:.3f} nats per token, accuracy "
        f"{summary.last_accuracy:.3f} (mean over the first and the last tenth of {summary.steps} steps)\n"
        f"policy: {summary.policy}, to run with --unnorm-key {options.unnorm_key}; adapter: {summary.adapter}",
        highlight=False,
    )
    measures = summary.measures
    if options.json:
        print_json(
            TuneResult(
                policy=str(summary.policy),
                adapter=str(summary.adapter),
                steps=summary.steps,
                frames=summary.frames,
                episodes=summary.episodes,
                trained_weights=summary.trained,
                samples_per_second=summary.samples_per_second,
                first_loss=summary.first_loss,
                last_loss=summary.last_loss,
                last_accuracy=summary.last_accuracy,
                held_out_loss=None if measures is None else measures.loss,
                held_out_accuracy=None if measures is None else measures.accuracy,
                translation_mm=None if measures is None else measures.translation_mm,
                eval_success_rate=_rate(summary.rollouts),
            )
        )
    return 0


def _refuse(options: Options, given: dict[str, bool]) -> None:
    """Refuse options that would have no effect with this model."""
    for name, is_given in given.items():
        if is_given:
            raise ValueError(f"expected no {name} with --model {options.model}, found it; drop it")


def _evaluation(options: Options) -> EvaluationPlan | None:
    """Rollouts at checkpoints, if they are wanted."""
    if options.eval_every == 0:
        return None
    from cli.checkpoint_rollouts import SimulatedRollouts
    from sim.foreign import ForeignAccess
    from vla.training.checkpoints import EvaluationPlan

    tasks = tuple(name.strip() for name in options.eval_tasks.split(",") if name.strip())
    out = options.out / "evaluations"
    if options.model == _COMPACT:
        return EvaluationPlan(options.eval_every, SimulatedRollouts(out, options.eval_episodes, tasks))
    foreign = ForeignAccess(
        unnorm_key=options.unnorm_key,
        policy_camera=options.policy_camera,
        policy_rate_hz=options.policy_rate_hz,
        openvla_center_crop=_center_crop(options),
    )
    rollouts = SimulatedRollouts(out, options.eval_episodes, tasks, _OPENVLA, options.device, options.dtype, foreign)
    return EvaluationPlan(options.eval_every, rollouts)


def _center_crop(options: Options) -> float:
    """What evaluation keeps of a picture: what training kept, but in the middle."""
    from vla.openvla.tuning.augment import CROPPED_AREA

    return CROPPED_AREA if options.lora.augment else 1.0


def _rate(rollouts: Rollouts | None) -> float | None:
    return None if rollouts is None else rollouts.successes / rollouts.episodes
