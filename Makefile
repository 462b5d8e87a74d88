# The whole contributor interface. Each target makes what it needs; nothing is installed outside .venv
# (builds of llama.cpp are kept in the user's cache folder).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
LOCK := environments/requirements.txt
DEVLOCK := environments/requirements-dev.txt
# The Python binding is installed without its own copy of llama.cpp: it uses the libraries that `kimi-nb build` makes.
PIP_INSTALL := $(UV) pip install --quiet --python $(BIN)/python
BINDING := --config-settings-package llama-cpp-python:cmake.define.LLAMA_BUILD=OFF

.PHONY: help setup dev demo test soak lab check bench lint lock gpu-proof clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Name another with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "This Python cannot make virtual environments. On Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.setup: $(UV) $(LOCK) pyproject.toml
	@echo "Installing the locked packages into $(VENV) ..."
	@$(PIP_INSTALL) --require-hashes $(BINDING) -r $(LOCK)
	@$(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.setup $(DEVLOCK)
	@$(PIP_INSTALL) --require-hashes $(BINDING) -r $(DEVLOCK)
	@touch $@

setup: $(VENV)/.setup ## make .venv with bin/kimi-nb

dev: $(VENV)/.dev

lock: $(UV) ## make the locks in environments/ anew
	@environments/compile.sh
