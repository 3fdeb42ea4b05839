"""The tuned model in the published layout: the files it came from, with the adapters added to the weights."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vla.openvla.published import CheckpointError, tensor_files
from vla.openvla.tuning.adapters import Change

_STATISTICS = "dataset_statistics.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def write_merged(source: Path, out: Path, changes: Iterable[Change], statistics: Mapping[str, Any]) -> None:
    """Write a whole checkpoint; an older one in ``out`` is replaced only when the new one is complete.

    Every tensor keeps its name, shard and precision; sums are rounded once, from float32. All other files are copied
    (configuration, preprocessing, tokenizer), except that the statistics are those of the new data.

    Args:
        source: The checkpoint that was tuned.
        out: Folder to write.
        changes: What is added to which tensor.
        statistics: What ``dataset_statistics.json`` shall hold.

    Raises:
        CheckpointError: The source lacks a tensor that was tuned.
    """
    by_name: defaultdict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_name[change.name].append(change)
    files = tensor_files(source)
    lost = sorted(set(by_name) - set(files))
    if lost:
        raise CheckpointError(f"{source}: expected a tensor {lost[0]!r}, found none; was the checkpoint changed?")
    scratch = out.with_name(f"{out.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for item in sorted(source.iterdir()):
        if item.is_file() and item.suffix not in _WEIGHTS and item.name != _STATISTICS:
            shutil.copy2(item, scratch / item.name)
    for shard in sorted(set(files.values())):
        with safe_open(shard, framework="pt") as file:
            tensors = {}
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_tensor(name)
                if name in by_name:
                    total = tensor.to(torch.float32, copy=True)
                    for change in by_name[name]:
                        change.apply(total)
                    tensor = total.to(tensor.dtype)
                tensors[name] = tensor.contiguous()
            save_file(tensors, scratch / shard.name, metadata={"format": "pt"})
    (scratch / _STATISTICS).write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    scratch.rename(out)
