# make .venv   set up the environment from nothing but Python 3.11
# make demo    build YOLOv5n at 640x640 for the ZCU102
# make test    lint, type check, tests
# make lint    lint and type check alone
# make docs    the site, in build/docs

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs clean

# The stamp is written last, so an interrupted install is done again; an environment whose
# creation was interrupted has no pip, and is made anew.
.venv: .venv/stamp

.venv/stamp: pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --editable '.[network,zoo,search,docs,dev]'
	touch $@

demo: .venv/stamp
	$(BIN)/python -m hwgen.build yolov5n --board zcu102

lint: .venv/stamp
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: .venv/stamp
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going docs build/docs

test: lint
	$(BIN)/python -m pytest --durations 20

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis hwgen.egg-info
