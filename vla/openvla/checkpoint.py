"""The published folder: ``config.json``, sharded safetensors, ``dataset_statistics.json``, typed and checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from controllers.names import nearest_name_hint
from vla.openvla.published import CheckpointError, read_config, tensor_files


class TensorSource(Protocol):
    """Named tensors in the published layout, wherever they lie."""

    @property
    def folder(self) -> Path:
        """Where they were published, for messages."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor.

        Raises:
            CheckpointError: There is no such tensor.
        """
        ...

    def take(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """One tensor, counted as used.

        Raises:
            CheckpointError: There is no such tensor.
        """
        ...

    def untaken(self) -> Iterator[str]:
        """Tensors that nobody has used yet."""
        ...


class Checkpoint:
    """One folder, opened; tensors are read when they are asked for."""

    def __init__(self, folder: Path | str) -> None:
        """Read configuration, statistics and the list of tensors.

        Raises:
            CheckpointError: A file is missing or is not what its name says.
        """
        self._folder = Path(folder)
        self.config = read_config(self._folder)
        self._files = tensor_files(self._folder)
        self._taken: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._folder

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        with self._open(name) as file:
            return tuple(file.get_slice(name).get_shape())

    def take(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Read one tensor and count it as used.

        Raises:
            CheckpointError: There is no such tensor.
        """
        with self._open(name) as file:
            tensor = file.get_tensor(name)
        self._taken.add(name)
        return tensor.to(device=device, dtype=dtype)

    def untaken(self) -> Iterator[str]:
        """Tensors that nobody has used yet."""
        return (name for name in self._files if name not in self._taken)

    def _open(self, name: str) -> Any:
        if name not in self._files:
            raise CheckpointError(
                f"{self.folder}: expected a tensor {name!r}{nearest_name_hint(name, self._files)}; the checkpoint is "
                "incomplete or of another layout"
            )
        try:
            return safe_open(self._files[name], framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self._files[name]}: cannot be read ({error}); download it again") from error
