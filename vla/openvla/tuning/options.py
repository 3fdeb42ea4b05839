"""What a fine-tuning run is told, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from vla.openvla.towers import Heads
from vla.training.checkpoints import EvaluationPlan, Rollouts
from vla.training.sources import Source


class AdaptedPart(Enum):
    """A part of the network whose linear layers can have adapters."""

    LANGUAGE = "language"
    PROJECTOR = "projector"
    VISION = "vision"


@dataclass(frozen=True)
class LoraOptions:
    """The adapters; by default those of the published script: every linear layer but the language model's head.

    Attributes:
        rank: Of the matrices.
        alpha: Their product is scaled with ``alpha / rank``; 0 for the rank, at most 16, as published.
        dropout: Share of an adapter's inputs that is left out at random.
        parts: Where they are.
    """

    rank: int = 32
    alpha: int = 0
    dropout: float = 0.0
    parts: tuple[AdaptedPart, ...] = tuple(AdaptedPart)

    def __post_init__(self) -> None:
        """Refuse what no adapter can be.

        Raises:
            ValueError: Says what was expected.
        """
        if self.rank < 1 or self.alpha < 0:
            raise ValueError(f"expected a rank of at least 1 and no negative alpha, found {self.rank} and {self.alpha}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"expected a dropout in [0, 1), found {self.dropout:g}")
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ValueError(f"expected each part once, found {', '.join(part.value for part in self.parts) or 'none'}")

    @property
    def scale_alpha(self) -> int:
        """The alpha that is used."""
        return self.alpha or min(self.rank, 16)


@dataclass(frozen=True)
class GeneralSource:
    """A folder of questions about pictures and their answers, mixed in so that the model keeps what it knew.

    Attributes:
        path: Holds ``pairs.jsonl``: one ``{"image": FILE, "question": TEXT, "answer": TEXT}`` a line.
        share: Share of all samples that come from here.
    """

    path: Path
    share: float


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Options of :func:`vla.openvla.tuning.train.tune`.

    Attributes:
        checkpoint: Folder in OpenVLA's published layout that the run starts from.
        sources: Robot data.
        out: Run folder: checkpoint, log, the adapter under ``adapter/``, the merged model under ``policy/``.
        cache: Folder of the packed frames.
        unnorm_key: Name of the data's statistics, which the tuned model is run with.
        camera: Whose pictures the model sees.
        picture_size: Side of the pictures in the packed frames, px; recorded ones have it, those of a declared data set
            are scaled to it.
        rate_hz: Actions a second; divides the rate of the labels. 0 for that rate.
        general: Data of other kinds.
        steps: Optimizer steps in all.
        resume: Continue the run in ``out`` from its checkpoint.
        seed: Seed of adapters, samples, augmentation and dropout.
        batch_size: Samples of a step.
        accumulate: Parts that a step is computed in, one after the other; divides the batch size.
        learning_rate: Of AdamW, constant as published.
        lora: The adapters.
        augment: Crop and colours change at random, as published; then run it with ``center_crop=0.9``.
        stop_token: Learn the end-of-sequence token behind the action, too, as the published script does.
        task_weights: Drawing weight of tasks, 1 if not named.
        balance_tasks: Draw every task equally often, before weights and shares.
        held_out_fraction: Share of scenes that never train.
        held_out_frames: Frames measured, at most.
        checkpoint_every: Steps between checkpoints.
        measure_every: Steps between measurements on held-out frames; each end of a run is measured, too.
        evaluation: Rollouts at checkpoints; None for none.
        device: ``cpu`` or ``cuda``.
        dtype: Of the frozen weights, ``bf16`` or ``fp32``; adapters are always float32.
        heads: Numbers of attention heads, for checkpoints of unpublished sizes.
        threads: Torch threads.
        quiet: No progress bar.
    """

    checkpoint: Path
    sources: tuple[Source, ...]
    out: Path
    cache: Path
    unnorm_key: str
    camera: str = "workspace"
    picture_size: int = 128
    rate_hz: int = 0
    general: tuple[GeneralSource, ...] = ()
    steps: int = 1000
    resume: bool = False
    seed: int = 0
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 5e-4
    lora: LoraOptions = field(default_factory=LoraOptions)
    augment: bool = True
    stop_token: bool = False
    task_weights: Mapping[str, float] = field(default_factory=dict)
    balance_tasks: bool = True
    held_out_fraction: float = 0.04
    held_out_frames: int = 256
    checkpoint_every: int = 500
    measure_every: int = 500
    evaluation: EvaluationPlan | None = None
    device: str = "cpu"
    dtype: str = "bf16"
    heads: Heads | None = None
    threads: int = 1
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ValueError: Says what was expected, what was found and what to change.
        """
        if not self.unnorm_key:
            raise ValueError("expected a name for the data's statistics, found none; give one with --unnorm-key")
        if min(self.steps, self.batch_size, self.accumulate, self.checkpoint_every, self.measure_every) < 1:
            raise ValueError("expected at least one step, sample, part of a step, and steps between checkpoints")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"expected a batch size that {self.accumulate} parts divide, found {self.batch_size}; change one"
            )
        if self.dtype not in ("bf16", "fp32"):
            raise ValueError(f"expected dtype bf16 or fp32, found {self.dtype!r}")
        shares = [source.share for source in self.general]
        if any(not 0.0 < share < 1.0 for share in shares) or sum(shares) >= 1.0:
            raise ValueError(
                f"expected shares of general data above 0% and below 100% in all, found "
                f"{', '.join(f'{100 * share:g}%' for share in shares)}; robot data needs some"
            )


@dataclass(frozen=True)
class TuneMeasures:
    """Quality on held-out frames, teacher-forced and without augmentation.

    Attributes:
        loss: Cross-entropy, nats per action token.
        accuracy: Share of action tokens that the likeliest of all ids equals.
        translation_mm: Mean absolute error of the likeliest action ids, each axis, mm per row.
        rotation_mrad: The same of the rotation, mrad per row.
        gripper: The same of the gripper, fraction of its stroke.
    """

    loss: float
    accuracy: float
    translation_mm: float
    rotation_mrad: float
    gripper: float


@dataclass(frozen=True)
class TuneSummary:
    """What a run came to.

    Attributes:
        policy: Folder of the merged model.
        adapter: Folder of the adapter alone.
        steps: Steps over all resumed parts.
        frames: Robot frames that could be drawn.
        episodes: Robot episodes that could be drawn.
        trained: Number of weights in the adapters.
        first_loss: Mean over the first tenth of all steps, nats per token.
        last_loss: Mean over the last tenth.
        last_accuracy: Share of action tokens guessed in training over the last tenth.
        measures: Quality on held-out frames at the end, None without any.
        rollouts: The last evaluation in simulation, None without any.
        samples_per_second: Speed of this part of the run.
    """

    policy: Path
    adapter: Path
    steps: int
    frames: int
    episodes: int
    trained: int
    first_loss: float
    last_loss: float
    last_accuracy: float
    measures: TuneMeasures | None
    rollouts: Rollouts | None
    samples_per_second: float
