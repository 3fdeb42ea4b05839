"""The published augmentation: a random crop of 90% of the area, then brightness, contrast, saturation and hue.

``finetune.py`` asks dlimp for it with these strengths. It is applied to the resized picture; after each change of
colour, values are clipped.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from controllers.types import ImageArray

CROPPED_AREA = 0.9
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.2, (0.8, 1.2), (0.8, 1.2), 0.05


def augmented(picture: ImageArray, rng: np.random.Generator) -> ImageArray:
    """One picture (side, side, 3) uint8 RGB, changed at random."""
    cropped = random_crop(picture, rng).astype(np.float32) / np.float32(255.0)
    image = _clipped(cropped + np.float32(rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)))
    mean = image.mean(axis=(0, 1), keepdims=True)
    image = _clipped((image - mean) * np.float32(rng.uniform(*_CONTRAST)) + mean)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 1] = _clipped(hsv[..., 1] * np.float32(rng.uniform(*_SATURATION)))
    hsv[..., 0] = (hsv[..., 0] + np.float32(360.0 * rng.uniform(-_HUE, _HUE))) % np.float32(360.0)
    image = _clipped(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    return np.round(image * 255.0).astype(np.uint8)


def random_crop(picture: ImageArray, rng: np.random.Generator) -> ImageArray:
    """A square of :data:`CROPPED_AREA` at a random place, scaled back to (side, side, 3)."""
    side = picture.shape[0]
    kept = side * CROPPED_AREA**0.5
    top, left = rng.uniform(0.0, side - kept, 2)
    box = (left, top, left + kept, top + kept)
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR, box))


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(image, np.float32(0.0), np.float32(1.0))
