# The commands of this project; `make help` lists them.
SHELL := /bin/bash
BIN := .venv/bin
# Two tests at a time, of different files; files in the order in which they are collected, the long ones first.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
DOMAIN ?= math
# More settings for `make train`, as agentrl takes them: make train ARGS="steps=5"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test check lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv: all that training on this machine's CPU and the tests need
	@./setup.sh

train: setup ## set up, then train DOMAIN (math) on this machine
	@$(BIN)/agentrl train $(DOMAIN) $(ARGS)

test: lint ## set up, then format, lint, types and every test (half an hour and more)
	@tests/packages.sh
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

check: lint ## the inner loop: the same without training, containers and attacks (2 minutes at most)
	@$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not stack and not slow"

lint: setup ## format, lint and types only
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted: run 'make format'."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

format: setup ## format the code and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove .venv, caches and build leftovers; runs/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
