"""The card that is written beside a tuned model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from controllers.types import ActionSpec
from vla.openvla.tuning.options import TuneOptions, TuneSummary
from vla.training.dataset import PackedDataset


def write_card(summary: TuneSummary, options: TuneOptions, spec: ActionSpec, data: PackedDataset) -> None:
    """Write ``README.md`` into the run's folder."""
    episodes = Counter(entry.task for entry in data.episodes if entry.other == 0)
    tasks = "\n".join(f"| {task} | {episodes[task]} | {frames} |" for task, frames in sorted(data.tasks().items()))
    sources = [
        f"- `{Path(*source.path.parts[-2:])}`, "
        + (f"weight {source.weight:g}" if source.share is None else f"{100 * source.share:g}% of the robot frames")
        for source in options.sources
    ]
    sources += [f"- `{Path(*s.path.parts[-2:])}`, general, {100 * s.share:g}% of all samples" for s in options.general]
    measures = "No scenes were held out."
    if summary.measures is not None:
        m = summary.measures
        measures = f"""| measure on held-out scenes, teacher-forced | value |
|---|---|
| loss | {m.loss:.3f} nats per token |
| token accuracy | {m.accuracy:.3f} |
| translation | {m.translation_mm:.2f} mm per row and axis |
| rotation | {m.rotation_mrad:.1f} mrad per row and axis |
| gripper | {m.gripper:.3f} of its stroke |"""
    if summary.rollouts is not None:
        measures += f"\n\nIn simulation: {summary.rollouts.describe()}."
    lora = options.lora
    settings = {
        "start": options.checkpoint.name,
        "steps": summary.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "rank": lora.rank,
        "alpha": lora.scale_alpha,
        "dropout": lora.dropout,
        "parts": [part.value for part in lora.parts],
        "augment": options.augment,
        "dtype": options.dtype,
    }
    crop = " --openvla-center-crop 0.9" if options.augment else ""
    text = f"""# OpenVLA, fine-tuned with LoRA

One {options.camera} camera and an instruction to one action of {spec.dims} tokens at {spec.rate_hz} Hz.

```sh
vla run --task TASK --policy openvla:policy --unnorm-key {options.unnorm_key} \\
        --policy-camera {options.camera} --policy-rate-hz {spec.rate_hz}{crop}
```

It knows only the scenes, words and robot of its training data; it is no judge of safety.

## Data

{chr(10).join(sources)}

| task | episodes | frames |
|---|---|---|
{tasks}

## Training

{summary.trained:,} weights in the adapters; loss {summary.first_loss:.3f} over the first tenth of the steps,
{summary.last_loss:.3f} over the last; {summary.samples_per_second:.1f} samples/s.

```json
{json.dumps(settings, indent=2)}
```

## Measures

{measures}
"""
    (options.out / "README.md").write_text(text, encoding="utf-8")
