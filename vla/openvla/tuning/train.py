"""The fine-tuning loop.

Every batch, its augmentation and its dropout are functions of the seed and the step alone. So a resumed run needs no
state of a random generator: with the adapters, the optimizer's moments and the step it goes on exactly as the unbroken
run would have, bit for bit on a CPU with one thread.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from vla.openvla.checkpoint import Checkpoint
from vla.openvla.images import ImageProcessor
from vla.openvla.model import OpenVLAModel, load_model
from vla.openvla.policy import EncodeText, text_encoder
from vla.openvla.tuning.adapters import AdaptedModel
from vla.openvla.tuning.card import write_card
from vla.openvla.tuning.general import read_pairs
from vla.openvla.tuning.measures import measure
from vla.openvla.tuning.merging import write_merged
from vla.openvla.tuning.options import TuneMeasures, TuneOptions, TuneSummary
from vla.openvla.tuning.samples import Batch, Samples, frame_actions
from vla.openvla.tuning.statistics import statistics_file, tuned_spec
from vla.tokenizers import TokenConvention, UniformBinTokenizer
from vla.training.checkpoints import Rollouts
from vla.training.dataset import PackedDataset
from vla.training.progress import training_progress
from vla.training.sources import Layout
from vla.training.split import split_dataset
from vla.training.train import describe_split

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_LOG = "log.jsonl"


def tune(options: TuneOptions, encode: EncodeText | None = None) -> TuneSummary:
    """Fine-tune, measure, and export the adapter and the merged model.

    Args:
        options: What to do.
        encode: Prompt text to ids with BOS; None reads the checkpoint's tokenizer.

    Raises:
        ValueError: Nothing to train on, options that do not fit, or a run that cannot be resumed as asked.
        CheckpointError: The folder that the run starts from is damaged.
        EpisodeError: A malformed episode.
    """
    torch.set_num_threads(options.threads)
    return _Run(options, encode).run()


class _Run:
    """State of one run."""

    def __init__(self, options: TuneOptions, encode: EncodeText | None) -> None:
        self.options = options
        self.console = Console(quiet=options.quiet)
        checkpoint = Checkpoint(options.checkpoint)
        encode = encode or text_encoder(checkpoint.folder)
        options.out.mkdir(parents=True, exist_ok=True)
        self.data = PackedDataset(options.cache, Layout((options.camera,), options.picture_size, state=False))
        report = self.data.update(options.sources)
        self.console.print(f"{report.added} new episodes, {report.known} known, {len(report.waiting)} not finished")
        self.split = split_dataset(
            self.data,
            options.sources,
            dict(options.task_weights),
            options.held_out_fraction,
            options.balance_tasks,
        )
        self.console.print(describe_split(self.split))
        assert self.data.spec is not None  # the split found episodes
        rate = options.rate_hz or self.data.spec.rate_hz
        actions = frame_actions(self.data, rate)
        trained = actions[self.split.train]
        self.statistics = statistics_file(options.unnorm_key, trained, self.split.episodes)
        model = load_model(checkpoint, device=options.device, dtype=_DTYPES[options.dtype], heads=options.heads)
        self.identity = _identity(checkpoint)
        self.adapted = AdaptedModel(model, options.lora, options.seed)
        side, towers = checkpoint.config.image_size, len(checkpoint.config.vision_ids)
        self.samples = Samples(
            self.data,
            self.split,
            actions,
            tuned_spec(trained, rate),
            UniformBinTokenizer(model.bins - 1, TokenConvention.OPENVLA, model.vocabulary),
            ImageProcessor.load(checkpoint.folder, side, towers),
            encode,
            [(read_pairs(source.path, encode), source.share) for source in options.general],
            options.stop_token,
        )
        self.optimizer = torch.optim.AdamW(self.adapted.trained, lr=options.learning_rate)
        self.step, self.losses, self.accuracies = 0, list[float](), list[float]()
        if options.resume:
            self._resume()
        else:
            (options.out / _LOG).unlink(missing_ok=True)

    @property
    def model(self) -> OpenVLAModel:
        """The network, adapters in it."""
        return self.adapted.model

    # -- where the run starts

    def _contract(self) -> dict[str, object]:
        """What must be the same for a resumed run to go on as the unbroken one would."""
        options = self.options
        return {
            "checkpoint": self.identity,
            "samples": self.samples.digest,
            "unnorm_key": options.unnorm_key,
            "rate_hz": self.samples.spec.rate_hz,
            "rank": options.lora.rank,
            "alpha": options.lora.scale_alpha,
            "dropout": options.lora.dropout,
            "parts": [part.value for part in options.lora.parts],
            "seed": options.seed,
            "batch_size": options.batch_size,
            "accumulate": options.accumulate,
            "learning_rate": options.learning_rate,
            "augment": options.augment,
            "dtype": options.dtype,
        }

    def _resume(self) -> None:
        path = self.options.out / "checkpoint.pt"
        if not path.exists():
            raise ValueError(f"nothing to resume: {path} does not exist")
        saved = torch.load(path, map_location=self.options.device, weights_only=True)
        for name, value in self._contract().items():
            if saved["contract"].get(name) != value:
                raise ValueError(
                    f"{path}: expected {name} {saved['contract'].get(name)!r} as the run began, found {value!r}; "
                    "resume with the options and the data of its start, or begin another run"
                )
        self.adapted.load(saved["adapters"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.losses, self.accuracies = saved["step"], saved["losses"], saved["accuracies"]
        # Steps behind the checkpoint are done again.
        log = self.options.out / _LOG
        lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
        log.write_text("".join(f"{line}\n" for line in lines))

    # -- the loop

    def run(self) -> TuneSummary:
        options, start = self.options, self.step
        began, seconds = time.monotonic(), 0.0
        measures, rollouts = None, None
        with (options.out / _LOG).open("a") as log, training_progress(self.console) as progress:
            bar = progress.add_task("tune", total=options.steps, completed=self.step, info="")
            while self.step < options.steps:
                batch = self.samples.draw(options.seed, self.step, options.batch_size, options.augment)
                loss, accuracy = self._train_step(batch)
                self.losses.append(loss)
                self.accuracies.append(accuracy)
                seconds += time.monotonic() - began
                self._log(log, {"step": self.step, "loss": loss, "accuracy": accuracy})
                info = f"step {self.step}  loss {np.mean(self.losses[-20:]):.3f}  " + (
                    f"accuracy {np.mean(self.accuracies[-20:]):.3f}"
                )
                progress.update(bar, completed=self.step, info=info)
                done = self.step == options.steps
                if done or self.step % options.measure_every == 0:
                    measures = self._measure(progress.console, log)
                evaluated = options.evaluation is not None and options.evaluation.due(self.step)
                if done or evaluated or self.step % options.checkpoint_every == 0:
                    self._write_checkpoint()
                if evaluated:
                    rollouts = self._evaluate(progress.console, log)
                began = time.monotonic()  # measuring is not training time
        if self.step == start:
            raise ValueError(f"expected more than {start} steps for a run that has made them, found {options.steps}")
        summary = self._summary((self.step - start) / max(seconds, 1e-9), measures, rollouts)
        self._export()
        write_card(summary, options, self.samples.spec, self.data)
        return summary

    def _train_step(self, batch: Batch) -> tuple[float, float]:
        """One optimizer step; mean cross-entropy over all targets, share of action tokens that were guessed."""
        options = self.options
        # Dropout of a step follows from its number, so that nothing has to be restored.
        torch.manual_seed(int(np.random.SeedSequence((options.seed, self.step)).generate_state(1)[0]))
        self.adapted.wrapped.train(options.lora.dropout > 0.0)
        total, right, acted = 0.0, 0, 0
        for part in batch.parts(options.accumulate):
            logits = self.model.target_logits(part.pixels, part.prompts, part.targets)
            targets = torch.tensor([token for target in part.targets for token in target], device=logits.device)
            # The sum over the whole batch is divided once: how it is cut into parts does not matter.
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / batch.target_count
            loss.backward()
            total += float(loss.detach())
            action = torch.tensor(
                [
                    place < count
                    for target, count in zip(part.targets, part.actions, strict=True)
                    for place in range(len(target))
                ],
                device=logits.device,
            )
            right += int(((logits.argmax(-1) == targets) & action).sum())
            acted += int(action.sum())
        if not math.isfinite(total):
            raise ValueError(f"the loss became {total} at step {self.step}; lower the learning rate")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total, right / max(acted, 1)

    # -- measures and files

    def _measure(self, console: Console, log: Any) -> TuneMeasures | None:
        held = self.split.held_out
        if not len(held):
            return None
        if len(held) > self.options.held_out_frames:
            held = np.sort(np.random.default_rng(0).permutation(held)[: self.options.held_out_frames])
        self.adapted.wrapped.eval()
        found = measure(self.model, self.samples, held, self.options.batch_size)
        console.print(
            f"step {self.step}  held-out loss {found.loss:.3f}  accuracy {found.accuracy:.3f}  row "
            f"{found.translation_mm:.2f} mm {found.rotation_mrad:.1f} mrad  gripper {found.gripper:.3f}"
        )
        self._log(log, {"step": self.step, "held_out": dataclasses.asdict(found)})
        return found

    def _evaluate(self, console: Console, log: Any) -> Rollouts | None:
        assert self.options.evaluation is not None
        self._export()
        tasks = tuple(sorted(self.data.tasks()))
        found = self.options.evaluation.evaluate(self.options.out / "policy", self.step, tasks)
        console.print(f"step {self.step}  {found.describe()}")
        self._log(log, {"step": self.step, "rollouts": dataclasses.asdict(found)})
        return found

    def _log(self, log: Any, entry: dict[str, object]) -> None:
        log.write(json.dumps(entry) + "\n")
        log.flush()

    def _write_checkpoint(self) -> None:
        path = self.options.out / "checkpoint.pt"
        checkpoint = {
            "adapters": self.adapted.state(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "accuracies": self.accuracies,
            "contract": self._contract(),
        }
        torch.save(checkpoint, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def _export(self) -> None:
        options = self.options
        adapter, scratch = options.out / "adapter", options.out / "adapter.new"
        shutil.rmtree(scratch, ignore_errors=True)
        self.adapted.save(str(scratch))
        (scratch / "README.md").unlink(missing_ok=True)  # peft's template of a card; ours lies beside
        shutil.rmtree(adapter, ignore_errors=True)
        scratch.rename(adapter)
        write_merged(Path(options.checkpoint), options.out / "policy", self.adapted.changes(), self.statistics)

    def _summary(self, speed: float, measures: TuneMeasures | None, rollouts: Rollouts | None) -> TuneSummary:
        tenth = max(1, len(self.losses) // 10)
        return TuneSummary(
            policy=self.options.out / "policy",
            adapter=self.options.out / "adapter",
            steps=self.step,
            frames=len(self.split.train),
            episodes=self.split.episodes,
            trained=sum(parameter.numel() for parameter in self.adapted.trained),
            first_loss=float(np.mean(self.losses[:tenth])),
            last_loss=float(np.mean(self.losses[-tenth:])),
            last_accuracy=float(np.mean(self.accuracies[-tenth:])),
            measures=measures,
            rollouts=rollouts,
            samples_per_second=speed * self.options.batch_size,
        )


def _identity(checkpoint: Checkpoint) -> str:
    """Digest of two tensors that every fine-tuning changes: tells checkpoints apart without reading all of one."""
    digest = hashlib.sha256()
    for name in ("projector.fc1.weight", "language_model.model.layers.0.self_attn.q_proj.weight"):
        digest.update(checkpoint.take(name, torch.float32, torch.device("cpu")).numpy().tobytes())
    return digest.hexdigest()[:16]
