"""The one door to numba: a typed decorator for the numeric kernels of controllers and safety.

Why compiled: a tick has some 100 us for inverse kinematics and all limits, and numpy takes about 1 us a call
on arrays this small. Machine code runs the same loops in nanoseconds, and it needs no other library's kinematics at run
time.

Why no ``fastmath``: it lets the compiler reorder sums, by register width and loop length. Replays are compared bit for
bit, so each operation is done as it is written, IEEE 754, in order. (Sines still come from the C library.)

Why no BLAS (``@``, ``np.dot``, ``np.linalg``) inside: its sums depend on the library's build, the processor and the
number of threads; its calls cost more than a loop over 7 joints; and it may start threads.

Rules for kernels: they allocate nothing (callers hand in outputs and scratch), raise nothing, and take float64 and
int64 arrays that are C-contiguous and *writable*: a read-only array is another type to numba, so it would compile the
kernel again, in the middle of a run, and its calls are slower. Call every kernel once before the loop starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., object])


def compiled(function: _F) -> _F:
    """Compile ``function`` to machine code at its first call with each set of types; the code is kept on disk.

    Args:
        function: Plain Python on numbers, tuples and arrays. It may call other compiled functions.

    Returns:
        The compiled function; for type checkers, ``function`` itself.
    """
    options: dict[str, Any] = {"cache": True, "fastmath": False, "boundscheck": False, "error_model": "numpy"}
    # Nothing is allocated, so nothing need be counted; and nobody calls kernels from C.
    options |= {"_nrt": False, "no_cfunc_wrapper": True}
    njit = cast(Any, numba).njit
    result = njit(**options)(function)
    if result is not function:  # else NUMBA_DISABLE_JIT is set: plain Python, for debuggers
        _stamp(result, function)
    return cast(_F, result)


def _stamp(dispatcher: Any, function: Callable[..., object]) -> None:
    """Have the code on disk depend on all kernels, not on its own file alone.

    Numba looks at the date and size of the file that a function is in. Callees are compiled into their callers, so a
    corrected callee in another file would leave the faulty code in use. Callees are in the caller's own folder.
    """
    cache_file = dispatcher._cache._cache_file
    if not hasattr(cache_file, "_source_stamp"):
        raise RuntimeError(f"numba {numba.__version__}: expected a cache with a source stamp, found none")
    cache_file._source_stamp = _digest(Path(function.__code__.co_filename).parent)


@cache
def _digest(folder: Path) -> str:
    """SHA-256 of this file and of all Python sources in ``folder``."""
    digest = hashlib.sha256()
    for path in (Path(__file__), *sorted(folder.glob("*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
