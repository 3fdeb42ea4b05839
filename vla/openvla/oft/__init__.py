"""OpenVLA-OFT: an OpenVLA that writes a whole chunk in one pass, with more inputs and, usually, a regression head.

Kim, Finn, Liang: Fine-Tuning Vision-Language-Action Models (https://arxiv.org/abs/2502.19645). What the paper leaves
open follows its code, https://github.com/moojink/openvla-oft.
"""
