# Every target works from a bare clone with python3 ≥ 3.11 and make: it builds its own environment first.
#   make demo    train on handwritten digits, score the result, draw a grid (a few minutes on 2 cores)
#   make test    the fast tests               (TESTS="tests/data -k order" for some of them)
#   make check   format, lint, types
#   make clean   remove what these targets made; runs of yours stay
PYTHON ?= python3
VENV ?= .venv
TESTS ?=
DEMO ?= runs/demo

BIN = $(VENV)/bin

.PHONY: help demo test check clean
help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.installed-digits
	$(BIN)/gansmith train --data builtin:digits --preset digits --out $(DEMO)
	$(BIN)/python demo/score_digits.py $(DEMO)

# One thread per test process: two processes on two cores beat one process on both.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(TESTS)

# All three, so that one run names everything.
check: $(VENV)/.installed-dev
	@failed=0; for step in 'ruff format --check .' 'ruff check --output-format concise .' mypy; do \
		echo "$$step"; $(BIN)/$$step || failed=1; \
	done; exit $$failed

clean:
	rm -rf $(VENV) runs/demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks demo -name __pycache__ -type d -prune -exec rm -rf {} +

# $(VENV)/.installed-EXTRA: the environment with that extra of pyproject.toml; made again when versions change.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing gansmith[$*] into $(VENV) (once; torch is large)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[$*]' \
	|| { echo "make: installing failed, see pip's message above. It needs a package index: with no network," \
	     "set PIP_INDEX_URL or PIP_FIND_LINKS to a mirror; then run make again." >&2; exit 1; }
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 \
	|| { echo "make: '$(PYTHON)' is not installed; gansmith needs Python 3.11 or newer." \
	     "Install it, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "make: $$($(PYTHON) --version) is too old; gansmith needs Python 3.11 or newer." \
	     "Name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	|| { echo "make: $(PYTHON) lacks its venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
