# Every target sets up what it needs: on a fresh clone, `make demo` is the first command to type.

PY := .venv/bin/python
GL = MUJOCO_GL="$${MUJOCO_GL:-$$(cat .venv/vla-gl)}"

.PHONY: help setup setup-full demo test lint format lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

setup:  ## make .venv and install everything (with extras: make setup EXTRAS=ros,viz)
	@scripts/setup $(EXTRAS)

setup-full:  ## the same with everything that tests and type checks need (ROS 2, LeRobot, viewers)
	@scripts/setup full

demo: setup  ## run a policy on four tabletop tasks, replay an episode, write a report
	@$(GL) scripts/demo

test: setup-full  ## run every test
	@$(GL) OMP_NUM_THREADS=1 PY=$(PY) scripts/test

lint: setup-full  ## check style, types and the one-way imports
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright
	@.venv/bin/lint-imports --no-logo

format: setup  ## put the code into the house style
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

lock: setup  ## pin the newest versions that pyproject.toml allows
	@scripts/lock

clean:  ## delete what was made here, .venv and runs included
	rm -rf .venv runs build dist ./*.egg-info .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
