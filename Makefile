# Two commands set up everything: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Processes of `make test`: the tests mostly wait. With ARGS it is pytest's own one (-x, --pdb).
JOBS   ?= $(if $(ARGS),0,3)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs lock clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

# uv when present (seconds), else the standard library's venv and pip.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
	  { test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); } && \
	  uv pip install --quiet --python $(BIN)/python -r requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps -e . ; \
	else \
	  { test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); } && \
	  $(BIN)/pip install --quiet -r requirements.lock && \
	  $(BIN)/pip install --quiet --no-deps -e . ; \
	fi
	@touch $@

demo: $(STAMP) ## play the main job on the embedded sandbox; EXIT=1 ends with it
	@$(BIN)/runbooks demo $(if $(EXIT),--exit)

test: $(STAMP) ## every test this machine can run
	@$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP) ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(STAMP) ## ratios from one run, as a table and JSON
	@$(BIN)/python -m tests.benchmarks

docs: $(STAMP) ## regenerate docs/procedures from the flows
	@$(BIN)/python -m docs.generate

lock: ## requirements.lock, without index hosts
	@uv pip compile --quiet --universal --no-emit-index-url --no-header --no-annotate \
	  --group dev pyproject.toml -o requirements.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
	  *.egg-info build dist tests/benchmarks/out
	find . -name __pycache__ -prune -exec rm -rf {} +
