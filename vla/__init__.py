"""Vision-language-action models and all that stands between pixels, words and tokens.

This module stays light: importing ``vla`` or ``vla.tokenizers`` never imports torch.
"""
