"""FAST: the cosine transform of a chunk, rounded, as a text that byte-pair encoding compresses.

After FAST (https://arxiv.org/abs/2501.09747). Reading needs numpy and scipy alone; writing uses the ``tokenizers``
library, so that the same text gives the same tokens as the published processor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.fft import dct, idct

from controllers.protocols import ActionDecodeError
from controllers.types import ActionSpec, FloatArray, IntArray, RejectionReason
from vla.tokenizers.byte_level import CHARACTERS, piece_bytes
from vla.tokenizers.identity import canonical, short_hash
from vla.tokenizers.normalization import normalize, scale_of, unnormalize
from vla.tokenizers.protocol import check_chunk, check_token_type

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONFIG, _VOCABULARY = "processor_config.json", "tokenizer.json"
_HIGHEST_CHARACTER = 0xD7FF  # the last before the surrogates, which no text holds


class FastTokenizer:
    """Variable-length tokens (n,) for a whole chunk.

    Where the published decoder answers a malformed sequence with a chunk of zeros, this one refuses it.
    """

    def __init__(self, pieces: Sequence[bytes], scale: float, min_token: int, encoder: Tokenizer | None = None) -> None:
        """Take a vocabulary.

        Args:
            pieces: UTF-8 bytes of every token.
            scale: Coefficients are multiplied by it before they are rounded.
            min_token: Coefficient that the character 0 stands for.
            encoder: What compresses text; without one, only decoding works.

        Raises:
            ValueError: No tokens, or an unusable scale.
        """
        if not pieces or not scale > 0.0:
            raise ValueError(f"expected a vocabulary and a positive scale, found {len(pieces)} tokens, scale {scale}")
        self.scale, self.min_token = float(scale), int(min_token)
        self._pieces = tuple(pieces)
        hexadecimal = [piece.hex() for piece in self._pieces]
        self._definition = canonical(
            {"scheme": "fast", "scale": self.scale, "min_token": self.min_token, "pieces": hexadecimal}
        )
        self._tokenizer_id = f"fast-{len(self._pieces)}/{short_hash(self._definition)}"
        self._encoder = encoder

    # -------------------------------------------------------------------------------------- making one

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any]) -> FastTokenizer:
        """The decoding half, from :attr:`definition`."""
        pieces = [bytes.fromhex(piece) for piece in definition["pieces"]]
        return cls(pieces, definition["scale"], definition["min_token"])

    @classmethod
    def load(cls, folder: Path | str) -> FastTokenizer:
        """Read the published layout: ``processor_config.json`` and ``tokenizer.json``.

        Raises:
            ValueError: A file is missing or is not what its name says.
        """
        folder = Path(folder)
        for name in (_CONFIG, _VOCABULARY):
            if not (folder / name).is_file():
                raise ValueError(
                    f"expected a folder with {_CONFIG} and {_VOCABULARY}, found no {name} in {folder}; "
                    "download both files of the FAST tokenizer"
                )
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        missing = [key for key in ("scale", "min_token") if key not in config]
        if missing:
            raise ValueError(f"{folder / _CONFIG}: expected the key {missing[0]!r}, found {sorted(config)}")
        return cls._of(_library().from_file(str(folder / _VOCABULARY)), config["scale"], config["min_token"])

    @classmethod
    def fit(
        cls, actions: Sequence[FloatArray], spec: ActionSpec, scale: float = 10.0, vocabulary_size: int = 1024
    ) -> FastTokenizer:
        """Learn a vocabulary from chunks (horizon, dims) in the spec's units.

        Raises:
            ValueError: No chunks, or a vocabulary smaller than the range of their coefficients.
        """
        if not actions:
            raise ValueError("expected at least one chunk to fit FAST to, found none")
        coefficients = [_coefficients(check_chunk(chunk, spec), spec, scale) for chunk in actions]
        low, high = int(min(c.min() for c in coefficients)), int(max(c.max() for c in coefficients))
        if high - low + 1 > vocabulary_size:
            raise ValueError(
                f"expected a vocabulary of at least {high - low + 1} tokens (the range of the coefficients), found "
                f"{vocabulary_size}; choose a larger vocabulary or a smaller scale than {scale}"
            )
        _library()
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers, trainers

        encoder = Library(models.BPE())
        encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
        encoder.decoder = decoders.ByteLevel()  # pyright: ignore
        # All bytes that these characters are written with, so that every chunk in range can be written.
        written = "".join(map(chr, range(high - low + 1))).encode()
        alphabet = sorted({CHARACTERS[byte] for byte in written})
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=alphabet,
            max_token_length=10_000,
        )
        encoder.train_from_iterator((_text(c, low) for c in coefficients), trainer)
        return cls._of(encoder, scale, low)

    @classmethod
    def _of(cls, encoder: Tokenizer, scale: float, min_token: int) -> FastTokenizer:
        vocabulary = encoder.get_vocab()
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("expected token ids 0, 1, 2, ... in the FAST vocabulary, found gaps")
        pieces = [piece_bytes(piece) for piece in sorted(vocabulary, key=vocabulary.__getitem__)]
        return cls(pieces, scale, min_token, encoder)

    def save(self, folder: Path | str) -> None:
        """Write the published layout.

        Raises:
            ValueError: Only the decoding half is here.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._need_encoder().save(str(folder / _VOCABULARY))
        config = {
            "processor_class": "UniversalActionProcessor",
            "scale": self.scale,
            "min_token": self.min_token,
            "vocab_size": len(self._pieces),
            "time_horizon": None,
            "action_dim": None,
        }
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    # ------------------------------------------------------------------------------------------- identity

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """UTF-8 bytes of every token."""
        return self._pieces

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self._pieces)

    @property
    def definition(self) -> str:
        """Canonical JSON of all that decoding needs."""
        return self._definition

    @property
    def tokenizer_id(self) -> str:
        """Vocabulary size and the definition's hash, e.g. ``fast-1024/0123456789ab``."""
        return self._tokenizer_id

    # -------------------------------------------------------------------------------------- encode, decode

    def encode(self, action: FloatArray, spec: ActionSpec) -> IntArray:
        """Write a chunk (horizon, dims) as tokens (n,).

        Raises:
            ValueError: Non-finite actions, another shape, or actions so far outside the statistics that the
                vocabulary has no character for them.
        """
        coefficients = _coefficients(check_chunk(action, spec), spec, self.scale)
        if coefficients.min() < self.min_token or coefficients.max() - self.min_token > _HIGHEST_CHARACTER:
            raise ValueError(
                f"the chunk's coefficients reach from {coefficients.min():.0f} to {coefficients.max():.0f}, the "
                f"tokenizer {self.tokenizer_id} begins at {self.min_token}; fit it to such actions"
            )
        text = _text(coefficients, self.min_token)
        tokens = np.array(self._need_encoder().encode(text, add_special_tokens=False).ids, np.int64)
        if self._bytes(tokens) != text.encode():
            raise ValueError(
                f"the vocabulary of {self.tokenizer_id} has no tokens for coefficients up to "
                f"{coefficients.max():.0f}; fit it to such actions"
            )
        return tokens

    def decode(self, tokens: IntArray, spec: ActionSpec) -> FloatArray:
        """Read tokens (n,) as a chunk (horizon, dims), or refuse."""
        check_token_type(tokens)
        rows, dims = spec.horizon, spec.dims
        # Every token writes at least one byte, a coefficient takes three at most.
        if tokens.ndim != 1 or not 0 < tokens.size <= 3 * rows * dims:
            raise ActionDecodeError(
                RejectionReason.WRONG_SHAPE,
                f"expected tokens of shape (n,) with n from 1 to {3 * rows * dims}, found {tokens.shape}",
            )
        if tokens.min() < 0 or tokens.max() >= len(self._pieces):
            position = int(np.argmax((tokens < 0) | (tokens >= len(self._pieces))))
            raise ActionDecodeError(
                RejectionReason.TOKEN_OUT_OF_VOCABULARY,
                f"token {tokens[position]} (position {position}) is outside the vocabulary 0..{len(self._pieces) - 1} "
                f"of {self.tokenizer_id}",
            )
        try:
            text = self._bytes(tokens).decode()
        except UnicodeDecodeError as error:
            raise ActionDecodeError(
                RejectionReason.MALFORMED_SEQUENCE, f"the tokens write no text at byte {error.start}: {error.reason}"
            ) from None
        if len(text) != rows * dims:
            raise ActionDecodeError(
                RejectionReason.MALFORMED_SEQUENCE,
                f"expected {rows * dims} coefficients ({rows} rows of {dims}), found {len(text)}",
            )
        coefficients = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.float64) + self.min_token
        return unnormalize(idct(coefficients.reshape(rows, dims) / self.scale, axis=0, norm="ortho"), spec)

    def error_bound(self, spec: ActionSpec) -> FloatArray:
        """(dims,) half a rounding step in every coefficient: the transform keeps lengths, so their root sum square."""
        return 0.5 / self.scale * np.sqrt(spec.horizon) * scale_of(spec)

    def _bytes(self, tokens: IntArray) -> bytes:
        pieces = self._pieces
        return b"".join([pieces[token] for token in tokens.tolist()])

    def _need_encoder(self) -> Tokenizer:
        if self._encoder is None:
            raise ValueError(
                f"{self.tokenizer_id} was rebuilt from a log, which holds what decoding needs; to write tokens, load "
                "its folder"
            )
        return self._encoder


def _coefficients(action: FloatArray, spec: ActionSpec, scale: float) -> FloatArray:
    """(horizon, dims) rounded cosine coefficients of the normalized chunk."""
    return np.around(dct(normalize(action, spec), axis=0, norm="ortho") * scale)


def _text(coefficients: FloatArray, min_token: int) -> str:
    """One character a coefficient: all dimensions of the lowest frequency first."""
    return (coefficients.ravel() - min_token).astype("<u4").tobytes().decode("utf-32-le")


def _library() -> type[Tokenizer]:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError(
            "writing FAST tokens needs the package 'tokenizers'; install the extra: pip install 'vla-stack[train]'"
        ) from None
    return Tokenizer
