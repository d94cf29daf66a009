# Every command of the project. `make` alone lists them.
#
# The control machine needs Debian or a system with apt; PYTHON names the interpreter to use.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
LOG := $(CURDIR)/build/log

# One checkout never meets another one's roles, caches or scratch folders.
export ANSIBLE_HOME := $(CURDIR)/build/ansible
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build
export PYTHONPATH := $(CURDIR)/build

# Puts the tools on the path of one command. Not exported for all: the recipe of .venv must not find .venv's own Python.
TOOLS := PATH="$(BIN):$$PATH"

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

# --- what the other commands need ------------------------------------------------------------------------------------

.PHONY: deps
deps: ## install the Debian packages of debian-packages.txt that are missing
	@.ci/install-packages debian-packages.txt

.PHONY: venv
venv: $(VENV)/.installed build/ansible_collections/ringfence/zones ## make .venv with the tools of requirements.txt

$(VENV)/.installed: requirements.txt | deps
	@.ci/make-venv "$(PYTHON)" "$(VENV)" requirements.txt "$(LOG)/venv.log"

# The root of the repository is the root of the collection; Ansible finds it through this link.
build/ansible_collections/ringfence/zones:
	@mkdir -p $(@D) && ln -s ../../.. $@

IMPORTER := build/importer

$(IMPORTER)/.installed: requirements-importer.txt | deps
	@.ci/make-venv "$(PYTHON)" "$(IMPORTER)" requirements-importer.txt "$(LOG)/importer.log"

CHECK := $(BIN)/python tests/checks/run.py

# --- tests -----------------------------------------------------------------------------------------------------------

.PHONY: lint sanity unit docs
lint: venv $(IMPORTER)/.installed ## check the sources: ruff, mypy, shellcheck, ansible-lint, antsibull, galaxy-importer
	@$(CHECK) lint

sanity: venv ## run ansible-test sanity
	@$(CHECK) sanity

unit: venv ## run the unit tests
	@$(CHECK) unit

docs: venv ## build the documentation into build/docs
	@$(CHECK) docs
