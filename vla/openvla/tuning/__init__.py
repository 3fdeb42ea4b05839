"""Fine-tuning of OpenVLA checkpoints with LoRA, as the published script does it, on this project's data.

Hu et al.: LoRA (https://arxiv.org/abs/2106.09685). What the OpenVLA paper leaves open follows its code,
https://github.com/openvla/openvla/blob/main/vla-scripts/finetune.py.
"""
