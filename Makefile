# What a developer types. `make` alone lists the targets.

PYTHON ?= python3
# Further arguments for the command of a target: make test ARGS="-k broker"
ARGS ?=
# How many tests run side by side.
JOBS ?= auto
RUN = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos soak lint format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: .venv/.installed ## make .venv, install what is pinned, fetch the jars of Kafka and Spark (once)
	@$(RUN) -m iot.java
	@$(RUN) -m iot.pipeline.training

demo: setup ## everything in one terminal: broker, sensors, dashboard
	@$(RUN) iot_streaming_app.py --demo $(ARGS)

test: setup ## run the tests, against a real broker, Spark and browser
	@$(RUN) -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

chaos: setup ## faults of disk, database and checkpoints; then kill broker, app and producer 20 times, and count
	@$(RUN) -m pytest -m long
	@$(RUN) -m tests.system.chaos $(ARGS)

soak: setup ## 5,000 readings a second for 30 minutes: no process and no file may grow; drawn in soak.html
	@$(RUN) benchmarks/soak.py $(ARGS)

lint: .venv/.installed ## check style and types
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

format: .venv/.installed ## format the code
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

# Pins stay as they are where they can; ARGS="--upgrade" renews what requirements*.txt leaves open.
LOCK = $(RUN) -m uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url \
  --custom-compile-command "make lock" $(ARGS)

lock: .venv/.installed ## write anew what is installed, with checksums, from requirements*.txt
	$(LOCK) requirements.txt --output-file requirements.lock
	$(LOCK) requirements-dev.txt --constraints requirements.lock --output-file requirements-dev.lock

clean: ## remove .venv and the tools' caches; data and fetched jars stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: requirements-dev.lock | .venv/bin/python
	$(RUN) -m pip install --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.venv/bin/python:
	@command -v $(PYTHON) > /dev/null || { echo "error: no $(PYTHON): install Python 3.10 or newer," \
	  "on Debian and Ubuntu: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is" \
	  "$$($(PYTHON) --version), but 3.10 or newer is needed: make setup PYTHON=/path/to/python3.10" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "error: $(PYTHON) has no venv module;" \
	  "install it, on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
