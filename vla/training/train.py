"""The training loop of the compact model.

Every batch is a function of the seed and the step alone, so a resumed run draws what the unbroken run would have
drawn. Weights are float32; forward and backward run on a bfloat16 copy, 2.5 times as fast on CPUs that have
bfloat16 instructions.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from vla.compact.config import CompactConfig
from vla.compact.files import load_policy, save_policy
from vla.compact.language import WordVocabulary, plain
from vla.compact.model import CompactModel
from vla.training.augment import Batch, augmented_batch, plain_batch
from vla.training.card import write_card
from vla.training.checkpoints import EvaluationPlan, Rollouts
from vla.training.dataset import PackedDataset
from vla.training.loss import SoftLabelLoss, goal_loss, measure
from vla.training.optimizer import MasterWeights
from vla.training.options import Measures, TrainOptions, TrainSummary
from vla.training.progress import training_progress
from vla.training.split import Split, split_dataset
from vla.training.team import Team, gathered

STATE_STD_FLOOR = 0.01


def train(options: TrainOptions) -> TrainSummary:
    """Train, measure and export a policy.

    Raises:
        ValueError: Nothing to train on, or a checkpoint that does not fit.
        EpisodeError: A malformed episode.
    """
    torch.set_num_threads(options.threads)
    with gathered(options) as team:
        return train_as(options, team)


def train_as(options: TrainOptions, team: Team) -> TrainSummary:
    """Train as one member of a team."""
    return _Run(options, team).run()


class _Run:
    """State of one run."""

    def __init__(self, options: TrainOptions, team: Team) -> None:
        self.options = options
        self.team = team
        self.console = Console(quiet=options.quiet)
        options.out.mkdir(parents=True, exist_ok=True)
        with team.leader_first():
            self.data = PackedDataset(options.cache)
            report = self.data.update(options.sources)
        self.console.print(f"{report.added} new episodes, {report.known} known, {len(report.waiting)} not finished")
        self.split = split_dataset(
            self.data,
            options.sources,
            dict(options.task_weights),
            options.held_out_fraction,
            options.balance_tasks,
            options.others_weight,
        )
        self.console.print(describe_split(self.split))
        assert self.data.spec is not None
        self.spec = self.data.spec
        checkpoint = self._read_checkpoint()
        self.vocabulary, self.config, weights = self._plan(checkpoint)
        torch.manual_seed(options.seed)
        model = CompactModel(self.config)
        if weights is not None:
            model.load_state_dict(weights)
        self.model = MasterWeights(model, options, team)
        self.step, self.seconds, self.part_samples = 0, 0.0, 0
        self.rollouts: Rollouts | None = None
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint["weights"])
            self.step, self.seconds = checkpoint["step"], checkpoint["seconds"]
        self.loss = SoftLabelLoss(self.config.bins, self.config.horizon, options.label_sigma, options.row_decay)
        self.words = np.stack(
            [self.vocabulary.encode(e.instruction, self.config.max_words) for e in self.data.episodes]
        )
        self.state_std = np.array(self.config.proprioception_std, dtype=np.float32)

    # -- where the run starts

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.options.out / "checkpoint.pt"
        if not self.options.resume:
            return None
        if not path.exists():
            raise ValueError(f"nothing to resume: {path} does not exist")
        checkpoint = torch.load(path, weights_only=True)
        if checkpoint["spec_hash"] != self.spec.hash:
            raise ValueError(f"{path}: expected action spec {self.spec.hash}, found {checkpoint['spec_hash']}")
        return checkpoint

    def _plan(
        self, checkpoint: dict[str, Any] | None
    ) -> tuple[WordVocabulary, CompactConfig, dict[str, torch.Tensor] | None]:
        """Vocabulary, architecture and initial weights: resumed, continued from a policy, or fresh."""
        if checkpoint is not None:
            config = CompactConfig.from_json(json.loads(checkpoint["config"]))
            return WordVocabulary.from_json(checkpoint["vocabulary"]), config, None
        instructions = [entry.instruction for entry in self.data.episodes]
        if self.options.init_from is None:
            vocabulary = WordVocabulary.from_instructions(instructions)
            states = self.data.frames["state"][self.split.train]
            config = CompactConfig(
                vocabulary_size=len(vocabulary.words),
                horizon=self.spec.horizon,
                dims=self.spec.dims,
                proprioception_mean=tuple(float(x) for x in states.mean(0)),
                proprioception_std=tuple(float(x) for x in np.maximum(states.std(0), STATE_STD_FLOOR)),
            )
            return vocabulary, dataclasses.replace(config, **dict(self.options.model)), None
        files = load_policy(self.options.init_from)
        if files.spec.hash != self.spec.hash:
            raise ValueError(
                f"{self.options.init_from}: expected action spec {self.spec.hash}, found {files.spec.hash}"
            )
        if self.options.model:
            raise ValueError("a run that starts from a policy keeps its architecture; drop the model options")
        vocabulary = files.vocabulary.extended(instructions)
        weights = {name: tensor.float() for name, tensor in files.weights.items()}
        table = weights["instruction.words.weight"]
        known = {word: row for row, word in enumerate(files.vocabulary.words)}
        # A new word starts as the same word elsewhere in a sentence, or as <unk>.
        starts = [known.get(plain(word), 1) for word in vocabulary.words[len(known) :]]
        weights["instruction.words.weight"] = torch.cat((table, table[torch.tensor(starts, dtype=torch.int64)]))
        config = dataclasses.replace(files.config, vocabulary_size=len(vocabulary.words))
        return vocabulary, config, weights

    # -- the loop

    def run(self) -> TrainSummary:
        options = self.options
        started, last = self.seconds, time.monotonic()
        saved = evaluated = self.seconds
        if not self.team.leads:
            self._follow()
            return self._summary(started, None)
        log = (options.out / "log.jsonl").open("a")
        measures, losses = None, []
        with training_progress(self.console) as progress, log:
            bar = progress.add_task("train", total=1.0, info="")
            for batch in self._batches():
                now = time.monotonic()
                losses.append(self._train_step(batch, self.seconds + now - last))
                last = now
                if self.step % 20 == 0:
                    info = f"step {self.step}  loss {np.mean(losses[-100:]):.3f}  {self._speed(started):.0f}/s"
                    progress.update(bar, completed=self._position(), info=info)
                if self.seconds - saved > 60 * options.checkpoint_minutes:
                    self._write_checkpoint()
                    saved = self.seconds
                if options.evaluation is not None and options.evaluation.due(self.step):
                    self._write_checkpoint()
                    self._roll_out(options.evaluation, progress, log)
                    saved, last = self.seconds, time.monotonic()
                if self.seconds - evaluated > 60 * options.evaluate_minutes:
                    measures = self._evaluate(progress)
                    self._log(log, losses, measures, started)
                    losses, evaluated = [], self.seconds
                    last = time.monotonic()  # measuring is not training time
            measures = self._evaluate(progress)
            self._log(log, losses, measures, started)
        self._write_checkpoint()
        return self._export(started, measures)

    def _follow(self) -> None:
        """Compute batches until the leader's clock says that the run is over."""
        for batch in self._batches():
            self._train_step(batch, 0.0)

    def _position(self) -> float:
        """Place in the run, 0 to 1."""
        options = self.options
        if options.max_steps is not None:
            return self.step / options.max_steps
        return self.seconds / (60.0 * options.minutes)

    def _rate(self) -> float:
        """Learning rate: rise, stay, fall (trapezoid)."""
        options, position = self.options, self._position()
        rise = position / options.warmup if options.warmup > 0 else 1.0
        fall = (1.0 - position) / options.cooldown if options.cooldown > 0 else 1.0
        return options.learning_rate * max(min(rise, fall, 1.0), 0.002)

    def _train_step(self, batch: Batch, seconds: float) -> float:
        model = self.model.model
        logits, goal = model(batch.images, batch.words, batch.state, batch.tints)
        loss = self.loss(logits, batch.tokens)
        if self.options.goal_weight > 0.0:
            loss = loss + self.options.goal_weight * goal_loss(goal, batch.goal)
        loss.backward()
        self.seconds = self.model.step(self._rate(), seconds)
        self.step += 1
        self.part_samples += len(batch.tokens) * self.team.size
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"the loss became {value} at step {self.step}; lower the learning rate")
        return value

    def _draw(self, step: int) -> Batch:
        options = self.options
        rng = np.random.default_rng((options.seed, step, self.team.rank))
        place = np.searchsorted(self.split.cumulative, rng.random(options.batch_size), side="right")
        frames = self.split.train[np.minimum(place, len(self.split.train) - 1)]
        return augmented_batch(self.data, frames, self.words, options.augmentation, self.state_std, rng)

    def _batches(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as pool:  # reads from disk while the model computes
            upcoming = pool.submit(self._draw, self.step)
            while self._position() < 1.0:
                batch = upcoming.result()
                upcoming = pool.submit(self._draw, self.step + 1)
                yield batch

    # -- measures and files

    def _evaluate(self, progress: Progress) -> Measures | None:
        held = self.split.held_out
        if len(held) == 0:
            return None
        if len(held) > self.options.held_out_frames:
            held = np.sort(np.random.default_rng(0).permutation(held)[: self.options.held_out_frames])
        model = self.model.averaged()
        logits, tokens = [], []
        with torch.inference_mode():
            for frames in np.array_split(held, math.ceil(len(held) / 64)):
                batch = plain_batch(self.data, frames, self.words)
                logits.append(model(batch.images, batch.words, batch.state)[0].float())
                tokens.append(batch.tokens)
        tasks = np.array([self.data.episodes[i].task for i in self.data.frames["episode"][held]])
        result = measure(torch.cat(logits), torch.cat(tokens), self.loss, self.spec, tasks)
        progress.console.print(
            f"step {self.step}  held-out loss {result.loss:.3f}  accuracy {result.accuracy:.3f}  "
            f"row {result.translation_mm:.2f} mm {result.rotation_mrad:.1f} mrad  gripper {result.gripper:.3f}  "
            f"chunk end {result.chunk_mm:.1f} mm (mode {result.chunk_mm_mode:.1f})"
        )
        return result

    def _roll_out(self, plan: EvaluationPlan, progress: Progress, log: Any) -> None:
        """Run the checkpoint's policy in simulation; the other members of the team wait meanwhile."""
        tasks = tuple(sorted(self.data.tasks()))
        self.rollouts = plan.evaluate(self.options.out / "policy", self.step, tasks)
        progress.console.print(f"step {self.step}  {self.rollouts.describe()}")
        log.write(json.dumps({"step": self.step, "rollouts": dataclasses.asdict(self.rollouts)}) + "\n")
        log.flush()

    def _log(self, log: Any, losses: list[float], measures: Measures | None, started: float) -> None:
        entry = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 3),
            "learning_rate": self._rate(),
            "samples_per_second": round(self._speed(started), 1),
            "loss": float(np.mean(losses)) if losses else None,
            "held_out": dataclasses.asdict(measures) if measures else None,
        }
        log.write(json.dumps(entry) + "\n")
        log.flush()

    def _speed(self, started: float) -> float:
        return self.part_samples / max(self.seconds - started, 1e-9)

    def _write_checkpoint(self) -> None:
        path = self.options.out / "checkpoint.pt"
        checkpoint = {
            "weights": self.model.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.options.seed,
            "config": json.dumps(self.config.to_json()),
            "vocabulary": self.vocabulary.to_json(),
            "spec_hash": self.spec.hash,
        }
        torch.save(checkpoint, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        save_policy(
            self.options.out / "policy",
            self.config,
            self.vocabulary,
            self.spec,
            self.model.averaged_weights(),
        )

    def _export(self, started: float, measures: Measures | None) -> TrainSummary:
        summary = self._summary(started, measures)
        write_card(summary, self.options, self.config, self.data)
        return summary

    def _summary(self, started: float, measures: Measures | None) -> TrainSummary:
        options = self.options
        return TrainSummary(
            policy=options.out / "policy",
            steps=self.step,
            samples_per_second=self._speed(started),
            minutes=self.seconds / 60,
            frames=len(self.split.train),
            episodes=self.split.episodes,
            measures=measures,
            rollouts=self.rollouts,
        )


def describe_split(split: Split) -> str:
    """One line on what trains and what is held out."""
    return (
        f"{len(split.train)} frames of {split.episodes} episodes train; "
        f"{len(split.held_out)} frames of {split.held_out_episodes} are held out"
    )
