# make help lists the targets. Each sets up what it needs, once: .venv/.ready-* are stamps.

PYTHON ?= python3
VENV ?= .venv
# PyTorch, and the index to take it from; empty: pip's own, whose Linux build may bring several GB of CUDA.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# make setup EXTRAS=dev,eval: the groups of optional dependencies in pyproject.toml
EXTRAS ?= core
# smoke, nano, kernels, train_speed, gpu, small, ablation, paper: lists of runs in conf/tier
TIER ?= nano
# SEEDS=2 trains every model twice, instead of once
SEEDS ?=
# further KEY=VALUE for every run of the tier or the sweep: ARGS='refresh=stale'
ARGS ?=
# the sweep of make sweep, a file of conf/sweep; DRY=1 runs nothing of it
NAME ?=
DRY ?=
# what make report and make wandb-report are made from: a folder of runs; where the latter goes
RESULTS ?= results/published
ENTITY ?=
PROJECT ?= ttt-bench
WORKERS ?= 2

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

TIER_ARGS := $(TIER) $(SEEDS:%=seeds=%) $(ARGS)
BIN := $(VENV)/bin
# --no-compile: Python compiles what is imported, when it is; of what comes with torch and the tools, that is a small part.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile
# Files, not tests, are spread: what a file has trained or composed is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
TORCHLESS_READY := $(VENV)/.ready-torchless
TORCH_READY := $(VENV)/.torch-$(TORCH)
# Tests that import no torch, for a second Python version.
TORCHLESS_TESTS := $(addprefix bench/tests/test_,$(addsuffix .py,config compose results budget stats compare figures fairness_card data documents corpus report))

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' Makefile
	@echo; echo 'Variables: TIER=$(TIER) SEEDS=$(SEEDS) ARGS=$(ARGS) PYTHON=$(PYTHON) VENV=$(VENV) TORCH=$(TORCH) TORCH_INDEX=$(TORCH_INDEX) EXTRAS=$(EXTRAS) RESULTS=$(RESULTS) ENTITY=$(ENTITY) PROJECT=$(PROJECT)'

.PHONY: reproduce-figures
reproduce-figures: $(VENV)/.ready-core ## the main job: run all of TIER, or what is left of it, and draw results/figures/TIER
	@status=0; \
	$(BIN)/python -m bench.reproduce run $(TIER_ARGS) || status=$$?; \
	[ $$status -lt 128 ] || exit $$status; \
	$(BIN)/python -m bench.figures $(TIER_ARGS) || status=$$?; \
	exit $$status

.PHONY: test
test: $(VENV)/.ready-dev ## all tests, on the CPU
	$(PYTEST)

.PHONY: test-gpu
test-gpu: $(VENV)/.ready-dev ## the tests that need a CUDA device; baselines must be installed: make setup EXTRAS=gpu
	$(BIN)/python -m pytest -m gpu

.PHONY: bench-kernels
bench-kernels: ## check every kernel, then time it beside others on one GPU: reproduce-figures with TIER=kernels
	@$(MAKE) --no-print-directory reproduce-figures TIER=kernels

.PHONY: plan
plan: $(VENV)/.ready-core ## what TIER would run: cells, device, minutes, FLOPs, what exists; runs nothing
	@$(BIN)/python -m bench.reproduce plan $(TIER_ARGS)

.PHONY: sweep
sweep: $(VENV)/.ready-core ## make sweep NAME=learning_rate: run a sweep of conf/sweep, or what is left of it; DRY=1 tells its cells and runs nothing
	@[ -n '$(NAME)' ] || { echo "say which sweep: make sweep NAME=…, one of" $$(basename -s .yaml conf/sweep/*.yaml) >&2; exit 2; }
	@$(BIN)/python -m bench sweep=$(NAME) $(if $(DRY),dry=true) $(ARGS)

.PHONY: figures
figures: $(TORCHLESS_READY) ## draw the published rows of TIER alone: seconds, no torch
	@$(BIN)/python -m bench.figures $(TIER_ARGS) --published

.PHONY: report
report: $(TORCHLESS_READY) ## a page and Markdown of all that RESULTS shows, in results/figures/report: under a minute, no torch
	@$(BIN)/python -m bench.report '$(RESULTS)'

.PHONY: wandb-report
wandb-report: $(VENV)/.ready-reports ## the same as a report of W&B: make wandb-report ENTITY=you PROJECT=name
	@$(BIN)/python -m bench.report '$(RESULTS)' --wandb '$(ENTITY)/$(PROJECT)'

.PHONY: notebooks
notebooks: $(VENV)/.ready-notebooks ## run every notebook from its first to its last cell
	$(PYTEST) -o addopts= -o filterwarnings=default --nbmake --nbmake-timeout=600 notebooks

.PHONY: smoke
smoke: ## reproduce-figures with the smallest tier: everything once, tiny
	@$(MAKE) --no-print-directory reproduce-figures TIER=smoke

.PHONY: publish
publish: $(TORCHLESS_READY) ## copy the finished runs of TIER to results/published
	@$(BIN)/python -m bench.publish $(TIER_ARGS)

.PHONY: wandb-sync
wandb-sync: $(VENV)/.ready-reports ## upload to W&B what tracking=wandb kept here
	@$(BIN)/python -m bench.tracking.sync

.PHONY: test-torchless
test-torchless: $(TORCHLESS_READY) ## the tests of what needs no torch: configuration, budget, results, figures, data
	$(PIP) --quiet 'pytest>=8.4' 'pytest-xdist>=3.7'
	$(PYTEST) $(TORCHLESS_TESTS)

.PHONY: lint
lint: $(VENV)/.ready-dev ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(VENV)/.ready-dev ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: type
type: $(VENV)/.ready-dev ## types
	$(BIN)/mypy

.PHONY: setup
setup: $(VENV)/.ready-$(EXTRAS) ## virtual environment and dependencies; EXTRAS=dev,eval,launchers,reports,gpu,notebooks

.PHONY: clean
clean: ## remove the virtual environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find bench kernels models -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.ready-venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	@touch '$@'

# All core dependencies but torch, read from pyproject.toml.
$(TORCHLESS_READY): pyproject.toml $(VENV)/.ready-venv
	$(PIP) $$($(BIN)/python -c 'import tomllib; print(*(d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if not d.startswith("torch")))')
	@touch '$@'

$(TORCH_READY): $(VENV)/.ready-venv
	$(PIP) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH)'
	@rm -f $(VENV)/.torch-*
	@touch '$@'

$(VENV)/.ready-%: $(TORCHLESS_READY) $(TORCH_READY)
	$(PIP) --editable '.$(if $(filter-out core,$*),[$*])'
	@touch '$@'
