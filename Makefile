# The two main commands are `make demo` and `make test`. Both set up what they need and can be repeated.

PYTHON ?= python3
TEST_PROCESSES ?= 2
BIN := .venv/bin
LOCK_FLAGS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-annotate --quiet --custom-compile-command "make lock"

.PHONY: dist help env models demo test check lint types lock fuzz bench-load bench-worker bench-rates bench-lsp bench-typing bench-blocks bench-speculation bench-threads bench-shifting bench-cancellation bench-layouts bench-hole bench-scenarios bench-soak bench-context bench-edits bench-quality bench-agent bench-agent-live bench-clients bench-constrained bench-remote gpu-check gpu-bundle test-transformers test-installs bench-first bench-cold bench-idle vsix pictures clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

env: ## Set up .venv: pinned packages, llama.cpp built from source once
	@$(PYTHON) .ci/setup_env.py

models: env ## Download and build the starter models
	@$(BIN)/underkeel pull starter-moe

demo: models ## See ghost text from a real mixture-of-experts model
	@$(BIN)/underkeel demo

# Tests marked `alone` run last, one after another: what they measure depends on what else runs.
test: models check ## Lint, type-check and run every test
	@$(BIN)/python -m pytest tests/unit -n $(TEST_PROCESSES) --dist worksteal; unit=$$?; \
	  $(BIN)/python -m pytest tests/e2e -m "not alone" -n $(TEST_PROCESSES) --dist loadfile; e2e=$$?; \
	  $(BIN)/python -m pytest tests/e2e -m alone && exit $$((unit + e2e))

check: lint types

lint: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: env
	@$(BIN)/mypy

test-installs: models ## Install with uv, pipx and pip under each Python, run, and remove it (half an hour)
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/installs.py --save

bench-first: ## Time from git clone to the first suggestion, with nothing cached (ten minutes or more)
	@$(PYTHON) tests/benchmarks/first_suggestion.py --save

bench-worker: models ## Prefill and decode of the worker compared with llama.cpp alone
	@$(BIN)/python tests/benchmarks/worker_rate.py

bench-rates: models ## Predicted prompt and decode rates compared with measured ones
	@$(BIN)/python tests/benchmarks/rate_prediction.py

bench-lsp: models ## Overhead of the language server and the daemon per request
	@$(BIN)/python tests/benchmarks/lsp_overhead.py

bench-typing: models ## Latency while typing in Neovim (PLUGIN=folder of llama.vim compares)
	@$(BIN)/python tests/benchmarks/keystrokes/run.py $(if $(PLUGIN),--plugin $(PLUGIN)) --save

bench-blocks: models ## Whole statements and blocks of real packages (LLAMA_SERVER=binary compares)
	@$(BIN)/python tests/benchmarks/blocks.py $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER)) --save

bench-speculation: models ## Speed-up by speculative decoding, and that the text stays the same
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/speculation.py --save
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/rounding.py --save
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/rounding.py --model starter-moe --prompts 30 --save

bench-threads: models ## Prefill and decode by number of threads and batch size
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/threads_batches.py --save

bench-shifting: models ## What shifting KV cells after an edit would save and cost
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/shifting.py --save

bench-edits: env ## Next edits on the changes between releases of real packages (MODEL=name asks a model too)
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/edits.py $(if $(MODEL),--model $(MODEL)) --save
	@PYTHONPATH=.:tests/equipment $(BIN)/python tests/benchmarks/edits_imports.py --save

bench-cancellation: models ## How soon a cancelled request frees the engine
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/cancellation.py --save

bench-layouts: models ## Quality and cost of the FIM layouts (hours)
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/layouts.py quality
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/layouts.py report

bench-cold: models ## Time from the start of the language server to its first suggestion
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/cold_start.py --save

bench-idle: models ## Processor time of a daemon and its worker without requests
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/idle.py --save

bench-hole: models ## A marked hole in the prompt against FIM tokens (20 minutes)
	@$(BIN)/underkeel pull gemma-3-270m
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/layouts.py hole --count 30 --save

bench-load: models ## Sixteen editors with 64 documents on one daemon, alone and beside a flood
	@$(BIN)/python tests/benchmarks/load.py --save
	@$(BIN)/python tests/benchmarks/load.py --flood 100 --save

fuzz: env ## Fuzz the HTTP API, the worker protocol, documents, properties and the masking of secrets at length
	@$(BIN)/python tests/benchmarks/fuzz.py --save
	@$(BIN)/python tests/benchmarks/text_fuzz.py --save

bench-scenarios: models ## Memory scenarios at length, with charts
	@$(BIN)/python tests/benchmarks/scenarios.py --save

bench-soak: models ## Half an hour of typing under random memory pressure: nothing may leak
	@$(BIN)/python tests/benchmarks/soak.py --save

bench-context: models ## Speed of prompts and of the index, and KV cache reuse
	@$(BIN)/python tests/benchmarks/context_speed.py
	@$(BIN)/python tests/benchmarks/context_stability.py

bench-agent: env ## The agent on 24 tasks with a scripted model, correct and with 10 flaws
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/agent.py --save

bench-quality: models ## Masked-line study of three kinds of prompt (hours; can be interrupted and resumed)
	@$(BIN)/python tests/benchmarks/context_quality.py run
	@$(BIN)/python tests/benchmarks/context_quality.py report --keep
	@$(BIN)/python tests/benchmarks/context_quality.py run --held-out
	@$(BIN)/python tests/benchmarks/context_quality.py report --held-out --keep

test-transformers: models ## Run a checkpoint through Transformers (installs torch, 1.5 GB, once)
	@$(BIN)/python tests/benchmarks/transformers_engine.py

bench-agent-live: models ## The agent with the starter model, beside Qwen Code, and driven by acpx (npm)
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/agent_live.py --save

bench-clients: models ## Use the API with real clients from PyPI and npm (installs 700 MB, once)
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/clients.py --save

bench-constrained: models ## 200 tool calls, the rate of constrained decoding, llguidance against llama.cpp
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/constrained.py --save

bench-remote: models ## Test against a real llama-server and a real vLLM (installs 4 GB, once)
	@$(BIN)/python tests/benchmarks/remote_engines.py

# The check of a GPU installs its own packages where it is given a bundle.
gpu-check: GPU_PYTHON := $(if $(BUNDLE),$(PYTHON),$(BIN)/python)
gpu-check: ## Measure on this machine's GPU: memory, headroom, speed (SIMULATED=1 needs none)
	@PYTHONPATH=tests/benchmarks $(GPU_PYTHON) -m gpu_check $(if $(SIMULATED),--simulated) \
	  $(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(SCRATCH),--scratch $(SCRATCH)) $(if $(PARTS),--parts $(PARTS))

gpu-bundle: env ## Pack what a GPU machine without a network needs: BUNDLE=folder PYTHON_VERSION=3.12
	@PYTHONPATH=tests/benchmarks $(BIN)/python -m gpu_check.bundle $(or $(BUNDLE),build/gpu-bundle) \
	  $(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION))

vsix: ## Package the VS Code extension
	@cd editors/vscode && npm ci --ignore-scripts && npm run package

dist: env ## Build wheel, sdist, .vsix and Neovim archive with checksums into dist/ (--help: .ci/dist.py)
	@$(BIN)/python .ci/dist.py

pictures: models ## Take the README's pictures in real editors and a real terminal
	@UNDERKEEL_PICTURES=editors/vscode/images $(BIN)/python -m pytest -q tests/e2e/test_vscode.py tests/e2e/test_vscode_commands.py tests/e2e/test_vscode_agent.py tests/e2e/test_vscode_next_edits.py
	@$(BIN)/python tests/equipment/pictures.py

lock: env ## Pin the newest versions that the ranges in pyproject.toml allow
	@$(BIN)/uv pip compile pyproject.toml --extra test --extra dev $(LOCK_FLAGS) -o requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --constraint requirements.lock $(LOCK_FLAGS) -o assistant/install/requirements.lock
	@$(BIN)/uv pip compile .ci/build.in --constraint requirements.lock $(LOCK_FLAGS) -o .ci/build.lock

clean: ## Remove what was built here; models and settings stay
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
