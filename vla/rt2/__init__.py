"""Image-text models that write actions as integers in their answer, as RT-2 does (https://arxiv.org/abs/2307.15818)."""
