"""The model card that travels with an exported policy."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from vla.compact.config import CompactConfig
from vla.training.dataset import PackedDataset
from vla.training.options import TrainOptions, TrainSummary


def write_card(summary: TrainSummary, options: TrainOptions, config: CompactConfig, data: PackedDataset) -> None:
    """Write ``README.md`` into the policy folder."""
    spec = data.spec
    assert spec is not None
    episodes = Counter(entry.task for entry in data.episodes if entry.other == 0)
    tasks = "\n".join(f"| {task} | {episodes[task]} | {frames} |" for task, frames in sorted(data.tasks().items()))
    sources = "\n".join(
        f"- `{Path(*source.path.parts[-2:])}`, "
        f"{f'weight {source.weight:g}' if source.share is None else f'{100 * source.share:g}% of the frames'}, "
        f"{'successful episodes only' if source.successes_only else 'all episodes'}"
        for source in options.sources
    )
    measures = "No scenes were held out."
    if summary.measures is not None:
        m = summary.measures
        measures = f"""| measure on held-out scenes | value |
|---|---|
| token accuracy | {m.accuracy:.3f} |
| error of the first two rows, translation | {m.translation_mm:.2f} mm per row and axis |
| rotation | {m.rotation_mrad:.1f} mrad per row and axis |
| gripper | {m.gripper:.3f} of its stroke |
| end of the chunk | {m.chunk_mm:.1f} mm |"""
    settings = {
        "seed": options.seed,
        "minutes": round(summary.minutes, 1),
        "steps": summary.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "init_from": options.init_from.name if options.init_from else None,
        "model": dict(options.model),
    }
    if summary.rollouts is not None:
        measures += f"\n\nIn simulation: {summary.rollouts.describe()}."
    text = f"""# Compact vision-language-action policy

Two {config.image_size}x{config.image_size} cameras ({", ".join(config.cameras)}), an instruction and
proprioception to chunks of {config.horizon} actions at {spec.rate_hz} Hz. Action spec `{spec.hash}`.

It knows only the scenes, words and robot of its training data; it is no judge of safety.

## Data

{sources}

| task | episodes | frames |
|---|---|---|
{tasks}

## Training

`vla.training.train.train`, {options.processes} CPU process(es) of one thread,
{summary.samples_per_second:.0f} samples/s, with

```json
{json.dumps(settings, indent=2)}
```

## Measures

{measures}

Success rates are measured by rollouts, not here.
"""
    (summary.policy / "README.md").write_text(text)
