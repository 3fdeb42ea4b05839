"""How fast OpenVLA's network is run, and at what price: options, off by default, without torch.

docs/models.md ("Fast inference") says what each one costs and pays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum

from vla.openvla.published import CheckpointError


class Weights(Enum):
    """How the matrices of the language model's layers are kept."""

    FULL = "full"  # in the precision of the policy (--dtype)
    INT8 = "int8"  # a scale for each output; activations are rounded to 8 bits a position
    INT4 = "int4"  # a scale and a zero for each group of 32 inputs; a processor's kernel
    FP8 = "fp8"  # e4m3 with a scale for each output and each position; CUDA, compute capability 9.0


class Layout(Enum):
    """What stands first in the sequence. It is how a checkpoint was trained, not a choice of the moment."""

    IMAGE_FIRST = "image_first"  # BOS, patches, prompt: the published layout
    TEXT_FIRST = "text_first"  # BOS, prompt, patches, the action prompt


@dataclass(frozen=True)
class InferenceOptions:
    """What may be done for speed. The first four change no token in exact arithmetic, the others may.

    Attributes:
        static_cache: Our own pass over the language model: keys and values in one buffer that is allocated once, and
            matrices that share an input joined into one. All options but ``action_head`` bring it with them.
        action_head: Multiply the last hidden states with the action ids' rows of the language model's head only. The
            probability that the model gave to action ids at all is then not known.
        speculate: Guess that the action stays as it was: the previous tokens are checked in the pass over the prompt,
            and writing goes on from the first that is wrong.
        cuda_graphs: Record the pass of one token and replay it (CUDA).
        weights: How matrices are kept.
        prune_layer: Drop patches after so many layers of the language model (FastV); 0 for never.
        keep: Share of the patches that stays.
        reuse: Keep what was computed of a patch as long as its pixels differ by less than so many 8-bit levels on
            average from those it was computed from; 0 for never.
        layout: How the checkpoint was trained. Text first, what was computed of the prompt serves until it changes.
    """

    static_cache: bool = False
    action_head: bool = False
    speculate: bool = False
    cuda_graphs: bool = False
    weights: Weights = Weights.FULL
    prune_layer: int = 0
    keep: float = 1.0
    reuse: float = 0.0
    layout: Layout = Layout.IMAGE_FIRST

    def __post_init__(self) -> None:
        """Refuse what makes no sense, or cannot be joined.

        Raises:
            CheckpointError: Says what was expected, what was found and what to change.
        """
        if self.prune_layer < 0 or not 0.0 < self.keep <= 1.0:
            raise CheckpointError(
                f"expected pruning after 1 layer or more (0 for never) and a share of the patches in (0, 1], found "
                f"{self.prune_layer} and {self.keep:g}"
            )
        if (self.prune_layer > 0) != (self.keep < 1.0):
            raise CheckpointError(
                f"expected a layer and a share below 1, or neither, to drop patches; found layer {self.prune_layer} "
                f"and share {self.keep:g}; give both --fast-prune-layer and --fast-keep"
            )
        if not 0.0 <= self.reuse < 256.0:
            raise CheckpointError(f"expected a change in 8-bit levels, 0 to 255, for reuse; found {self.reuse:g}")
        if self.reuse and self.prune_layer:
            raise CheckpointError(
                "expected reuse of patches or pruning, found both: what is dropped in one picture is missing in the "
                "next; drop --fast-reuse or --fast-prune-layer"
            )

    @property
    def lean(self) -> bool:
        """Whether the language model is passed over by our own code."""
        return (
            self.static_cache
            or self.speculate
            or self.cuda_graphs
            or self.weights is not Weights.FULL
            or self.prune_layer > 0
            or self.reuse > 0.0
            or self.layout is not Layout.IMAGE_FIRST
        )

    @property
    def label(self) -> str:
        """What is on, for the log; empty where nothing is."""
        return " ".join(self._changed())

    def _changed(self) -> Iterator[str]:
        for item in fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                shown = value.value if isinstance(value, Enum) else value
                yield item.name if value is True else f"{item.name}={shown}"

    def check_device(self, device: str) -> None:
        """Refuse a device that cannot do it.

        Raises:
            CheckpointError: Says what was expected, what was found and what to change.
        """
        kind = device.partition(":")[0]
        wanting = {"--fast-cuda-graphs": self.cuda_graphs, "--fast-weights fp8": self.weights is Weights.FP8}
        for option, wanted in wanting.items():
            if wanted and kind != "cuda":
                raise CheckpointError(f"expected a CUDA device, found {device}; drop {option}, or choose --device cuda")
        if self.weights is Weights.INT4 and kind != "cpu":
            raise CheckpointError(
                f"expected the processor (cpu) for 4-bit weights, whose kernel is for it, found {device}; choose "
                "--fast-weights int8 or fp8"
            )

    def check_one_pass(self) -> None:
        """Refuse what says nothing to a network that computes all values in one bidirectional pass.

        Raises:
            CheckpointError: Names the option.
        """
        meaningless = {
            "--fast-speculate": self.speculate,
            "--fast-cuda-graphs": self.cuda_graphs,
            "--fast-layout text_first": self.layout is not Layout.IMAGE_FIRST,
        }
        for option, given in meaningless.items():
            if given:
                raise CheckpointError(
                    f"expected options of a network that computes all values in one pass, found {option}, which is "
                    "for one that writes them one after the other; drop it"
                )
