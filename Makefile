# make help lists the commands. PROFILE is smoke, laptop or h100; FRESH=1 trains everything anew.
PROFILE ?= laptop
FRESH   ?=
PYTHON  ?= python3
VENV    ?= .venv
BIN      = $(VENV)/bin
LOGS     = data/logs
# torch on two workers: one thread each, or they fight over the cores
PYTEST   = OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup book test lint unit notebooks browser bench clean

help:            ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  e.g. make book PROFILE=smoke FRESH=1   trains the smallest runs anew, then builds the book"

setup:           ## make .venv with the pinned packages (does nothing when it is in place)
	@$(PYTHON) tools/bootstrap.py --venv $(VENV)

book: setup      ## execute the notebooks on recorded runs and build the book
	@$(BIN)/python -m cptlib.book --profile $(PROFILE) $(if $(FRESH),--fresh)

test: lint unit notebooks browser  ## lint, unit tests, the notebooks at smoke, the book in a browser

lint: setup      ## ruff
	@$(BIN)/ruff check .

unit: setup      ## unit tests
	@mkdir -p $(LOGS)
	@$(PYTEST) tests -n 2 --dist loadfile -m "not browser and not slurm" --junitxml $(LOGS)/unit.xml

notebooks: setup ## re-execute the notebooks at smoke and compare their checked outputs
	@mkdir -p $(LOGS)
	@$(PYTEST) --nbval-lax --nbval-current-env notebooks --junitxml $(LOGS)/notebooks.xml

browser: setup   ## build the book if needed, and look at its pages in headless Chromium
	@mkdir -p $(LOGS)
	@$(PYTEST) tests/book -m browser --junitxml $(LOGS)/browser.xml

bench: setup     ## the benchmarks: each prints a ratio against a peer measured in the same run
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script; done

clean:           ## remove built pages, executed notebooks and tool caches; keep .venv, data/ and records
	@rm -rf book/_build book/chapters book/generated .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
