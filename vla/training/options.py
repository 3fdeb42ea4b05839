"""What a training run is told, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla.training.augment import Augmentation
from vla.training.checkpoints import EvaluationPlan, Rollouts
from vla.training.sources import Source


@dataclass(frozen=True)
class TrainOptions:
    """Options of :func:`vla.training.train.train`.

    Attributes:
        sources: Folders of episodes and data sets, with weights.
        out: Run folder: checkpoint, log, and the policy under ``policy/``.
        cache: Folder of the packed frames; shared by runs on the same episodes.
        minutes: Training time. The learning rate follows it, so a busy machine trains fewer steps, not worse.
        max_steps: Stop after so many steps instead of by time; the learning rate follows them then.
        resume: Continue the run in ``out`` from its checkpoint.
        init_from: Policy folder whose weights and vocabulary the run starts from.
        seed: Seed of weights and batches.
        batch_size: Frames of a step.
        learning_rate: Peak rate of Muon and AdamW.
        weight_decay: On hidden matrices only.
        warmup: Fraction of the run that the rate takes to rise.
        cooldown: Fraction of the run that the rate takes to fall to zero at the end.
        ema_decay: Decay of the averaged weights that are exported.
        clip_norm: Largest gradient norm.
        label_sigma: Width of the soft labels, bins.
        row_decay: Weight of each row of a chunk relative to the row before it.
        goal_weight: Weight of guessing where the gripper acts next, an auxiliary that teaches where to look.
        task_weights: Drawing weight of tasks, 1 if not named.
        balance_tasks: Draw every task equally often, before weights.
        others_weight: Drawing weight of frames that are labelled for another instruction than the recorded one.
        held_out_fraction: Share of scenes that never train.
        held_out_frames: Frames measured, at most.
        augmentation: Strength of augmentation.
        model: Fields of ``CompactConfig`` to override, e.g. ``{"depth": 3}``.
        bf16: Compute in bfloat16 with float32 master weights.
        threads: Torch threads. More than one stalls on a shared machine.
        processes: Processes that train together, each on a batch of its own; one for each free core.
        checkpoint_minutes: Time between checkpoints.
        evaluate_minutes: Time between measurements on held-out frames.
        evaluation: Rollouts at checkpoints; None for none.
        quiet: No progress bar.
    """

    sources: tuple[Source, ...]
    out: Path
    cache: Path
    minutes: float = 20.0
    max_steps: int | None = None
    resume: bool = False
    init_from: Path | None = None
    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.03
    cooldown: float = 0.4
    ema_decay: float = 0.998
    clip_norm: float = 1.0
    label_sigma: float = 1.5
    row_decay: float = 0.8
    goal_weight: float = 0.5
    task_weights: Mapping[str, float] = field(default_factory=dict)
    balance_tasks: bool = True
    others_weight: float = 0.5
    held_out_fraction: float = 0.04
    held_out_frames: int = 1024
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: Mapping[str, int] = field(default_factory=dict)
    bf16: bool = True
    threads: int = 1
    processes: int = 1
    checkpoint_minutes: float = 2.0
    evaluate_minutes: float = 4.0
    evaluation: EvaluationPlan | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Measures:
    """Quality on frames of held-out scenes.

    Attributes:
        loss: Weighted cross-entropy, nats per token.
        accuracy: Share of tokens exactly right.
        translation_mm: Mean absolute error of the first two rows, each axis, mm per row.
        rotation_mrad: The same of the rotation vector, mrad per row.
        gripper: The same of the gripper, fraction of its stroke.
        chunk_mm: Mean distance of the whole chunk's end from the expert's, mm.
        chunk_mm_mode: The same when tokens are decoded by their mode rather than by the mean around it.
        task_chunk_mm: ``chunk_mm`` of each task.
    """

    loss: float
    accuracy: float
    translation_mm: float
    rotation_mrad: float
    gripper: float
    chunk_mm: float
    chunk_mm_mode: float
    task_chunk_mm: Mapping[str, float]


@dataclass(frozen=True)
class TrainSummary:
    """What a run came to.

    Attributes:
        policy: Folder of the exported policy.
        steps: Steps over all resumed parts.
        samples_per_second: Speed of this part of the run.
        minutes: Training time over all resumed parts.
        frames: Frames that could be drawn.
        episodes: Episodes that could be drawn.
        measures: Final quality on held-out scenes, None without held-out scenes.
        rollouts: The last evaluation in simulation, None without any.
    """

    policy: Path
    steps: int
    samples_per_second: float
    minutes: float
    frames: int
    episodes: int
    measures: Measures | None
    rollouts: Rollouts | None
