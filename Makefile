# make lab    set up .venv and grade your lora.py (0/100 on a fresh clone, by design)
# make test   set up the development extras and run the repository's own tests: green on a fresh clone
# Windows has no make: README.md lists the same steps as plain commands.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An index of CPU wheels, where one is given; on Linux the default wheel of torch is gigabytes of CUDA.
TORCH_INDEX ?=
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CORES := import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
# Compiled afterwards, on every core, not by pip, on one; what cannot be compiled are packages' own templates.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
READY := $(VENV)/.dev $(VENV)/.compiled

.PHONY: lab test upkeep bench seeds thousand gradescope lint readme tables signs diagnosis figures stamp clean
.DEFAULT_GOAL := lab
ifndef BESIDE
.NOTPARALLEL:  # one pip at a time
endif

lab: $(VENV)/.core $(VENV)/.compiled
	@$(BIN)/minituner grade; status=$$?; test $$status -ne 2

# torch is compiled while pip has one core busy; of other packages what is imported, then. mypy has one
# core, too, so it runs beside the tests; what it says comes when it is there, and decides in the end.
test: $(VENV)/.torch
	@$(MAKE) --no-print-directory --jobs 2 BESIDE=1 lint upkeep

# One process a core, one thread each; what takes long first.
upkeep: $(READY)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest tests/upkeep --numprocesses $$($(BIN)/python -c '$(CORES)') \
	  --dist loadscope --no-loadscope-reorder -p no:benchmark $(PYTEST_ARGS)

# One mypy call a folder: experiments share file names. What the first knows of torch the others read,
# one after the other: two at once would wait for each other's writing.
lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict src tests conftest.py
	printf '%s\n' solutions experiments/*/ | xargs -n 1 $(BIN)/mypy --strict

# What the exam and watch cost beside the commands one would type instead, scalars beside torch, and
# adapter layers beside PEFT's; ten minutes.
bench: $(READY)
	$(BIN)/python tests/upkeep/bench.py
	$(BIN)/python tests/upkeep/bench_watch.py
	$(BIN)/python experiments/28-scalar-lora/bench.py
	$(BIN)/python experiments/28-real-model/bench.py

# A thousand mixed submissions, each verdict known; a quarter of an hour or more.
thousand: $(READY)
	PYTHONPATH=tests/attacks $(BIN)/python tests/upkeep/thousand.py

# Every right answer and every planted bug on fifty seeds, in the contract and in the exam; in
# `make test` a variant has 20 and 3, a bug one of each. An hour on two cores.
seeds: export MINITUNER_SEEDS := 50
seeds: override PYTEST_ARGS += -m seeds
seeds: upkeep

# The archive to upload as a Gradescope autograder.
gradescope:
	autograder/gradescope/build.sh

# Maintainers: rewrite the real output quoted in the READMEs; mark translations as up to date.
readme: $(READY)
	$(BIN)/python tests/upkeep/readme_output.py
tables: $(READY)
	$(BIN)/python tests/upkeep/harness.py mutants
	$(BIN)/python tests/upkeep/harness.py variants
# What diagnosis compares with, after a change of the reference, a mutant or an exam check; and how
# often it names the right bug.
signs: $(READY)
	$(BIN)/python tests/upkeep/signs.py
diagnosis: $(READY)
	$(BIN)/python tests/upkeep/diagnosing.py
# Every figure of the experiments anew from the numbers that are committed beside it.
figures: $(READY)
	set -e; for drawing in experiments/*/drawing.py; do \
	  $(BIN)/python $$(dirname $$drawing)/run.py --impl reference --figures; done
stamp: $(READY)
	$(BIN)/python tests/upkeep/parity.py --stamp

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .minituner

# A torch of the pinned version that $(PYTHON) already imports is used as it is, not downloaded again.
# Not from within another virtual environment: a new one would see its parent's packages, not its own.
HAS_TORCH := import sys, torch; sys.exit(torch.__version__.split("+")[0] != "$(TORCH)" or sys.prefix != sys.base_prefix)
# The pip that comes with Python 3.11 takes twice as long to read an index as the one that it can
# fetch; where it cannot, it is used as it is.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "minituner: expected Python 3.11 or newer, got $$($(PYTHON) --version); try make PYTHON=python3.12"; exit 2; }
	@if $(PYTHON) -c '$(HAS_TORCH)' 2>/dev/null; \
	  then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 0 --upgrade pip 2>/dev/null || true

$(VENV)/.torch: $(VENV)/bin/python constraints.txt
	@echo "minituner: setting up $(VENV) (the first time takes a few minutes)"
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
	  $(PIP) torch==$(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@$(PIP) --editable '.[dev]'
	@touch $@

# Whole: in the exam's box, where nothing is written, a module that is not would be compiled each time.
$(VENV)/.compiled: $(VENV)/.torch
	@$(COMPILE)
	@touch $@
