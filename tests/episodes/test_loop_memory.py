"""What the loop remembers goes to JSON and back without losing a bit, and a file cannot name foreign classes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import ChunkArrival, TickInputs, frozen_array
from episodes.errors import EpisodeError
from episodes.loop_memory import decode_memory, encode_memory, encoding_steps
from tests.episodes.builders import PERIOD_NS, SpringPlant, bits, build_loop, make_chunk


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Mark(NamedTuple):
    stamp_ns: int
    place: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    values: Any
    other: Any
    marks: tuple[Mark, ...]
    colour: Colour | None
    count: int
    share: float


floats = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(
    st.lists(floats, max_size=9),
    st.lists(st.tuples(st.integers(-(2**63), 2**63), st.lists(floats, max_size=4)), max_size=40),
    st.sampled_from([*Colour, None]),
    floats,
)
def test_every_bit_comes_back(
    values: list[float], marks: list[tuple[int, list[float]]], colour: Colour | None, share: float
) -> None:
    quiet = [math.nan if math.isnan(value) else value for value in values]  # payloads of NaN are not kept
    array = frozen_array(quiet)
    share = math.nan if math.isnan(share) else share
    kept = tuple(Mark(n, tuple(math.nan if math.isnan(x) else x for x in place)) for n, place in marks)
    memory = Memory(array, array, kept, colour, len(marks), share)
    again = decode_memory(encode_memory(memory), memory, "here")
    assert bits(again) == bits(memory)
    assert again.values is again.other
    assert not again.values.flags.writeable


def test_it_is_encoded_in_many_small_steps() -> None:
    memory = Memory(frozen_array([1.0]), None, tuple(Mark(n, (0.5,)) for n in range(300)), None, 0, -0.0)
    steps = list(encoding_steps(memory))
    assert len(steps) > 75
    assert max(map(len, steps)) < 150


def test_arrays_that_are_equal_but_not_one_stay_two() -> None:
    memory = Memory(frozen_array([1.0]), frozen_array([1.0]), (), None, 0, 0.0)
    again = decode_memory(encode_memory(memory), memory, "here")
    assert again.values is not again.other


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (('"Memory"', '"Memorz"'), "found a 'Memorz'; did you mean 'Memory'"),
        (('"Memory"', '"Popen"'), "found a 'Popen'"),
        (('"count"', '"counts"'), "found Memory with the fields"),
        (('"red"', '"green"'), "'green' is not a valid Colour"),
    ],
)
def test_a_memory_of_other_parts_is_refused(edit: tuple[str, str], message: str) -> None:
    memory = Memory(frozen_array([1.0]), None, (), Colour.RED, 0, 0.0)
    text = encode_memory(memory).replace(*edit)
    with pytest.raises(EpisodeError, match=message):
        decode_memory(text, memory, "here")


def test_what_is_not_frozen_is_not_encoded() -> None:
    with pytest.raises(TypeError, match="expected a loop's memory of plain frozen values, found a dict"):
        encode_memory(replace(Memory(None, None, (), None, 0, 0.0), other={}))


def test_objects_that_are_one_stay_one_and_are_written_once() -> None:
    mark = Mark(7, (0.1,) * 9)
    memory = Memory(mark, mark, (mark,) * 40, None, 0, 0.0)
    text = encode_memory(memory)
    assert text.count("0.1") == 9 * 41  # as a field once, and in each row of the tuple, whose names are written once
    assert text.count("stamp_ns") == 2
    again = decode_memory(text, Memory(None, None, (mark,), None, 0, 0.0), "here")
    assert bits(again) == bits(memory)
    assert again.values is again.other


def test_a_memory_that_was_written_before_rows_and_sharing_still_reads() -> None:
    row = '{"~":"Mark","stamp_ns":1,"place":[0.5]}'
    rows = ",".join([row] * 20)
    text = f'{{"~":"Memory","values":{row},"other":null,"marks":[{rows}],"colour":null,"count":3,"share":0.25}}'
    memory = Memory(Mark(1, (0.5,)), None, (Mark(1, (0.5,)),) * 20, None, 3, 0.25)
    assert decode_memory(text, memory, "here") == memory


# -------------------------------------------------------------------------- what of a memory is essential


def arrival(rng: np.random.Generator, tick: int) -> ChunkArrival:
    """A chunk that answers any moment of the last two seconds, or none."""
    observed = max(0, tick - int(rng.integers(0, 400)))
    return make_chunk(observed, int(rng.integers(1000)))


@pytest.mark.parametrize("seed", range(6))
def test_every_tick_goes_on_from_what_is_essential_as_from_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    robot, loop = SpringPlant(3.0), build_loop()
    state = loop.initial(robot.read())
    kept = None
    trimmed = rejected = 0
    for tick in range(1200):
        arrivals = tuple(arrival(rng, tick) for _ in range(rng.integers(3))) if rng.random() < 0.08 else ()
        inputs = TickInputs(tick, tick * PERIOD_NS, robot.read(), arrivals)
        if tick % 150 == 100:
            text = encode_memory(state)
            trimmed += text.count('"Reference"') < len(state.executor.history)
            kept = decode_memory(text, loop.initial(robot.read()), "here")
        state, outputs = loop.tick(state, inputs)
        if kept is not None:
            kept, again = loop.tick(kept, inputs)
            assert bits(again) == bits(outputs)
        rejected += len(outputs.executor.rejections)
        robot.write(outputs.safety.command)
    assert trimmed
    assert rejected
