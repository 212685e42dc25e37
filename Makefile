# Two commands are enough to begin: `make setup`, then `make demo ARGS="--only S4"`. `make help` lists the rest.
# Everything lives in .venv; a second call of anything does nothing that is already done.
.DEFAULT_GOAL := help
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
UNIT := not integration and not acceptance and not slow and not gpu and not serial
# Collecting the others costs every worker seconds; nothing in them is left without a mark.
UNIT_FOLDERS := tests/unit tests/property tests/contract
SERVED := integration and not serial and not slow and not gpu
ALONE := (acceptance or serial) and not slow and not gpu
# A story's end is bounded by the story itself; this only catches a test that hangs.
SERVED_TIMEOUT := 300

.PHONY: help setup servers databases demo unit test accept check fix pin clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 10

setup: servers $(STAMPS)/project ## make .venv with everything pinned, and install the demo's servers

servers:
	@requirements/install.sh servers

databases:
	@requirements/install.sh databases

$(STAMPS)/python: requirements/dev.txt requirements/install.sh
	@requirements/install.sh python
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/python
	@requirements/install.sh project
	@touch $@

demo: setup ## play the scenarios on a local fleet: make demo ARGS="--only S4 --mode observe"
	@$(BIN)/dsctl demo up $(ARGS)

unit: $(STAMPS)/project ## tests that need only Python, under a minute
	@$(BIN)/pytest -q -n 2 -m "$(UNIT)" $(UNIT_FOLDERS) $(ARGS)

test: setup databases check unit ## check, unit, then everything else that is not slow
	@$(BIN)/pytest -q -n 4 --dist loadfile -m "$(SERVED)" --timeout $(SERVED_TIMEOUT) $(ARGS)
	@$(BIN)/pytest -q -m "$(ALONE)" --timeout $(SERVED_TIMEOUT) $(ARGS)

accept: setup databases ## what make test leaves out: every scenario in both modes, and all other slow tests
	@$(BIN)/pytest -q -m "slow and not gpu" --timeout 1800 $(ARGS)

check: $(STAMPS)/project ## lint, format, types, import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/pyright --warnings
	@$(BIN)/lint-imports --no-logo

fix: $(STAMPS)/project ## put right what ruff can
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

# The +cpu suffix names one machine's build of torch, and CUDA's packages come with torch where it needs them.
PIN := $(BIN)/uv pip compile --quiet --no-emit-index-url --no-emit-find-links --no-header --no-annotate --python-version 3.11
PLAIN := sed -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton==/d' -e 's/^\(torch==[0-9.]*\)+cpu/\1/'

pin: $(STAMPS)/python ## resolve requirements/*.txt anew from pyproject.toml
	@$(PIN) pyproject.toml | $(PLAIN) > requirements/base.new && mv requirements/base.new requirements/base.txt
	@$(PIN) --all-extras pyproject.toml | $(PLAIN) > requirements/dev.new && mv requirements/dev.new requirements/dev.txt

clean: ## remove .venv, caches and what the demo left
	@rm -rf $(VENV) var .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
