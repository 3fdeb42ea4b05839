"""OpenVLA checkpoints in the published layout, on today's transformers.

OpenVLA (https://arxiv.org/abs/2406.09246): two vision towers, a projector, and a Llama that writes one token for each
action dimension.
"""
