# make demo: set up and run the main job.   make test: set up and run every test that is not marked long.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo

.PHONY: demo test long lint types docs clean

demo: $(VENV)/.demo-ready
	mkdir -p $(OUT)
	$(BIN)/foretrain compare studies/digits.toml -o $(OUT)/curves.nc --plot $(OUT)/curves.png --report $(OUT)/report.html
	$(BIN)/foretrain compare studies/digits-sgd.toml -o $(OUT)/sgd.nc --plot $(OUT)/sgd.png --report $(OUT)/sgd.html
	@echo "The pages are $(OUT)/report.html and, with minibatches, $(OUT)/sgd.html; the numbers are in $(OUT)/curves.nc and $(OUT)/sgd.nc."

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

long: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test-ready
	$(BIN)/pyright

docs: $(VENV)/.test-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(OUT) dist site .jax_cache .foretrain

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[report]'
	touch $@

$(VENV)/.test-ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[report,docs,test]'
	touch $@ $(VENV)/.demo-ready
