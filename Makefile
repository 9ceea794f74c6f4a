# Every target first makes .venv as it needs it (scripts/setup); a second call takes no time.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
CODE := src tests scripts experiments $(wildcard benchmarks)
ARGS ?=

.PHONY: help setup demo test bench lint format lock clean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

setup:  ## make .venv with everything a developer needs
	@scripts/setup dev

demo:  ## run the main job on the built-in data set; the result lies in runs/demo
	@scripts/setup
	$(BIN)/userclue demo --out runs/demo --overwrite $(ARGS)

test:  ## run all tests; make test ARGS="-k audit" runs some
	@scripts/setup dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

bench:  ## measure speed beside peers and the floor; make bench ARGS="--data path/to/ml-1m --out path/to/results"
	@scripts/setup
	$(BIN)/python benchmarks/run $(ARGS)

lint:  ## check format, rules and types
	@scripts/setup dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format:  ## rewrite the code in the common format, and mend what can be mended without judgement
	@scripts/setup dev
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lock:  ## write constraints.txt anew for changed dependencies; make lock ARGS=--upgrade takes newer versions
	@scripts/setup dev
	scripts/lock $(ARGS)

clean:  ## remove what was made here: .venv, runs, caches
	rm -rf .venv runs dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
