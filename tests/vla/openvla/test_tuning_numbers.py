"""What fine-tuning computes without a network: statistics of actions, and the published augmentation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.openvla.tuning.augment import CROPPED_AREA, augmented, random_crop
from vla.openvla.tuning.statistics import action_statistics, statistics_file


def test_statistics_are_those_of_the_actions() -> None:
    actions = np.random.default_rng(0).normal(size=(500, 7))
    entry = statistics_file("mine", actions, 9)["mine"]
    assert (entry["num_transitions"], entry["num_trajectories"]) == (500, 9)
    assert entry["action"]["q01"] == pytest.approx(np.quantile(actions, 0.01, axis=0))
    assert entry["action"]["q99"] == pytest.approx(np.quantile(actions, 0.99, axis=0))
    assert entry["action"]["mask"] == [True] * 6 + [False]
    with pytest.raises(ValueError, match=r"expected actions of 7 values, found shape \(500, 6\)"):
        action_statistics(actions[:, :6])


@given(seed=st.integers(0, 2**32 - 1))
def test_a_crop_keeps_nine_tenths_of_a_smooth_picture_in_place(seed: int) -> None:
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(0)), axis=-1)
    cropped = random_crop(picture, np.random.default_rng(seed)).astype(float)
    for axis in (0, 1):
        extent = np.ptp(cropped[..., axis].mean(1 - axis))
        assert extent == pytest.approx(255 * CROPPED_AREA**0.5, abs=6)
    changed = augmented(picture, np.random.default_rng(seed))
    assert changed.shape == picture.shape
    assert changed.dtype == np.uint8


def test_colours_change_within_the_published_strengths() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    means = [augmented(grey, np.random.default_rng(seed)).mean() / 255 for seed in range(200)]
    # A grey picture has neither contrast, saturation nor hue: brightness alone is left.
    assert min(means) >= 128 / 255 - 0.205
    assert max(means) <= 128 / 255 + 0.205
    assert np.ptp(means) > 0.3
