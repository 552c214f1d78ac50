# make .venv      set up the environment from nothing but Python 3.11
# make demo       build YOLOv5n at 640x640 for the ZCU102
# make quick      for the loop at the desk: lint, then every block and op with few random examples
# make test       lint, type check, tests
# make lint       lint and type check alone
# make docs       the site, in build/docs
# make thorough   the tests with ten times the random examples, different in every run
# make coverage   the tests, and which lines none of them runs
# make blocks     which tests exercise which block and op
# make clean      all that can be made again
# make help       this list

PYTHON ?= python3
BIN := .venv/bin
# A file that says which versions pip shall install, such as oldest.txt.
CONSTRAINTS ?=

.PHONY: demo quick test lint docs thorough coverage blocks clean help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# The stamp is written last, so an interrupted install is done again; an environment whose
# creation was interrupted has no pip, and is made anew.
.venv: .venv/stamp

.venv/stamp: pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) \
		--editable '.[network,zoo,search,docs,dev]'
	touch $@

oldest.txt: pyproject.toml
	$(PYTHON) -m tests.oldest > $@

demo: .venv/stamp
	$(BIN)/python -m hwgen.build yolov5n --board zcu102

lint: .venv/stamp
	$(BIN)/ruff check .
	$(BIN)/pyright

quick: .venv/stamp
	$(BIN)/ruff check .
	HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest \
		-m 'not network and not slow and not synthesis and not verilator'

docs: .venv/stamp
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going docs build/docs

test: lint
	$(BIN)/python -m pytest --durations 20

thorough: .venv/stamp
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest --durations 20

coverage: .venv/stamp
	$(BIN)/python -m pytest --cov --cov-report term:skip-covered --cov-report html

blocks: .venv/stamp
	$(BIN)/python -m tests.test_blocks_tested

clean:
	rm -rf .venv build oldest.txt htmlcov .coverage* .pytest_cache .ruff_cache .hypothesis \
		hwgen.egg-info
