# The environment lives in .venv and is made anew only when pyproject.toml or constraints.txt change.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
BENCHMARKS := train-tinygpt train-tinybert generate-tinygpt time-to-loss

.PHONY: help demo test test-all bench docs notebooks newcomer clean

help:
	@echo "make demo      train TinyBERT and TinyGPT, and show their tables beside the tutorial's"
	@echo "make test      style, types and the quick tests"
	@echo "make test-all  the same with the slow tests"
	@echo "make bench     measure the speed, and write it into docs/speed.md"
	@echo "make docs      build the book and its generated pages into site/"
	@echo "make notebooks write the notebooks into build/notebooks/"
	@echo "make newcomer  time a newcomer's first steps in a fresh clone and environment"
	@echo "make clean     remove what was built; runs stay"

.venv/bare: pyproject.toml constraints.txt
	@echo "installing PyTorch and the rest into .venv: a few minutes, this once" >&2
	@$(PYTHON) -m venv .venv
	@$(PIP) .
	@touch $@

.venv/dev: .venv/bare
	$(PIP) '.[dev]'
	@touch $@

demo: .venv/bare
	@$(BIN)/scratchlm demo

# Two small models share the cores better as processes than as threads.
test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

bench: .venv/dev
	@mkdir -p benchmarks/results
	@for name in $(BENCHMARKS); do \
		$(BIN)/scratchlm bench $$name --json > benchmarks/results/$$name.partial \
		&& mv benchmarks/results/$$name.partial benchmarks/results/$$name.json || exit 1; \
	done
	$(BIN)/python benchmarks/report.py

.venv/docs: .venv/bare
	$(PIP) '.[docs]'
	@touch $@

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks:
	$(PYTHON) docs/site/notebook_pages.py build/notebooks

newcomer:
	tools/newcomer.sh

clean:
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
