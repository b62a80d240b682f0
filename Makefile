# Two commands do everything: `make train` and `make test`. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help install train test test-fast check format docs bench throughput learning engines peers games gpu sweeps estimate results report verify-envs board clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# Installed once; again only when what is asked for changes.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"rlsys needs Python 3.11 or newer, not {v[0]}.{v[1]}: make PYTHON=python3.12" if v < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,atari,box2d,dashboard,minatar,minigrid,mujoco,postgres,slurm,sweep]'
	touch $@

install: .venv/installed ## create .venv and install rlsys with everything its tests need

train: .venv/installed ## train PPO on CartPole until solved; leaves a replay in the run folder
	$(BIN)/rlsys train experiment=cartpole

test: .venv/installed ## run the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadfile

check: .venv/installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed ## let ruff rewrite the code
	$(BIN)/ruff check --fix -q .
	$(BIN)/ruff format -q .

docs: .venv/installed ## regenerate the pages that come from code
	$(BIN)/python -m rlsys.log > docs/metrics.md

bench: throughput learning engines peers games report ## measure speed (half an hour, an idle machine); writes benchmarks/results/

throughput: .venv/installed ## every sim; rollouts and training from one env to 65536
	$(BIN)/python benchmarks/throughput.py

learning: .venv/installed ## seconds from process start to solved, warm and cold
	$(BIN)/python benchmarks/learning.py

engines: .venv/installed ## learning curves of both engines over ten seeds
	$(BIN)/python benchmarks/engines.py

peers: .venv/installed ## speed next to other systems, each installed in ~/.cache/rlsys/peers (5 GB)
	$(BIN)/python benchmarks/peers.py

games: .venv/installed ## Snake and Breakout next to PufferLib's in C (a minute; wants a C compiler)
	$(BIN)/python benchmarks/peers.py --only snake,breakout --out benchmarks/results/games.json

gpu: .venv/installed ## everything on a GPU (8 minutes); writes benchmarks/results/gpu.json
	$(BIN)/python benchmarks/gpu.py

sweeps: .venv/installed ## what a sweep costs, and what asynchronous workers and a pruner save; writes benchmarks/results/sweeps.json
	$(BIN)/python benchmarks/sweeps.py

estimate: .venv/installed ## twenty runs, estimated and made (half an hour, an idle machine); writes benchmarks/results/estimate.json
	$(BIN)/python benchmarks/estimate.py

results: .venv/installed ## train every experiment with five seeds and write the README's table
	$(BIN)/python benchmarks/results.py

report: .venv/installed ## write docs/results.md and its picture from benchmarks/results/
	$(BIN)/python benchmarks/report.py

verify-envs: .venv/installed ## all that can be checked of every sim, at length (5 minutes); writes docs/worlds.md
	$(BIN)/python benchmarks/verify_envs.py

board: .venv/installed ## TensorBoard on runs/
	$(BIN)/rlsys board

clean: ## remove the virtual environment and caches (runs/ stays)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
