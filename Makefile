# make repro: build the environment and run the pipeline.  make test: build it and check everything.
# Everything lives in .venv; nothing is installed twice unless requirements.lock changes.
.PHONY: help setup repro test faults check unit docs lock audit clean
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# uv is five times as fast as pip here and shows how far it is; pip fetches it, by its hash in the lock.
UV := $(BIN)/uv pip install --python $(VENV) --compile-bytecode
INSTALL := $(UV) --require-hashes --requirement requirements.lock
# make TORCH=cpu takes PyTorch's own CPU-only build from PyTorch's index: 1 GB on the disk in place of 6.6. The lock has no
# hashes of it, so PyTorch alone is installed by version.
ifeq ($(TORCH),cpu)
CUDA := ^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==
INSTALL = awk '/^[^ ]/ { wanted = !/$(CUDA)/ } wanted' requirements.lock > $(VENV)/rest.lock && \
	$(UV) --no-deps --require-hashes --requirement $(VENV)/rest.lock && \
	$(UV) --no-deps --torch-backend cpu $$(sed -nE 's/^(torch|torchvision)(==[0-9.]+).*/\1\2/p' requirements.lock)
endif

help: ## list what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-7s %s\n", $$1, $$2}'

setup: $(READY) ## build .venv from the hashed lock

repro: $(READY) ## run the pipeline: only the stages whose inputs changed
	@$(BIN)/vitlora run

# One thread in each process that tests start: two workers with two each crowd two cores, and tiny models gain nothing.
test faults unit: export OMP_NUM_THREADS = 1

# A third worker fills two cores while commands of the others wait; a fourth does not help.
test: check ## lint, types and all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

faults: $(READY) ## kill, fill, flip and cut, a thousand times in all (an hour); prints and keeps a table
	$(BIN)/python -m pytest -n 2 -q -m "faults or survives" --faults-json benchmarks/results/faults.json tests

unit: $(READY) ## the fast tests only, under a minute
	$(BIN)/python -m pytest -n 2 --ignore tests/pipeline -m "not slow and not faults"

check: $(READY) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports --no-cache --no-logo

docs: $(READY) ## renew the tables of README.md and docs/ from the code and benchmarks/results
	@PYTHONPATH=src $(BIN)/python docs/generate.py

lock: $(READY) ## renew the locks from pyproject.toml: of the clone, and of the container
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --group pipeline --group dev --no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --extra serve --constraint requirements.lock --no-annotate --no-header pyproject.toml -o requirements-serve.lock

audit: ## look every pinned package up in PyPI's list of known vulnerabilities (needs the network)
	$(PYTHON) -m venv .work/audit
	.work/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.work/audit/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip

clean: ## remove the environment and caches, keep data and models
	rm -rf $(VENV) .work .pytest_cache .mypy_cache .ruff_cache

# `dvc` gets a wrapper so that .venv/bin/dvc finds this environment's python for the stages without being activated, and
# so that no kill leaves dvc.lock half written (src/vitlora/safety/dvc_command.py);
# `vitlora` one that runs this tree: an installed copy would go stale, and queued experiments must run their own code.
$(READY): requirements.lock Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}; make PYTHON=python3.12" if v < (3, 11) else 0)'
	@echo 'making $(VENV): uv fetches what requirements.lock pins, some 3 GB the first time on Linux (less with TORCH=cpu)'
	@$(PYTHON) -m venv $(VENV)
	@awk '/^[^ ]/ { wanted = /^uv==/ } wanted' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.lock
	@$(INSTALL)
	@printf '#!/bin/sh\nbin=$$(cd "$$(dirname "$$0")" && pwd)\nPATH="$$bin:$$PATH" PYTHONPATH="$$bin/../../src" exec "$$bin/python" -m vitlora.safety.dvc_command "$$@"\n' > $(BIN)/dvc
	@printf '#!/bin/sh\nbin=$$(cd "$$(dirname "$$0")" && pwd)\nPYTHONPATH="$$bin/../../src" exec "$$bin/python" -m vitlora "$$@"\n' > $(BIN)/vitlora
	@chmod +x $(BIN)/dvc $(BIN)/vitlora
	@touch $(READY)
