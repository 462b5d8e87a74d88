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
# Like pip, uv then trusts what this system trusts, a company's own proxy included; without such a store, its own list.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem),)
export UV_SYSTEM_CERTS ?= true
endif

.PHONY: help setup dev demo lab check test soak bench screenshots gpu-proof chromium notebooks lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -c '' || { echo "$(PYTHON) does not start. Name another Python with PYTHON=..."; exit 1; }
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

demo: setup ## build llama.cpp, chat with nano, call a tool, run every notebook headless, write the report
	@$(BIN)/kimi-nb demo

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/kimi-nb lab

check: dev ## ruff, mypy and the notebook rules: seconds, no build
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python scripts/notebooks.py check

test: dev chromium ## all tests but the heavy repetitions
	@$(BIN)/kimi-nb build
	@$(BIN)/python -m pytest -m "not soak" -n 2 --dist loadfile

soak: dev ## the heavy repetitions: hundreds of kills, thousands of mutated files
	@$(BIN)/kimi-nb build
	@$(BIN)/python -m pytest -m soak --timeout 3600

bench: dev ## tables of measured, target and ratio on this machine
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

screenshots: dev chromium ## make the pictures of the panels in docs/panels anew
	@$(BIN)/kimi-nb build
	@KIMI_NB_SCREENSHOTS=$(CURDIR)/docs/panels $(BIN)/python -m pytest --basetemp=/tmp/kimi tests/test_browser_*panel.py

gpu-proof: setup ## on a machine with NVIDIA GPUs: every promise about memory and speed, in one table (PROOF="--limit 600")
	@$(BIN)/python scripts/gpu_proof $(PROOF)

# The browser tests drive a real Chromium. Debian's package is installed where we may; elsewhere they fail and say why.
chromium:
	@scripts/chromium.sh

notebooks: dev ## make the .ipynb files from their percent sources
	@$(BIN)/python scripts/notebooks.py sync

clean: ## remove what `make` made in this folder (builds in the user's cache folder stay)
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
