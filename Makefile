# Two commands do everything on a fresh machine:
#   make demo   sets up and runs the whole pipeline on the sample scene
#   make test   sets up and runs the tests

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?= data

.DEFAULT_GOAL := help
.PHONY: help install demo lab test test-slow lint clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## virtual environment with the package in it

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py viewer/package-lock.json
	bash scripts/system-packages.sh run
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	bash scripts/system-packages.sh test || $(BIN)/playwright install chromium
	touch $@

demo: install  ## the whole pipeline on the sample scene; ends with where report and splat are
	$(BIN)/spaceport-lab sample $(DATA)/sample
	$(BIN)/spaceport-lab run $(DATA)/sample --preset demo --data $(DATA)

lab: install  ## JupyterLab with the notebooks
	$(BIN)/jupyter lab notebooks

test: $(VENV)/.installed-dev lint  ## everything that must be green before anything lands
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=15

test-slow: $(VENV)/.installed-dev  ## long checks, also on real photographs: PHOTOS=folder of scenes
	$(BIN)/python -m pytest -m slow --photos "$(PHOTOS)"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/spaceport-lab params check

clean:  ## remove the virtual environment and caches; scenes and runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist tests/node/node_modules spaceport_lab/_viewer
