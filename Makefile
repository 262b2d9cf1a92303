# make demo, make test, make test-more, make lint, make lock, make clean. Everything is installed into .venv; after that nothing needs a network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CORES ?= all

.PHONY: help install demo test test-more lint lock clean

help:
	@echo "make demo        install, then run the demo study (results/demo/)"
	@echo "make test        install, then lint and test"
	@echo "make test-more   install, then test what takes minutes more: pages in a browser, kills, full disks, benchmarks, slow tests"
	@echo "make lint        install, then all static checks"
	@echo "make lock        pin the newest versions (network)"
	@echo "make clean       remove results and caches, after asking"

# Bytecode is compiled here, once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every job would spend ten
# seconds on compiling its imports.
install: $(INSTALLED)

$(INSTALLED): envs/uv.txt envs/requirements.txt envs/adamw8bit.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "histoprompt needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module does not work: install it (Debian and Ubuntu: apt install python3-venv), then run make again"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r envs/requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes --no-deps --target .venv/adamw8bit -r envs/adamw8bit.txt
	@touch $@

demo: $(INSTALLED)
	$(BIN)/snakemake --cores $(CORES)

# Two processes share the tests by file; each computes on one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10
test: lint
	$(PYTEST)

test-more: $(INSTALLED)
	$(PYTEST) tests/browser tests/faults tests/benchmarks
	$(PYTEST) -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check --line-length 128 Snakefile workflow/rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

lock: $(INSTALLED)
	echo uv | $(BIN)/uv pip compile - --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o envs/uv.txt
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url -o envs/requirements.txt envs/requirements.in
	echo bitsandbytes | $(BIN)/uv pip compile - --upgrade --no-deps --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o envs/adamw8bit.txt
	$(BIN)/python tools/make_conda_env.py

clean:
	@read -r -p "Remove results/, .snakemake/ and all caches? [y/N] " answer; [[ "$$answer" == y ]] || { echo "nothing removed"; exit 0; }; \
	rm -rf results .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis
