# Every target sets itself up in .venv; a stamp file there remembers what is installed.
PYTHON ?= python3
VENV ?= .venv
# Options for the one command that installs torch. Plain pip fetches the CUDA build, which is larger by gigabytes:
#   make test TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"
TORCH_INDEX ?=

PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
RUN := $(VENV)/bin/python
TORCH := $(shell sed -n 's/^ *\(torch==.*\)/\1/p' setup.cfg)
FOLDERS := $(shell sed -n 's/^ *ckptool\.\([a-z]*\) = .*/\1/p' setup.cfg)

.NOTPARALLEL:
.PHONY: help demo test lint types format bench fuzz readme check-readme clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1 /p' Makefile | while read -r name words; do printf '%-14s%s\n' "$$name" "$$words"; done

demo: $(VENV)/.default  ## disarm a checkpoint with a payload in it, and show it (installs no torch)
	$(RUN) -m fixtures.demo

test: $(VENV)/.test  ## run all tests
	$(RUN) -m pytest

lint: $(VENV)/.dev  ## check the style of the code
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(VENV)/.dev  ## check the types of the code
# Type checkers cannot follow package_dir in an editable install, so they are shown the tree as it is imported.
	rm -rf build/types && mkdir -p build/types/ckptool
	ln -s $(CURDIR)/core/* build/types/ckptool/
	for folder in $(FOLDERS); do ln -s "$(CURDIR)/$$folder" build/types/ckptool/; done
	cd build/types && $(abspath $(VENV))/bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p ckptool

format: $(VENV)/.dev  ## rewrite the code in the style that lint asks for
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

bench: $(VENV)/.bench  ## measure time and memory beside cp and torch
	$(RUN) -m benchmarks.run

fuzz: $(VENV)/.fuzz  ## attack the pickle machine and the zip reader at length
	$(RUN) -m tests.fuzz.run

readme: $(VENV)/.test  ## rewrite the help texts in README.md
	$(RUN) tests/test_readme.py

check-readme: $(VENV)/.test  ## hold README.md against --help (part of test)
	$(RUN) -m pytest tests/test_readme.py

clean:  ## remove what make made, .venv too
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# ensurepip writes pip last, so a half-made environment is made again.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# Python 3.10.0 brings a pip that cannot install a folder editable without a setup.py.
$(VENV)/.default: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(PIP) install 'pip>=22'
	$(PIP) install --editable .
	touch $@

# By itself, so that TORCH_INDEX is asked for nothing else.
$(VENV)/.torch: | $(VENV)/bin/pip
	$(PIP) install $(TORCH_INDEX) $(TORCH)
	touch $@

$(VENV)/.test: $(VENV)/.torch $(VENV)/.default
	$(PIP) install --editable '.[test]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) install --editable '.[bench]'
	touch $@

$(VENV)/.dev: $(VENV)/.default
	$(PIP) install --editable '.[dev]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.test
	$(PIP) install --editable '.[fuzz]'
	touch $@
