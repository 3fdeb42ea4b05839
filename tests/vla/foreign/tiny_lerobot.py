"""Tiny random LeRobot policies, saved in the published layout; nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from tests.vla.foreign import tiny_text

STATE, ACTION = 8, 7
SIDE = 64
CAMERAS = ("workspace", "wrist")
Statistics = dict[str, dict[str, torch.Tensor]]

MAPPING = f"""
observation:
  images:
    observation.images.workspace: {{camera: workspace, size: {SIDE}}}
    observation.images.wrist: {{camera: wrist, size: {SIDE}}}
  state:
    observation.state: [joint_position, gripper_opening]
  joints: 7
  prompt: task
actions:
  key: action
  rows: first
  out_of_range: saturate
stack:
  execution_horizon: 1
"""


@dataclass(frozen=True)
class Features:
    """Shapes of a policy's inputs and outputs."""

    state: int = STATE
    action: int = ACTION
    side: int = SIDE
    cameras: tuple[str, ...] = CAMERAS

    def inputs(self) -> dict[str, PolicyFeature]:
        """By LeRobot's names."""
        pictures = {
            f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, self.side, self.side))
            for name in self.cameras
        }
        return {**pictures, "observation.state": PolicyFeature(FeatureType.STATE, (self.state,))}

    def outputs(self) -> dict[str, PolicyFeature]:
        """By LeRobot's names."""
        return {"action": PolicyFeature(FeatureType.ACTION, (self.action,))}

    def statistics(self) -> Statistics:
        """Such that a random policy moves the arm a little, and stays mostly within the tabletop's bounds."""
        scale = torch.tensor([0.004] * 3 + [0.01] * 3 + [0.2] * (self.action - 6))[: self.action]
        middle = torch.tensor([0.0] * 6 + [0.6] * (self.action - 6))[: self.action]
        pictures = {
            f"observation.images.{name}": {
                "mean": torch.full((3, 1, 1), 0.5),
                "std": torch.full((3, 1, 1), 0.25),
                "min": torch.zeros((3, 1, 1)),
                "max": torch.ones((3, 1, 1)),
            }
            for name in self.cameras
        }
        state = torch.ones(self.state)
        return {
            **pictures,
            "observation.state": {"mean": 0.0 * state, "std": state, "min": -3.0 * state, "max": 3.0 * state},
            "action": {"mean": middle, "std": scale, "min": middle - scale, "max": middle + scale},
        }


def act(features: Features = Features()) -> ACTConfig:
    """A transformer of two layers over a ResNet-18."""
    return ACTConfig(
        input_features=features.inputs(),
        output_features=features.outputs(),
        device="cpu",
        chunk_size=10,
        n_action_steps=10,
        pretrained_backbone_weights=None,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=8,
    )


def diffusion(features: Features = Features()) -> DiffusionConfig:
    """A small U-net, denoised in two steps, with a history of two observations."""
    return DiffusionConfig(
        input_features=features.inputs(),
        output_features=features.outputs(),
        device="cpu",
        n_obs_steps=2,
        horizon=16,
        n_action_steps=8,
        drop_n_last_frames=7,
        pretrained_backbone_weights=None,
        use_separate_rgb_encoder_per_camera=False,
        spatial_softmax_num_keypoints=4,
        down_dims=(16, 32),
        n_groups=4,
        diffusion_step_embed_dim=8,
        num_train_timesteps=10,
        num_inference_steps=2,
    )


def save(config: Any, folder: Path, statistics: Statistics | None, seed: int = 0) -> Path:
    """Write a random policy of a configuration, with its processors; gives the folder."""
    torch.manual_seed(seed)
    policy: Any = get_policy_class(config.type)(config)
    policy.save_pretrained(folder)
    before, after = make_pre_post_processors(config, dataset_stats=statistics)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    return folder


def write_mapping(folder: Path, text: str = MAPPING) -> str:
    """Write a mapping; gives its path."""
    path = folder / "mapping.yaml"
    path.write_text(text)
    return str(path)


def smolvla(vlm: Path, features: Features = Features()) -> SmolVLAConfig:
    """An action expert beside two layers of the small image-text model in ``vlm``."""
    return SmolVLAConfig(
        input_features=features.inputs(),
        output_features=features.outputs(),
        device="cpu",
        chunk_size=10,
        n_action_steps=10,
        resize_imgs_with_padding=(tiny_text.SIDE, tiny_text.SIDE),
        num_steps=2,
        vlm_model_name=str(vlm),
        num_vlm_layers=2,
    )
