"""Quality on held-out frames."""

from __future__ import annotations

import math

import numpy as np
import torch

from controllers.types import IntArray
from vla.openvla.model import OpenVLAModel
from vla.openvla.tuning.options import TuneMeasures
from vla.openvla.tuning.samples import Samples


def measure(model: OpenVLAModel, samples: Samples, frames: IntArray, batch_size: int) -> TuneMeasures:
    """Teacher-forced measures on robot frames (n,), without augmentation.

    Loss and accuracy are over all ids, as in training; the errors are those of the likeliest action id at each place,
    which is what the policy chooses from.
    """
    loss, right, chosen = 0.0, 0, []
    with torch.inference_mode():
        for some in np.array_split(frames, math.ceil(len(frames) / batch_size)):
            batch = samples.plain(some)
            logits = model.target_logits(batch.pixels, batch.prompts, batch.targets)
            targets = torch.tensor(batch.targets, device=logits.device).flatten()
            loss += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(-1) == targets).sum())
            chosen.append(model.choose(logits)[0].reshape(len(some), -1).cpu().numpy())
    guess = samples.tokenizer.decode(np.concatenate(chosen), samples.spec)
    error = np.abs(guess - samples.actions[frames]).mean(axis=0)
    count = len(frames) * samples.tokens.shape[1]
    return TuneMeasures(
        loss=loss / count,
        accuracy=right / count,
        translation_mm=float(1e3 * error[:3].mean()),
        rotation_mrad=float(1e3 * error[3:6].mean()),
        gripper=float(error[6]),
    )
