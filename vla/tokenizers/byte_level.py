"""The alphabet of byte-level vocabularies: a visible character for each byte (GPT-2's table)."""

from __future__ import annotations

_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def _characters() -> tuple[str, ...]:
    hidden = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in _VISIBLE else next(hidden)) for byte in range(256))


CHARACTERS = _characters()
_BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


def piece_bytes(piece: str) -> bytes:
    """The bytes that a vocabulary's piece stands for; one with characters outside the alphabet is text as it is."""
    try:
        return bytes(_BYTES[character] for character in piece)
    except KeyError:
        return piece.encode()
