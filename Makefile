# Every task of the project; `make` alone lists them. Tasks that need the environment set it up first.
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
PYTHON := .venv/bin/python
WORKERS := 3
SITE := build/docs
UV_VERSION := 0.13.8
COMPILE = .venv/bin/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url \
	--custom-compile-command "make lock" pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs bench chaos rehearsal alerts dashboards lock stack-up stack-down clean

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: the servers from Debian, the Python environment from the lock file
	@deploy/bin/bootstrap

demo: setup ## Watch a message's whole way, live (ARGS="--seconds 30 --plain" runs it headless)
	@.venv/bin/telegram-gateway demo $(ARGS)

test: setup ## Run every test, on real servers (ARGS="tests/unit -k name" runs some)
	@$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup ## Lint, formatting and types
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

docs: setup ## Build the documentation into build/docs: diagrams, pages, every reference checked
	@$(PYTHON) -m sphinx -W --keep-going --quiet -d $(SITE)/.doctrees docs $(SITE)

bench: setup ## Measure beside a bare client and the afternoon version
	@$(PYTHON) -m tests.bench $(ARGS)

chaos: setup ## All that can go wrong, at random, for half an hour (ARGS="--seed 7 --kills 20 --messages 8000")
	@$(PYTHON) -m tests.chaos $(ARGS)

rehearsal: setup ## Install, migrate 200 000 rows, upgrade, back up, restore and go back on a real systemd: ten minutes
	@REHEARSAL_ROWS=200000 $(PYTHON) -m pytest tests/systemd/test_rehearsal.py $(ARGS)

alerts: setup ## Stop each part in turn and print how long its alert takes, unscaled: twenty minutes
	@$(PYTHON) -m tests.monitoring.outages $(ARGS)

dashboards: setup ## Write the Grafana dashboards anew, from their code (gateway/dashboards)
	@$(PYTHON) -m gateway.dashboards

lock: setup ## Renew the lock files from pyproject.toml (ARGS=--upgrade takes newer versions)
	@test -x .venv/bin/uv || $(PYTHON) -m pip install --quiet uv==$(UV_VERSION)
	@$(COMPILE) --output-file requirements.txt $(ARGS)
	@$(COMPILE) --output-file requirements-dev.txt --extra dev $(ARGS)

stack-up: setup ## Start the servers in the background and print the environment file to source
	@.venv/bin/telegram-gateway stack up --detach

stack-down: ## Stop them, and remove their data
	@.venv/bin/telegram-gateway stack down

clean: ## Remove the environment and everything generated
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
