# Two commands: `make grade` and `make test`. Both set everything up in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ASSIGNMENT ?= cnn
SUBMISSION ?= solutions/$(ASSIGNMENT)/submission.py
RESULTS ?= results.json

.PHONY: grade test selftest suites lint seeds benchmark clean
.DEFAULT_GOAL := grade

grade: $(VENV)/.grader
	$(BIN)/autograder grade $(ASSIGNMENT) "$(SUBMISSION)" --results "$(RESULTS)"

test: lint selftest suites

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

selftest: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Every hidden suite must give its own reference solution full marks.
suites: $(VENV)/.grader
	@for toml in assignments/*/assignment.toml; do \
	    name=$$(basename $$(dirname $$toml)); \
	    $(BIN)/autograder grade $$name solutions/$$name --results $(VENV)/$$name.json || exit 1; \
	    $(BIN)/python -c 'import json, sys; r = json.load(open(sys.argv[1])); \
	        full = sum(t["max_score"] for t in r["tests"]); \
	        sys.exit(r["score"] != full and "the reference solution got %g of %g" % (r["score"], full))' $(VENV)/$$name.json || exit 1; \
	done

# Every sample submission under ten secret seeds: the same verdicts. Takes about half an hour on two processors.
seeds: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -q selftests/test_submissions.py --seeds 10

benchmark: $(VENV)/.grader
	$(BIN)/python benchmarks/cold.py

clean:
	rm -rf $(VENV) results.json

# Installing is done once; a change of pyproject.toml does it again.
$(VENV)/.grader: pyproject.toml tools/install-torch
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "autograder needs Python 3.10 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	tools/install-torch $(BIN)/python auto
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.grader
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
