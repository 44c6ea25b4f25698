# The commands for developers. `make` without a target lists them.

# The Python for .venv. Empty: the first supported one that is found.
PYTHON ?=
# More arguments for the command of a target: make test ARGS="-k broker"
ARGS ?=
# How many test processes run in parallel.
JOBS ?= auto
RUN = .venv/bin/python
# Files in the order of their folders: the short unit tests come last, so that no process waits for another at the end.
PYTEST = $(RUN) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
PIP = $(RUN) -m pip install --disable-pip-version-check --require-hashes -r

.DEFAULT_GOAL := help
.PHONY: help setup demo cluster check test chaos soak lint format lock wheels clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: .venv/.installed ## create .venv, install the application's packages, fetch the jars of Kafka and Spark
	@$(RUN) -m iot.java
	@$(RUN) -m iot.pipeline.training

demo: setup ## run broker, sensors and dashboard in this terminal
	@$(RUN) iot_streaming_app.py --demo $(ARGS)

cluster: setup ## the same on a small cluster on this machine: Kafka nodes, Spark workers, PostgreSQL
	@$(RUN) -m iot.cluster $(ARGS)

check: lint ## run lint and the unit tests (about a minute)
	@$(PYTEST) tests/unit $(ARGS)

test: .venv/.installed-dev setup ## run all tests, with a real broker, Spark and browser
	@$(PYTEST) $(ARGS)

chaos: .venv/.installed-dev setup ## inject faults; kill broker, application and producer 20 times; check every count
	@$(RUN) -m pytest -m long
	@$(RUN) -m tests.system.chaos $(ARGS)

soak: .venv/.installed-dev setup ## send 5,000 readings/s for 30 minutes and check that nothing grows; writes soak.html
	@$(RUN) -m benchmarks.soak $(ARGS)

lint: .venv/.installed-dev ## check style and types
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

format: .venv/.installed-dev ## format the code
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

# Versions stay where they can. ARGS="--upgrade" updates those that requirements*.txt do not pin.
LOCK = $(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command "make lock" $(ARGS)

lock: .venv/.installed-dev ## update the lock files from requirements*.txt, and check their wheels
	$(LOCK) requirements.txt --output-file requirements.lock
	$(LOCK) requirements-dev.txt --constraints requirements.lock --output-file requirements-dev.lock
	@$(RUN) -m tests.support.wheels

wheels: .venv/.installed-dev ## check that every supported Python finds a wheel of every package
	@$(RUN) -m tests.support.wheels

clean: ## remove .venv and the caches of the tools; keep data and fetched jars
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A new .venv or a changed lock installs again: both are prerequisites.
.venv/.installed: requirements.lock .venv/bin/python
	@$(RUN) iot/__init__.py
	$(PIP) requirements.lock
	@touch $@

.venv/.installed-dev: requirements-dev.lock .venv/.installed
	$(PIP) requirements-dev.lock
	@touch $@

# iot/__init__.py refuses an unsupported Python.
.venv/bin/python: export PYTHON := $(PYTHON)
.venv/bin/python:
	@set -- python3 python3.14 python3.13 python3.12 python3.11; [ -z "$$PYTHON" ] || set -- "$$PYTHON"; \
	seen=; for python; do \
	  what=$$("$$python" -c 'import platform as p, sys; print(p.python_implementation() + " %d.%d" % sys.version_info[:2] \
	    + getattr(sys, "abiflags", ""))' 2> /dev/null) || continue; \
	  if ! "$$python" iot/__init__.py 2> /dev/null; then seen="$$seen, $$python is $$what"; \
	  elif ! "$$python" -c 'import ensurepip, venv' 2> /dev/null; then \
	    seen="$$seen, $$python has no venv module (on Debian and Ubuntu: apt-get install python$${what#* }-venv)"; \
	  else echo "$$python -m venv --clear .venv"; exec "$$python" -m venv --clear .venv; fi; \
	done; \
	[ -n "$$seen" ] || seen=", $${PYTHON:-python3} does not run"; \
	echo "error:$${seen#,}; CPython 3.11, 3.12, 3.13 or 3.14 is needed: install one, on Debian and Ubuntu:" \
	  "apt-get install python3 python3-venv, or name it: make setup PYTHON=/path/to/python3.14" >&2; exit 1
