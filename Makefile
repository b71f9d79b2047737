# make demo   train and evaluate on drawn pedestrians (minutes on a laptop CPU)
# make test   run the tests
# make test-faults   kill, fuzz and count devices
# make test-all      both, one after the other
# make lint   check style
# make format rewrite files in the style of the house
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
INSTALLED := $(VENV)/installed-$(VERSION)

PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile \
  --no-loadscope-reorder

.PHONY: demo test test-faults test-all lint format clean

demo: $(INSTALLED)
	$(BIN)/python train.py --config=configs/synthetic.py
	$(BIN)/python eval.py --ckpt=runs/synthetic --report=runs/synthetic/report

test: $(INSTALLED)
	$(PYTEST) --ignore=tests/faults $(PYTEST_FLAGS)

test-faults: $(INSTALLED)  # of which some wait more than they compute
	$(PYTEST) --numprocesses=3 tests/faults $(PYTEST_FLAGS)

test-all:
	$(MAKE) test
	$(MAKE) test-faults

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo 'The venv module is missing: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  # but not datasets/ and runs/, which may hold days of work
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
