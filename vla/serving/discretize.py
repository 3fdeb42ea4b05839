"""Float actions become tokens at the boundary, with the error stated; what does not fit is refused, never clipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.types import ActionSpec, FloatArray, IntArray
from vla.tokenizers import decoder_from_id, tokenizer_from_id

_ROUNDING = 1e-9  # of a bin: what the arithmetic of encoding and decoding may add


class DiscretizationError(ValueError):
    """An action that no token of the declared tokenizer stands for."""


@dataclass(frozen=True, slots=True)
class Discretized:
    """Tokens and what rounding to them cost.

    Attributes:
        tokens: int64, read-only; (horizon, dims) for bins, a sequence for tokenizers that write a chunk as a whole.
        error: (dims,) largest distance between an action and what its tokens mean, in the spec's units; at most
            :attr:`Discretizer.bound`.
    """

    tokens: IntArray
    error: FloatArray


class Discretizer:
    """Writes chunks of float actions as tokens of one tokenizer under one spec."""

    def __init__(self, tokenizer_id: str, spec: ActionSpec, definition: str = "") -> None:
        """Bind to the tokenizer (with its definition, where its identity names one) and the spec of the stack.

        Raises:
            ActionDecodeError: No such tokenizer.
            ValueError: An unusable spec.
        """
        self._tokenizer = tokenizer_from_id(tokenizer_id, definition)
        self._decoder = decoder_from_id(tokenizer_id, spec, definition)
        self._spec = spec
        self.bound: FloatArray = self._tokenizer.error_bound(spec)

    def encode(self, actions: FloatArray) -> Discretized:
        """Write (horizon, dims) finite actions as tokens.

        Raises:
            DiscretizationError: An action outside the spec's bounds, or one that the tokenizer cannot write.
            ActionDecodeError: The tokens would not pass the executor.
        """
        spec = self._spec
        outside = (actions < spec.lower) | (actions > spec.upper)
        if outside.any():
            row, dim = np.argwhere(outside)[0]
            raise DiscretizationError(
                f"row {row}, {spec.names[dim]}: expected a value in [{spec.lower[dim]:.6g}, {spec.upper[dim]:.6g}] "
                f"{spec.units[dim]}, found {actions[row, dim]:.6g}; check scale and offset of the mapping"
            )
        try:
            tokens = self._tokenizer.encode(actions, spec)
        except ValueError as error:
            raise DiscretizationError(f"{self._tokenizer.tokenizer_id} cannot write the actions: {error}") from error
        tokens.flags.writeable = False
        errors = np.abs(self._decoder.decode(tokens) - actions)
        beyond = errors > self.bound * (1.0 + _ROUNDING) + np.finfo(np.float64).eps
        if beyond.any():
            row, dim = np.argwhere(beyond)[0]
            raise DiscretizationError(
                f"row {row}, {spec.names[dim]}: {actions[row, dim]:.6g} {spec.units[dim]} is "
                f"{errors[row, dim]:.3g} from what its token means, more than the tokenizer's error "
                f"({self.bound[dim]:.3g}); it covers the 1% to 99% quantiles of the spec only: declare wider statistics"
            )
        return Discretized(tokens, errors.max(axis=0))

    def decode(self, tokens: IntArray) -> FloatArray:
        """The (horizon, dims) actions that tokens mean, in the spec's units.

        Raises:
            ActionDecodeError: No chunk of this tokenizer and spec.
        """
        return self._decoder.decode(tokens)
