"""LeRobot itself on an exported data set: it loads it, and its ACT trains on it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 8


@dataclass(frozen=True, slots=True)
class Training:
    """What LeRobot made of a data set.

    Attributes:
        frames: Frames that it loaded.
        episodes: Episodes that it loaded.
        steps: Optimizer steps.
        first_loss: Mean loss of the first fifth of the steps.
        last_loss: Mean loss of the last fifth.
    """

    frames: int
    episodes: int
    steps: int
    first_loss: float
    last_loss: float


def train_act(root: Path, *, steps: int, batch: int = 4, repo_id: str = "local/vla-stack") -> Training:
    """Load the data set at ``root`` with LeRobot and train a small ACT on it.

    Raises:
        RuntimeError: The loss is not finite.
    """
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    torch.manual_seed(0)
    fps = LeRobotDataset(repo_id, root=root).fps
    dataset: Any = LeRobotDataset(repo_id, root=root, delta_timestamps={"action": [i / fps for i in range(CHUNK)]})
    policy, preprocess = _policy(dataset)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True)
    losses: list[float] = []
    while len(losses) < steps:
        for frames in loader:
            loss, _ = policy.forward(preprocess(frames))
            if not torch.isfinite(loss):
                raise RuntimeError(f"expected a finite loss, found {loss.item()} at step {len(losses)}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.item()))
            if len(losses) == steps:
                break
    part = max(1, steps // 5)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    return Training(dataset.num_frames, dataset.num_episodes, steps, first, last)


def _policy(dataset: Any) -> tuple[Any, Any]:
    from lerobot.configs.types import FeatureType
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.utils.feature_utils import dataset_to_policy_features

    features = dataset_to_policy_features(dataset.meta.features)
    outputs = {name: feature for name, feature in features.items() if feature.type is FeatureType.ACTION}
    config = ACTConfig(
        input_features={name: feature for name, feature in features.items() if name not in outputs},
        output_features=outputs,
        device="cpu",
        pretrained_backbone_weights=None,
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        dim_model=32,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=8,
    )
    policy = ACTPolicy(config)
    policy.train()
    preprocess, _ = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    return policy, preprocess
