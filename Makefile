# Every habit has one word. `make` alone lists them.
# ARGS goes to the program: make up ARGS=--help, make test ARGS="-k rooms".

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup up demo test test-s3 test-slow clients check gen fmt lock bench clean

help: ## List these words
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Create or update .venv from the locks (everything below does it first)
	@command -v $(PYTHON) >/dev/null || { echo "Parley needs Python 3.11 or newer, and there is no $(PYTHON)." >&2; exit 1; }
	@$(PYTHON) tools/setup.py

up: setup ## Run everything on this machine, with an embedded PostgreSQL
	@exec $(BIN)/parley up $(ARGS)

demo: setup ## Show it working: people, an agent, a file and a room
	@exec $(BIN)/parley demo $(ARGS)

test: setup ## Run the tests that are quick
	@exec $(BIN)/python -m pytest --quiet -m "not slow" --numprocesses auto --maxprocesses 4 $(ARGS)

test-s3: setup ## Run the tests of files, slow ones too, against an S3 server instead of a folder; it is built with Go
	@$(BIN)/python -m tools.s3_server
	@exec $(BIN)/python -m pytest --quiet --s3 --numprocesses auto --maxprocesses 4 tests/file $(ARGS)

clients: setup ## Build the client in Go, and run the tests of clients in other languages than Python
	@$(BIN)/python -m tools.go_client
	@exec $(BIN)/python -m pytest --quiet --clients -m clients $(ARGS)

test-slow: setup ## Run the others: processes killed, crowds, the whole suite as people run it
	@exec $(BIN)/python -m pytest --quiet -m slow $(ARGS)

check: setup ## Format, lint, types, import rules, protos, generated code
	@exec $(BIN)/python -m tools.check $(ARGS)

gen: setup ## Generate gen/ from protos/
	@exec $(BIN)/python -m tools.gen

fmt: setup ## Format code and protos, and fix what can be fixed
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --quiet --fix-only
	@exec $(BIN)/buf format --write protos

lock: setup ## Compile the locks from pyproject.toml; ARGS=--upgrade takes newer versions
	@exec $(BIN)/python -m tools.lock $(ARGS)

bench: setup ## Measure, beside a FastAPI peer that does the same work
	@exec $(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove .venv, caches and what tools built; data of `make up` is kept
	@rm -rf .venv .build dist .hypothesis .ruff_cache .mypy_cache .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
