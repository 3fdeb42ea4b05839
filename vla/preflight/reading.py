"""Contracts of policies, read from what lies beside the weights; the weights themselves are not opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from controllers.types import ActionSpec
from vla.preflight.contract import ActionContract, ContractError, PictureContract, contract_from_json, contract_of_spec

CONTRACT_FILE = "contract.json"
_COMPACT_FILES = ("config.json", "action_spec.json")


def read_contract(folder: Path) -> ActionContract:
    """The contract of a policy folder: its ``contract.json``, or what a compact policy's own files say.

    Raises:
        ContractError: Neither, or files that cannot be read.
    """
    if (folder / CONTRACT_FILE).is_file():
        return contract_from_json(_json(folder / CONTRACT_FILE), str(folder))
    if all((folder / name).is_file() for name in _COMPACT_FILES):
        return _compact(folder)
    found = ", ".join(sorted(item.name for item in folder.iterdir())) if folder.is_dir() else "no folder"
    raise ContractError(
        f"{folder}: expected {CONTRACT_FILE}, or {' and '.join(_COMPACT_FILES)} of a compact policy; found {found}; "
        "docs/preflight.md says how to write a contract"
    )


def _compact(folder: Path) -> ActionContract:
    config, contract = _json(folder / "config.json"), _json(folder / "action_spec.json")
    try:
        size = int(config["image_size"])
        pictures = {str(camera): PictureContract(size, size) for camera in config["cameras"]}
        spec = ActionSpec.from_json(contract["spec"])
        tokenizer_id = str(contract["tokenizer_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(f"{folder}: not the files of a compact policy: {error!r}") from error
    return contract_of_spec(str(folder), spec, tokenizer_id, pictures)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ContractError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ContractError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data
