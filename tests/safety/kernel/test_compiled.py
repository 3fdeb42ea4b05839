"""Code on disk must never outlive the sources that it was compiled from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

INNER = "from safety.kernel.compiled import compiled\n\n@compiled\ndef inner(x: float) -> float:\n    return x + {}\n"
OUTER = (
    "import sys\nfrom inner import inner\nfrom safety.kernel.compiled import compiled\n\n"
    "@compiled\ndef outer(x: float) -> float:\n    return 2.0 * inner(x)\n\n"
    "def main() -> None:\n    print(outer(1.0), len(outer.stats.cache_hits))\n"
)


def test_a_corrected_callee_in_another_file_is_compiled_anew_into_its_callers(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd()), *sys.path])}
    environment.pop("NUMBA_CACHE_DIR", None)

    def printed(term: float) -> list[str]:
        (tmp_path / "inner.py").write_text(INNER.format(term))
        (tmp_path / "outer.py").write_text(OUTER)
        os.utime(tmp_path / "outer.py", (1e9, 1e9))  # numba's own stamp: date and size
        command = [sys.executable, "-c", "import outer; outer.main()"]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()

    assert printed(1.0) == ["4.0", "0"]
    assert printed(1.0) == ["4.0", "1"]
    assert printed(9.0) == ["20.0", "0"]
