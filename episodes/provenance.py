"""Episodes that were not recorded by this stack: where they came from, and what they do not hold."""

from __future__ import annotations

from dataclasses import dataclass

from episodes.jsontypes import as_list, as_mapping
from episodes.manifest import Manifest

IMPORTED = "imported"  # entry of the manifest's stack; also the task and policy of an unknown recording


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of an imported episode.

    Attributes:
        format: Format that it was imported from.
        source: Name of the file or data set.
        joint_names: (n,) arm joints, as the recording names them.
        lacks: What it does not hold, in words.
    """

    format: str
    source: str
    joint_names: tuple[str, ...]
    lacks: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The entry of the manifest's stack."""
        return {
            IMPORTED: {
                "format": self.format,
                "source": self.source,
                "joint_names": list(self.joint_names),
                "lacks": list(self.lacks),
            }
        }

    def explanation(self) -> str:
        """One sentence for people."""
        return f"imported from {self.format} ({self.source}), which lacks {'; '.join(self.lacks) or 'nothing'}"


def provenance(manifest: Manifest) -> Provenance | None:
    """Origin of an imported episode, None for one that this stack recorded."""
    entry = as_mapping(manifest.stack.get(IMPORTED))
    if not entry:
        return None
    return Provenance(
        str(entry.get("format", "")),
        str(entry.get("source", "")),
        tuple(str(name) for name in as_list(entry.get("joint_names")) or ()),
        tuple(str(text) for text in as_list(entry.get("lacks")) or ()),
    )
