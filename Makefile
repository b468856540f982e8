# Each target works as the first command on a fresh clone: it makes .venv itself (Python >= 3.11 is all it needs).
# PYTHON=/path/to/python3.x picks the interpreter; ARGS="-k finalization -x" goes to pytest.

BIN := .venv/bin
ARGS :=
MINUTES := 10
PYTEST := $(BIN)/python -m pytest
# Tests wait more than they compute, so there are more of them at once than cores (ARGS="-n 0": one after the other).
# The files come in their order, which begins with the slow ones; each process has a PostgreSQL of its own.
AT_ONCE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-quick test-long test-lowest chaos coverage lint format build docs migrate bench bench-full bench-figures soak profile clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: ## 1,000 orders through real Celery workers on an embedded PostgreSQL, with live progress
	@.ci/venv run
	@$(BIN)/tasker demo

test: ## all tests but the long ones, with coverage
	@.ci/venv dev
	$(PYTEST) $(AT_ONCE) -m "not long" --cov --cov-report=term $(ARGS)

test-quick: ## the tests that need no worker processes, without coverage
	@.ci/venv dev
	$(PYTEST) $(AT_ONCE) -m "not long and not e2e and not chaos" $(ARGS)

test-long: ## the long forms (chaos and load), which CI does not run
	@.ci/venv dev
	$(PYTEST) -m long --timeout 1800 --session-timeout 7200 $(ARGS)

chaos: ## storms of every kind over real workers for MINUTES (10), with a table and build/chaos.json at the end
	@.ci/venv dev
	$(BIN)/python -m tests.chaos.storm --minutes $(MINUTES) --json build/chaos.json $(ARGS)

test-lowest: ## unit and integration tests on the lowest versions that pyproject.toml allows
	@.ci/venv lowest
	.venv-lowest/bin/python -m pytest $(AT_ONCE) tests/unit tests/integration -m "not long" $(ARGS)

coverage: ## as test, with the programs that tests start, and a report of every line in htmlcov/
	@.ci/venv dev
	COVERED_PROCESSES=subprocess $(PYTEST) --session-timeout 3600 $(AT_ONCE) -m "not long" --cov --cov-report=term --cov-report=html $(ARGS)

lint: ## form, types, imports, SQL, shell, Dockerfile, compose; changes nothing
	@.ci/venv dev
	@.ci/lint

format: ## what ruff can put right
	@.ci/venv dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

build: ## sdist and wheel in dist/
	@.ci/venv dev
	rm -rf dist
	$(BIN)/python -m build

docs: ## the pages of docs/reference/ that are made from the code
	@.ci/venv dev
	$(BIN)/python -m docs.generate

migrate: ## bring the database that the settings name (DATABASE_URL, else the embedded one) to this version
	@.ci/venv run
	@$(BIN)/tasker db migrate

bench: ## Tasker beside its peers, the short form: throughput, latency, cost, ratios; some ten minutes
	@.ci/venv bench
	$(BIN)/python -m benchmarks $(ARGS)

bench-full: ## the same with all shapes, more and longer rounds, and with bench-figures; two hours and a half
	@.ci/venv bench
	$(BIN)/python -m benchmarks --full $(ARGS)

bench-figures: ## how Tasker fares as its tables grow, and what single parts cost, into the latest run; some 25 minutes
	@.ci/venv bench
	$(BIN)/python -m benchmarks.figures --full $(ARGS)

soak: ## two hours at a steady rate: whether memory, latency and tables stay as they are, into build/soak.json and .svg
	@.ci/venv bench
	$(BIN)/python -m benchmarks.soak --into build/soak.json --plot build/soak.svg $(ARGS)

profile: ## where the time of a step goes: database, Python, serialization, waiting
	@.ci/venv bench
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.profiling $(ARGS)

clean: ## all that these targets made
	rm -rf .venv .venv-lowest .venv-bench benchmarks/results dist build htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis tests/e2e/conformance/node/node_modules
