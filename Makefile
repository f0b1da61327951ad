# Everything runs from .venv, which `make env` makes; nothing else is installed.
PYTHON ?= python3
ENGINE ?=
ARGS ?=
SEED ?=
MINUTES ?=
RESPONSES ?=

BIN := .venv/bin
STAMP := .venv/requirements.stamp
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help env up demo test chaos bench check lock clean

help:  ## show these targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '%-14s %s\n' "$$target" "$$text"; done

env: $(STAMP)  ## make .venv with everything that is pinned in requirements/

up: $(STAMP)  ## start a cluster on this machine: make up [ENGINE=vllm] [ARGS="--port 9000 --apis 2"]
	@exec $(BIN)/python -m local up --end-with-parent $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

demo: $(STAMP)  ## show a stream that is cut, resumed on another API node and proven whole
	@exec $(BIN)/python -m local demo

test: $(STAMP)  ## run every test that needs no GPU
	$(BIN)/python -m pytest $(ARGS)

chaos: $(STAMP)  ## kill and restart everything under load, check that nothing is lost: [SEED=…] [MINUTES=…] [RESPONSES=…]
	@exec $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(RESPONSES),--responses $(RESPONSES)) $(ARGS)

bench: $(STAMP)  ## measure this machine: make bench [ARGS="doorbell relay takeover …"]
	@exec $(BIN)/python -m bench $(ARGS)

check: $(STAMP)  ## format, lint, types, import rules and unit tests, in seconds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/unit

lock: $(STAMP)  ## pin the dependency groups of pyproject.toml again, with hashes
	$(LOCK) pyproject.toml --group dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --group api -c requirements/dev.txt -o requirements/api.txt
	$(LOCK) pyproject.toml --group worker -c requirements/dev.txt -o requirements/worker.txt
	$(LOCK) pyproject.toml --group tool_runner -c requirements/dev.txt -o requirements/tool_runner.txt
	echo uv | $(LOCK) - --no-annotate -o requirements/uv.txt

clean:  ## remove what was made here: .venv, caches, the local cluster's data
	rm -rf .venv .antiphon .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements/dev.txt requirements/uv.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name one with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Antiphon needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name one with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the module venv; install it (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@
