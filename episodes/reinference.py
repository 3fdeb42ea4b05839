"""The recorded observations through a policy again: does it say the same?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from controllers.protocols import Policy
from controllers.types import ActionChunk, IntArray, Observation
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.profile import camera_profile


@dataclass(frozen=True, slots=True)
class DifferingChunk:
    """The first chunk with another token: its arrival tick, id, place and both tokens."""

    tick: int
    chunk_id: int
    row: int
    dim: int
    recorded: int
    inferred: int


@dataclass(frozen=True, slots=True)
class PolicyAgreement:
    """How well a policy repeats a recording.

    Attributes:
        chunks: Chunks that were inferred again and compared.
        skipped: Observations left out: a picture was dropped, or no chunk answered them.
        token_agreement: Share of equal tokens, NaN without chunks.
        identical_chunks: Chunks with all tokens equal.
        mean_token_distance: Mean absolute difference of token ids.
        first_differing_chunk: The first with a difference, None for none.
        lossy_pictures: The recording keeps pictures lossily, so equality cannot be expected.
        mode: What kind of result this is.
    """

    chunks: int
    skipped: int
    token_agreement: float
    identical_chunks: int
    mean_token_distance: float
    first_differing_chunk: DifferingChunk | None
    lossy_pictures: bool
    mode: str = "policy"


Comparison = Callable[[Observation, ActionChunk, ActionChunk], None]


def reinfer(
    episode: Episode, policy: Policy, seen: Comparison | None = None, *, exact: bool = False
) -> PolicyAgreement:
    """Infer again from every recorded observation and compare with the chunk that answered it.

    Args:
        episode: The recording.
        policy: Any policy for the same action spec and tokenizer.
        seen: Called with each observation, its recorded and its new chunk.
        exact: Every token is to be equal, so the pictures must be those that the policy saw.

    Raises:
        EpisodeError: The policy was built for another spec or tokenizer, there is nothing to infer from, or the
            pictures cannot give equal tokens.
    """
    manifest = episode.manifest
    lossy = camera_profile(manifest.camera_profile).lossy
    if exact and lossy:
        raise EpisodeError(
            f"{episode.path}: pictures",
            "lossless ones for bit-exact inference",
            f"the camera log {manifest.camera_profile}",
            "the policy saw other pixels; record with --camera-log lossless, or compare without --exact",
        )
    for what, recorded, found in (
        ("action spec", manifest.action_spec_hash, policy.spec.hash),
        ("tokenizer", manifest.tokenizer_id, policy.tokenizer_id),
    ):
        if recorded != found:
            raise EpisodeError(f"{episode.path}: {what}", recorded, found, "choose a policy for the same actions")
    if not episode.cameras:
        raise EpisodeError(
            str(episode.path), "an episode with pictures", "none", "record with cameras, or re-execute it instead"
        )
    answers = {
        arrival.chunk.observation_stamp_ns: (tick, arrival.chunk)
        for tick, record in reversed(episode.chunk_records)
        if record.is_regular(*_shape(policy))
        for arrival in (record.to_arrival(),)
    }
    policy.reset()
    differences: list[IntArray] = []
    first: DifferingChunk | None = None
    for index in range(len(episode.observations.stamp_ns)):
        observation = episode.observation(index)
        answer = answers.get(observation.stamp_ns)
        if answer is None or set(observation.images) != set(episode.cameras):
            continue
        tick, chunk = answer
        again = policy.infer(observation)
        difference = again.tokens - chunk.tokens
        differences.append(difference)
        if first is None and difference.any():
            row, dim = (int(place) for place in np.argwhere(difference)[0])
            first = DifferingChunk(
                tick, chunk.chunk_id, row, dim, int(chunk.tokens[row, dim]), int(again.tokens[row, dim])
            )
        if seen is not None:
            seen(observation, chunk, again)
    total = np.array(differences)
    return PolicyAgreement(
        chunks=len(differences),
        skipped=len(episode.observations.stamp_ns) - len(differences),
        token_agreement=float((total == 0).mean()) if len(differences) else float("nan"),
        identical_chunks=sum(not difference.any() for difference in differences),
        mean_token_distance=float(np.abs(total).mean()) if len(differences) else float("nan"),
        first_differing_chunk=first,
        lossy_pictures=lossy,
    )


def _shape(policy: Policy) -> tuple[int, int]:
    return policy.spec.horizon, policy.spec.dims
