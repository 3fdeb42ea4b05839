"""A pi0-FAST policy of a few thousand weights.

LeRobot knows two sizes of it, of 0.3 and 2 billion weights, and a vocabulary of 257,152 words. Both are made small
where the network is built; all else is LeRobot's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pi0_fast import modeling_pi0_fast as published
from lerobot.policies.pi0_fast.configuration_pi0_fast import PI0FastConfig

from controllers.protocols import Policy
from tests.vla.foreign import tiny_text
from tests.vla.foreign.tiny_lerobot import Features
from vla.catalog import build_lerobot
from vla.foreign.declaration import ForeignDeclaration

ROWS, WIDTH, MIN_TOKEN, SCALE = 8, 32, -80, 10.0

# What the published folder of the FAST tokenizer brings as code of its own, as far as decoding needs it.
_CODE = """
import json
from pathlib import Path
from transformers import PreTrainedTokenizerFast


class UniversalActionProcessor:
    def __init__(self, bpe_tokenizer, scale, min_token):
        self.bpe_tokenizer, self.scale, self.min_token = bpe_tokenizer, scale, min_token

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoProcessor"):
        pass

    @classmethod
    def from_pretrained(cls, folder, **_):
        config = json.loads((Path(folder) / "processor_config.json").read_text())
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
        return cls(tokenizer, config["scale"], config["min_token"])
"""


def shrink() -> None:
    """Make every pi0-FAST network that this process builds small."""
    original = published.PaliGemmaForConditionalGenerationWithPiGemma
    if not isinstance(original, type):
        return  # it is small already

    def build(config: Any) -> Any:
        config.text_config.vocab_size = len(tiny_text.tokenizer())
        vision = config.vision_config
        vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers = 16, 16, 1
        vision.num_attention_heads, vision.image_size, vision.patch_size = 2, 28, 14
        vision.projection_dim = config.projection_dim = WIDTH
        return original(config=config)

    published.PaliGemmaForConditionalGenerationWithPiGemma = build
    published.get_gemma_config = lambda variant: published.GemmaConfig(WIDTH, 1, 32, 2, 1, 16)


def save(folder: Path, *, validate_prefix: bool = False) -> Path:
    """Write a policy that answers each picture with one of two whole chunks; gives the folder."""
    shrink()
    features = Features()
    words, fast = folder / "words", folder / "fast"
    tiny_text.tokenizer().save_pretrained(words)
    _save_fast(fast, features.action)
    config = PI0FastConfig(
        input_features=features.inputs(),
        output_features=features.outputs(),
        device="cpu",
        chunk_size=ROWS,
        n_action_steps=ROWS,
        image_resolution=(28, 28),
        text_tokenizer_name=str(words),
        action_tokenizer_name=str(fast),
        tokenizer_max_length=120,
        max_decoding_steps=1,
        fast_skip_tokens=0,
        validate_action_token_prefix=validate_prefix,
    )
    torch.manual_seed(0)
    policy: Any = published.PI0FastPolicy(config)
    head = policy.model.paligemma_with_expert.paligemma.lm_head.weight
    last = head.shape[0] - 1
    with torch.no_grad():
        direction = torch.randn(WIDTH)
        head.zero_()
        head[last], head[last - 1] = direction, -direction  # the FAST tokens 0 and 1: one of them always wins
    policy.save_pretrained(folder)
    before, after = make_pre_post_processors(config, dataset_stats=features.statistics())
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    return folder


def _save_fast(folder: Path, dims: int) -> None:
    """A vocabulary of two tokens, each of which writes a whole chunk."""
    from tokenizers import Tokenizer, models

    generator = np.random.default_rng(0)
    chunks = generator.integers(-6, 7, (2, ROWS * dims)) - MIN_TOKEN
    pieces = ["".join(map(chr, chunk)) for chunk in chunks]
    folder.mkdir(parents=True)
    library = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token=pieces[0]))
    library.save(str(folder / "tokenizer.json"))
    (folder / "processing_action_tokenizer.py").write_text(_CODE)
    settings = {
        "processor_class": "UniversalActionProcessor",
        "auto_map": {"AutoProcessor": "processing_action_tokenizer.UniversalActionProcessor"},
        "scale": SCALE,
        "min_token": MIN_TOKEN,
    }
    (folder / "processor_config.json").write_text(json.dumps(settings))


def build(
    folder: str, declaration: ForeignDeclaration, spec: Mapping[str, object], tokenizer_id: str, device: str
) -> Policy:
    """What the policy process calls."""
    shrink()
    return build_lerobot(folder, declaration, spec, tokenizer_id, device)
