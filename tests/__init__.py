"""Tests; a regular package, so that no distribution that installs a top-level `tests` stands in for it."""
