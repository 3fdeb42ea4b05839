"""The compact vision-language-action model: words, patches, keypoints and proprioception in, action tokens out.

A decoder-style transformer over ``[instruction | workspace camera | wrist camera | proprioception | action slots]``
with a prefix-LM mask: the prefix sees itself, the action slots see everything, and the whole chunk is decoded in one
pass (parallel decoding as in OpenVLA-OFT, https://arxiv.org/abs/2502.19645). Each camera gives coarse patch tokens
and spatial-softmax keypoint tokens (Levine et al., https://arxiv.org/abs/1504.00702); its convolutions are modulated
by the instruction (FiLM, https://arxiv.org/abs/1709.07871), so that keypoints look for what the words name.

Attention is written out, since on CPUs at this sequence length it is five times faster than the fused kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla.compact.config import CompactConfig

QUERY_WIDTH = 32
HEAT_STD = 3.0
FOURIER_OCTAVES = 3
FOURIER_FEATURES = 1 + 2 * FOURIER_OCTAVES


def fourier_features(x: Tensor) -> Tensor:
    """(..., n) float32 -> (..., n * FOURIER_FEATURES): values and their sines, so that bfloat16 keeps detail."""
    angles = [x * (math.pi * 2.0**octave) for octave in range(FOURIER_OCTAVES)]
    return torch.cat((x, *(y.sin() for y in angles), *(y.cos() for y in angles)), dim=-1)


class Float32Constant(nn.Module):
    """A constant that moves between devices with the model but keeps its 32 bits when the model is cast."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("bits", value.float().contiguous().view(torch.int32), persistent=False)

    def forward(self) -> Tensor:
        """The float32 constant."""
        return self.bits.view(torch.float32)  # pyright: ignore[reportCallIssue]


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a channels-last feature map, then FiLM."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.film = nn.Linear(condition, 2 * channels)
        nn.init.normal_(self.film.weight, std=0.02)
        nn.init.zeros_(self.film.bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H, W), (B, L) -> (B, C, H, W)."""
        scale, shift = self.film(condition)[:, None, None, :].chunk(2, dim=-1)
        x = torch.addcmul(shift, self.norm(features.permute(0, 2, 3, 1)), 1.0 + scale)
        return x.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Pre-activation residual block of one 3x3 convolution."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, condition)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H, W), (B, L) -> (B, C, H, W)."""
        return features + self.conv(F.silu(self.norm(features, condition)))


class CameraStem(nn.Module):
    """One camera's image as patch tokens and keypoint tokens."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        c, f, condition = config.stem_width, config.feature_width, config.language_width
        self.config = config
        self.side = config.image_size // 8
        self.entry = nn.Conv2d(12, c, 3, stride=2, padding=1)
        self.place = nn.Parameter(torch.zeros(c, 2 * self.side, 2 * self.side))
        self.stem = nn.ModuleList(ResidualBlock(c, condition) for _ in range(config.stem_blocks))
        self.down_norm = ChannelNorm(c, condition)
        self.down = nn.Conv2d(c, f, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(f, condition) for _ in range(config.feature_blocks))
        self.out_norm = ChannelNorm(f, condition)
        cell = self.side // config.patch_grid
        self.patches = nn.Linear(cell * cell * f, config.width)
        static = config.keypoints - config.named_keypoints
        self.heat = nn.Linear(f, static)
        self.keys = nn.Linear(f, QUERY_WIDTH)
        self.queries = nn.Linear(condition, config.named_keypoints * QUERY_WIDTH)
        nn.init.normal_(self.heat.weight, std=HEAT_STD / math.sqrt(f))
        nn.init.normal_(self.keys.weight, std=1.0 / math.sqrt(f))
        nn.init.normal_(self.queries.weight, std=HEAT_STD / math.sqrt(condition))
        self.keypoints = nn.Linear(config.keypoint_group * (f + 4), config.width)
        axis = torch.linspace(-1.0, 1.0, self.side)
        ys, xs = torch.meshgrid(axis, axis, indexing="ij")
        self.grid = Float32Constant(torch.stack((xs, ys), -1).reshape(-1, 2))

    def forward(self, image: Tensor, condition: Tensor, tint: Tensor | None) -> tuple[Tensor, Tensor]:
        """See.

        Args:
            image: (B, size, size, 3) uint8.
            condition: (B, L) instruction vector.
            tint: (B, 2, 3) gain and offset of the colours, pixels being on [-1, 1]; None for none.

        Returns:
            (B, patches + keypoint tokens, width) tokens, (B, keypoints * 2) keypoint coordinates in [-1, 1].
        """
        b, half = image.shape[0], self.config.image_size // 2
        dtype = self.entry.weight.dtype
        x = image.view(b, half, 2, half, 2, 3).permute(0, 1, 3, 2, 4, 5).reshape(b, half, half, 12)
        x = _colors(x.to(dtype), tint).permute(0, 3, 1, 2)  # a channels-last view
        x = self.entry(x) + self.place
        for block in self.stem:
            x = block(x, condition)
        x = self.down(F.silu(self.down_norm(x, condition)))
        for block in self.blocks:
            x = block(x, condition)
        x = F.silu(self.out_norm(x, condition)).permute(0, 2, 3, 1)  # (B, side, side, f), contiguous
        return self._tokens(x, condition)

    def _tokens(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        b, n, f = x.shape[0], self.config.patch_grid, x.shape[-1]
        cell = self.side // n
        patches = x.reshape(b, n, cell, n, cell, f).permute(0, 1, 3, 2, 4, 5).reshape(b, n * n, -1)
        cells = x.reshape(b, -1, f)
        queries = self.queries(condition).reshape(b, -1, QUERY_WIDTH) * QUERY_WIDTH**-0.5
        named = self.keys(cells) @ queries.transpose(1, 2)
        heat = torch.cat((self.heat(cells), named), dim=-1)
        weights = torch.softmax(heat.float(), dim=1).transpose(1, 2)  # (B, K, cells)
        grid = self.grid()
        where = weights @ grid
        spread = weights @ grid.square() - where.square()
        seen = weights.to(x.dtype) @ cells
        points = torch.cat((seen, where.to(x.dtype), spread.to(x.dtype)), dim=-1)
        group = self.config.keypoint_group
        points = points.reshape(b, self.config.keypoints // group, -1)
        return torch.cat((self.patches(patches), self.keypoints(points)), dim=1), where.flatten(1)


def _colors(pixels: Tensor, tint: Tensor | None) -> Tensor:
    """Scale (B, H, W, 12) pixels from 0..255 to [-1, 1] and tint them, in one pass."""
    if tint is None:
        return pixels * (1.0 / 127.5) - 1.0
    gain, offset = tint[:, 0], tint[:, 1] - tint[:, 0]
    gain, offset = ((y.repeat(1, 4)[:, None, None, :]).to(pixels.dtype) for y in (gain / 127.5, offset))
    return torch.addcmul(offset, pixels, gain)


class Attention(nn.Module):
    """Multi-head attention of some positions over all."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, last: int = 0) -> Tensor:
        """Attend.

        Args:
            x: (B, S, width).
            mask: Additive, broadcastable to (B, heads, queries, S).
            last: Compute only the last so many positions; 0 for all.

        Returns:
            (B, queries, width).
        """
        b, _, width = x.shape
        shape = (b, -1, self.heads, width // self.heads)
        if last:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, -last:], weight[:width], bias[:width])
            k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (y.reshape(shape).transpose(1, 2) for y in (q, k, v))
        scores = (q * (1.0 / math.sqrt(shape[-1]))) @ k.transpose(-1, -2)
        y = torch.softmax(scores + mask, dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, -1, width))


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)

    def forward(self, x: Tensor, mask: Tensor, last: int = 0) -> Tensor:
        """(B, S, width) -> (B, S or last, width)."""
        y = (x[:, -last:] if last else x) + self.attention(self.norm1(x), mask, last)
        return y + self.down(F.silu(self.up(self.norm2(y))))


class InstructionEncoder(nn.Module):
    """Word embeddings and one transformer layer."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary_size, config.language_width)
        self.places = nn.Parameter(torch.zeros(config.max_words, config.language_width))
        self.layer = Layer(config.language_width, 4, 2)
        self.norm = nn.LayerNorm(config.language_width)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.normal_(self.places, std=0.1)

    def forward(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W) ids and (B, 1, 1, W) additive mask -> (B, W, L) words, (B, L) mean over real words."""
        x = self.norm(self.layer(self.words(words) + self.places[: words.shape[1]], mask))
        real = (words != 0).to(x.dtype)[..., None]
        return x, (x * real).sum(1) / real.sum(1)


class CompactModel(nn.Module):
    """Instruction, two images and proprioception to the logits of one action chunk."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.instruction = InstructionEncoder(config)
        self.stems = nn.ModuleList(CameraStem(config) for _ in config.cameras)
        self.word_in = nn.Linear(config.language_width, width)
        coordinates = 2 * config.keypoints * len(config.cameras)
        self.state_in = nn.Sequential(
            nn.Linear(FOURIER_FEATURES * (len(config.proprioception_mean) + coordinates), 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
        )
        prefix = config.max_words + config.visual_tokens + 1
        self.places = nn.Parameter(torch.zeros(prefix, width))
        self.slots = nn.Parameter(torch.zeros(config.horizon, width))
        self.layers = nn.ModuleList(Layer(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.dims * config.bins)
        self.goal = nn.Linear(width, 3)
        self.mean = Float32Constant(torch.tensor(config.proprioception_mean))
        self.std = Float32Constant(torch.tensor(config.proprioception_std))
        self._initialize()

    def _initialize(self) -> None:
        for parameter in (self.places, self.slots):
            nn.init.normal_(parameter, std=0.5)
        for name, parameter in self.layers.named_parameters():
            if name.endswith(("out.weight", "down.weight")):  # residual branches start small (GPT-2)
                nn.init.normal_(parameter, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, images: tuple[Tensor, ...], words: Tensor, state: Tensor, tints: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Logits of one chunk, and where the gripper will act next.

        Args:
            images: For each camera (B, size, size, 3) uint8.
            words: (B, up to max_words) int64, padded with 0.
            state: (B, 16) float32 proprioception.
            tints: Colour augmentation for each camera, or nothing.

        Returns:
            (B, horizon, dims, bins) logits in the model's dtype, (B, 3) guess of the way to the next gripper event
            in units of ``GOAL_SCALE_M``. The guess only serves training: its short way to the keypoints teaches
            them to find things.
        """
        config, dtype = self.config, self.slots.dtype
        b = words.shape[0]
        padded = torch.where(words == 0, -1e4, 0.0).to(dtype)
        word_features, condition = self.instruction(words, padded[:, None, None, :])
        tokens, coordinates = [self.word_in(word_features)], []
        for stem, image, tint in zip(self.stems, images, tints or (None,) * len(images), strict=True):
            seen, where = stem(image, condition, tint)
            tokens.append(seen)
            coordinates.append(where)
        own = ((state - self.mean()) / self.std()).clamp(-5.0, 5.0)
        own = self.state_in(fourier_features(torch.cat((own, *coordinates), dim=-1)).to(dtype))[:, None, :]
        tokens.append(own)
        places = torch.cat((self.places[: words.shape[1]], self.places[config.max_words :]))
        prefix = torch.cat(tokens, dim=1) + places
        x = torch.cat((prefix, self.slots + own), dim=1)
        full = self._mask(padded, x.shape[1])
        for layer in self.layers[:-1]:
            x = layer(x, full)
        x = self.layers[-1](x, full[:, :, -config.horizon :], config.horizon)
        logits = self.head(self.norm(x)).view(b, config.horizon, config.dims, config.bins)
        return logits, self.goal(F.silu(own[:, 0]))

    def _mask(self, padded: Tensor, length: int) -> Tensor:
        """(B, 1, S, S) additive: padding is never seen, action slots are seen by action slots only."""
        batch, words = padded.shape
        prefix = length - self.config.horizon
        mask = padded.new_zeros((batch, 1, length, length))
        mask[:, :, :, :words] = padded[:, None, None, :]
        mask[:, :, :prefix, prefix:] = -1e4
        return mask
