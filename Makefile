.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo up test static check format soak cluster lock clean
PY := .venv/bin/python
ARGS ?=

help: ## Show what there is to run
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Set up what the product needs (done by demo too)
	@scripts/setup.sh run

setup-test: ## Set up what the tests need (done by test too)
	@scripts/setup.sh test

demo: setup ## Watch a whole supply chain, a loan and a proof; ARGS="--exit" ends after the table
	@$(PY) -m tracebond demo $(ARGS)

up: setup ## Start the all-in-one server on ./var
	@$(PY) -m tracebond up $(ARGS)

test: setup-test ## Run everything: format, lint, types, layers and all tests, on real parts
	@$(MAKE) --no-print-directory static
	@$(PY) -m pytest -q -n 2 --dist loadgroup $(ARGS)

static:
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-cache >/dev/null || .venv/bin/lint-imports

check: setup-test static ## The quick loop: format, lint, types, layers, unit tests
	@$(PY) -m pytest -q -m unit -n 2 --timeout 60

soak: setup-test ## The long campaigns of the same tests (an hour or so)
	@TRACEBOND_CAMPAIGN=1 $(PY) -m pytest -q --timeout 7200 tests/properties tests/contracts tests/campaign tests/ledger/test_anchor_kill.py tests/ledger/test_anchor_faults.py tests/finance/test_race.py tests/finance/test_crash.py tests/ingest/test_mutations.py tests/ingest/test_broker_config.py tests/conformance/test_openapi.py

cluster: setup-test ## Three RabbitMQ nodes with real devices and workers, killed one after another (about five minutes)
	@scripts/setup.sh cluster
	@TRACEBOND_CLUSTER=1 $(PY) -m pytest -q -s --timeout 900 tests/campaign/test_cluster.py tests/ingest/test_sources.py

lock: ## Write the hash-locked requirements again from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -q -o requirements-dev.txt
	uv pip compile pyproject.toml -c requirements-dev.txt --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -q -o requirements.txt

format: ## Format the code
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

clean: ## Remove the virtual environment, node_modules and ./var
	rm -rf .venv node_modules var
