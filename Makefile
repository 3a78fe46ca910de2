# `make` lists the targets. Every target installs what it needs into .venv, once.
.DEFAULT_GOAL := help
.PHONY: help install run bridges test check lint format docs bench clean

BIN := .venv/bin
AGENT ?= examples/order_desk/agent.yaml
INSTALLED := .venv/.installed
# Two files of tests at a time. A training spends most of its time on one core: two of them with a thread
# each take two thirds of the time that they take one after the other. vLLM binds its threads to cores.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# Of these files every test needs a model, and finding them imports transformers.
FAST := $(TWO) --ignore=tests/host/training/cpu/test_fast_pass.py --ignore=tests/plugins/backends/test_transformers_batch.py

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt .ci/install
	bash .ci/install
	@touch $(INSTALLED)

run: $(INSTALLED) ## Train the example agent on the embedded model (AGENT=path/to/agent.yaml for another)
	$(BIN)/grpo-host run $(AGENT)

bridges: $(INSTALLED) ## Install the libraries that are bridged (docs/bridges.md) below .bridges, for their tests
	bash .ci/bridges

test: $(INSTALLED) ## Run all tests, those with the real engine and trainer included
	@status=0; skipped=$$(mktemp); export GRPO_SKIPPED_TESTS=$$skipped; \
	$(BIN)/python -m pytest $(FAST) -m "not model and not vllm" || status=1; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO) -m "model and not vllm" || status=1; \
	$(BIN)/python -m pytest -m vllm || status=1; \
	echo "$$(wc -l < $$skipped) tests were skipped"; sort $$skipped; rm -f $$skipped; \
	exit $$status

lint: $(INSTALLED) ## Format, lint, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## The same, and the fast tests
	$(BIN)/python -m pytest $(FAST) -m "not model and not vllm and not slow"

format: $(INSTALLED) ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## Build the site of docs/ and its reference into site/; a dead link ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(INSTALLED) ## Run the benchmarks and the order_desk example (about an hour)
	$(BIN)/python -m bench

clean: ## Remove the environment and caches, but no runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build site

DOCS := host/grpo_host/serving/http/page/vendor
VENDOR := host/grpo_host/viewer/static/vendor
.PHONY: vendored
vendored: ## Fetch what the pages of `view` and of /docs are made with, in the versions of their package.json
	set -e; dir=$$(mktemp -d); cp $(VENDOR)/package.json $$dir; \
	npm install --prefix $$dir --no-audit --no-fund --ignore-scripts; \
	copy() { sed -e 's#from"preact"#from"./preact.mjs"#' -e '/^\/\/# sourceMappingURL=/d' $$dir/node_modules/$$1 > $(VENDOR)/$$2; }; \
	copy preact/dist/preact.mjs preact.mjs; copy preact/hooks/dist/hooks.mjs preact-hooks.mjs; \
	copy preact/LICENSE preact.LICENSE; \
	copy htm/dist/htm.mjs htm.mjs; copy htm/LICENSE htm.LICENSE; \
	copy uplot/dist/uPlot.iife.min.js uplot.js; copy uplot/dist/uPlot.min.css uplot.css; \
	copy uplot/LICENSE uplot.LICENSE; rm -r $$dir; \
	dir=$$(mktemp -d); cp $(DOCS)/package.json $$dir; \
	npm install --prefix $$dir --no-audit --no-fund --ignore-scripts; from=$$dir/node_modules/swagger-ui-dist; \
	cp $$from/LICENSE $$from/NOTICE $(DOCS); cp $$from/swagger-ui-bundle.js.LICENSE.txt $(DOCS)/bundled.LICENSES; \
	cp $$from/swagger-ui-bundle.js $(DOCS); \
	sed -e 's#/\*\# sourceMappingURL=[^*]*\*/##' $$from/swagger-ui.css > $(DOCS)/swagger-ui.css; rm -r $$dir
