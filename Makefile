# Another interpreter: make test PYTHON=python3.12
# More flags for pytest: make test PYTEST_FLAGS='-k pyramid -x'

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
INSTALLED := $(VENV)/installed-$(VERSION)
# With XLA's compilers for TPU and CUDA, which take gigabytes.
COMPILERS := .venv-accelerators
COMPILERS_INSTALLED := $(COMPILERS)/installed-$(VERSION)

PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile \
  --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults test-learning test-all test-accelerators \
  docs lint format clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | \
	  awk -F'\t' '{printf "  make %-17s %s\n", $$1, $$2}'

demo: $(INSTALLED)  ## train and evaluate on synthetic people (minutes on a laptop CPU)
	$(BIN)/python train.py --config=configs/synthetic.py
	$(BIN)/python eval.py --ckpt=runs/synthetic --report=runs/synthetic/report

test: $(INSTALLED)  ## run the tests
	$(PYTEST) --ignore=tests/faults --ignore=tests/learning \
	  --ignore=tests/compilers $(PYTEST_FLAGS)

test-faults: $(INSTALLED)  ## kill runs, damage files, compare numbers of devices and processes
	$(PYTEST) --numprocesses=3 tests/faults $(PYTEST_FLAGS)  # some tests only wait

test-learning: $(INSTALLED)  ## train networks with a part left out (minutes)
	$(BIN)/python -m pytest tests/learning $(PYTEST_FLAGS)

test-all: test test-faults test-learning  ## run all three

test-accelerators: $(COMPILERS_INSTALLED)  ## compile for TPU and CUDA (needs neither)
	$(COMPILERS)/bin/python -m pytest tests/compilers $(PYTEST_FLAGS)

docs: $(VENV)/docs-$(VERSION)  ## build the documentation as a site
	$(BIN)/python -m sphinx -E -c docs --fail-on-warning --quiet . build/docs
	@echo 'The first page is build/docs/index.html'

lint: $(INSTALLED)  ## check the style and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite files in this style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

comma := ,
# $(call install,FOLDER,EXTRAS) makes an environment.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo 'The venv module is missing: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv --clear $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(2)]'
	@touch $@
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(call install,$(VENV),dev)

$(VENV)/docs-$(VERSION): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[docs]'
	@touch $@

$(COMPILERS_INSTALLED): pyproject.toml constraints.txt
	$(call install,$(COMPILERS),dev$(comma)tpu$(comma)cuda)

clean:  ## remove the environments and caches, but not datasets/ and runs/
	rm -rf $(VENV) $(COMPILERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis
