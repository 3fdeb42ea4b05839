"""The policy folder: config, weights, vocabulary and action contract, bound together by checksums.

``manifest.json`` is written last and holds the SHA-256 of every other file, so a folder that was cut short or
edited does not load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from controllers.types import ActionSpec
from vla.compact.config import FORMAT, CompactConfig
from vla.compact.language import WordVocabulary
from vla.tokenizers import COMPACT_TOKENIZER

FILES = ("config.json", "model.safetensors", "vocabulary.json", "action_spec.json")


class PolicyFileError(ValueError):
    """A policy folder that must not be loaded; the message says what was expected and what was found."""


@dataclass(frozen=True)
class PolicyFiles:
    """Everything in a policy folder."""

    config: CompactConfig
    vocabulary: WordVocabulary
    spec: ActionSpec
    tokenizer_id: str
    weights: Mapping[str, Tensor]
    weights_hash: str


def save_policy(
    folder: Path,
    config: CompactConfig,
    vocabulary: WordVocabulary,
    spec: ActionSpec,
    weights: Mapping[str, Tensor],
) -> None:
    """Write a policy folder; weights are stored in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    stored = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": FORMAT})
    (folder / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n")
    (folder / "vocabulary.json").write_text(vocabulary.to_json() + "\n")
    contract = {
        "hash": spec.hash,
        "tokenizer_id": COMPACT_TOKENIZER.tokenizer_id,
        "spec": spec.to_json(),
    }
    (folder / "action_spec.json").write_text(json.dumps(contract, indent=2) + "\n")
    manifest = {"format": FORMAT, "sha256": {name: _sha256(folder / name) for name in FILES}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def load_policy(folder: Path) -> PolicyFiles:
    """Read a policy folder and verify every file.

    Raises:
        PolicyFileError: A file is missing, cut short, changed, or does not fit the others.
    """
    manifest = _json(folder, "manifest.json")
    if manifest.get("format") != FORMAT:
        raise PolicyFileError(
            f"{folder / 'manifest.json'}: expected format {FORMAT!r}, found {manifest.get('format')!r}"
        )
    sums = manifest.get("sha256") or {}
    for name in FILES:
        _verify(folder / name, sums.get(name))
    try:
        config = CompactConfig.from_json(_json(folder, "config.json"))
    except (ValueError, TypeError) as error:
        raise PolicyFileError(f"{folder / 'config.json'}: {error}") from error
    vocabulary = WordVocabulary.from_json((folder / "vocabulary.json").read_text())
    if len(vocabulary.words) != config.vocabulary_size:
        raise PolicyFileError(
            f"{folder / 'vocabulary.json'}: expected {config.vocabulary_size} words, found {len(vocabulary.words)}"
        )
    spec, tokenizer_id = _contract(folder, config)
    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise PolicyFileError(f"{folder / 'model.safetensors'}: not a safetensors file: {error}") from error
    return PolicyFiles(config, vocabulary, spec, tokenizer_id, weights, sums["model.safetensors"])


def _contract(folder: Path, config: CompactConfig) -> tuple[ActionSpec, str]:
    path = folder / "action_spec.json"
    data = _json(folder, "action_spec.json")
    try:
        spec, expected, tokenizer_id = ActionSpec.from_json(data["spec"]), data["hash"], data["tokenizer_id"]
    except (KeyError, ValueError, TypeError) as error:
        raise PolicyFileError(f"{path}: not an action spec: {error!r}") from error
    if spec.hash != expected:
        raise PolicyFileError(f"{path}: expected action spec hash {expected}, found {spec.hash}")
    if tokenizer_id != COMPACT_TOKENIZER.tokenizer_id:
        raise PolicyFileError(f"{path}: expected tokenizer {COMPACT_TOKENIZER.tokenizer_id!r}, found {tokenizer_id!r}")
    if (spec.horizon, spec.dims) != (config.horizon, config.dims):
        raise PolicyFileError(
            f"{path}: expected chunks of shape {(config.horizon, config.dims)}, found {(spec.horizon, spec.dims)}"
        )
    return spec, tokenizer_id


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        have = ", ".join(sorted(item.name for item in folder.iterdir())) if folder.is_dir() else "no folder"
        raise PolicyFileError(f"{path} is missing (found: {have or 'an empty folder'})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PolicyFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise PolicyFileError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def _verify(path: Path, expected: object) -> None:
    if not path.is_file():
        raise PolicyFileError(f"{path} is missing")
    found = _sha256(path)
    if found != expected:
        raise PolicyFileError(
            f"{path} ({path.stat().st_size} bytes): expected sha256 {expected}, found {found}; "
            "the file is damaged or was changed"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
