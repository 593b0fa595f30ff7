# make setup   install everything into $(VENV); nothing is done when it is there already
# make test    set-up, lint, types, tests
# make demo    set-up, then train and compare Mask R-CNN, RefineMask and Mask Transfiner on shapes
# make test-browser  open the pages of reports in a headless Chromium; screenshots go to output/browser
# make lint    ruff and mypy alone
# make coverage  the tests, and which lines they do not run
#
# VENV=path    the environment to use; the active one: make setup VENV="$VIRTUAL_ENV"
# PYTHON=...   the interpreter that a new environment is made with (3.10 or newer)
# CHROMIUM=... the browser of test-browser, if it is not on the path
# TORCH=...    a requirement for torch, e.g. TORCH="torch==2.4.*"; without it, what is there or the newest
# DETECTRON2_SOURCE=  "repository" or "index" (release 0.6); without it, the first that works
# PYTEST_ARGS= instead of two workers, e.g. PYTEST_ARGS="-x tests/ops"

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.crispmask-setup
# A file stays with one worker, so that what its tests share is made once
PYTEST_ARGS ?= -n 2 --dist loadfile $(COVERAGE) --cov-report=
# Share of the lines, in percent, that the processes of the tests run; commands that they start are not counted. It
# was 97; where there is a GPU or no browser other lines run
FLOOR = 95
COVERAGE = --cov=crispmask --cov=refinemask_d2 --cov=transfiner_d2 --cov-fail-under=$(FLOOR)

# The heads are named because an editable install must be renewed when one is added
SETUP_INPUTS = pyproject.toml setup.py $(wildcard tools/*.py *_d2/__init__.py)

.PHONY: setup lint test coverage test-browser demo

setup: $(STAMP)

$(STAMP): $(SETUP_INPUTS)
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)': install Python 3.10 or newer, or name one with PYTHON=/path/to/python3."; exit 1; }
	@$(PYTHON) tools/setup.py --venv "$(VENV)" --torch "$(TORCH)" --detectron2 "$(DETECTRON2_SOURCE)"
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

coverage: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(COVERAGE) --cov-report=term-missing:skip-covered

test-browser: $(STAMP)
	@for name in "$(CHROMIUM)" chromium chromium-browser google-chrome google-chrome-stable; do command -v "$$name" >/dev/null && exit 0; done; \
		echo "There is no Chromium: install one (on Debian and Ubuntu: apt install chromium), or name one with CHROMIUM=/path/to/chromium."; exit 1
	CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest tests/browser

demo: $(STAMP)
	$(BIN)/python projects/shapes_benchmark/run.py
