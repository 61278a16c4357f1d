# Two commands: `make train` (clone to a policy that learns) and `make test`. Both build .venv when it is missing.
PYTHON ?= python3
SEED ?= 0
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

ifneq ($(wildcard $(VENV)/.incomplete),)  # an installation that was broken off is no installation
$(shell rm -rf $(VENV))
endif

.PHONY: train test check aot format clean

train: $(VENV)
	$(BIN)/mimosa train quickstart seed=$(SEED) $(ARGS)

test: $(VENV)
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

aot: $(VENV)  # every kernel compiled for sm_90 and sm_100, without a GPU: registers, spills, shared memory
	$(BIN)/python -m mimosa.kernels.resource_report $(ARGS)

format: $(VENV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV):
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); sys.exit(0 if ok else "Python 3.11 or 3.12 is wanted, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && touch $(VENV)/.incomplete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' || { rm -rf $(VENV); exit 1; }
	rm $(VENV)/.incomplete

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build dist
