# make .venv   set up the environment from nothing but Python 3.11
# make demo    build YOLOv5n at 640x640 for the ZCU102
# make test    lint, type check, tests
# make lint    lint and type check alone

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

# The stamp is written last, so an interrupted install is done again.
.venv: .venv/stamp

.venv/stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[network,zoo,dev]'
	touch $@

demo: .venv/stamp
	$(BIN)/python -m hwgen.build yolov5n --board zcu102

lint: .venv/stamp
	$(BIN)/ruff check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis hwgen.egg-info
