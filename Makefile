# Every command of the project. `make` alone lists them.
#
# The control machine needs Debian or a system with apt; PYTHON names the interpreter to use.

PYTHON ?= python3
VENV := .venv
IMPORTER := build/importer

# One checkout never meets another one's roles, caches or scratch folders.
export ANSIBLE_HOME := $(CURDIR)/build/ansible
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build
export PYTHONPATH := $(CURDIR)/build
# Molecule shows what it runs as it is.
export MOLECULE_COMMAND_BORDERS := 0

# Puts the tools on the path of one command. Not exported for all: the recipe of .venv must not find .venv's own Python.
TOOLS := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
CHECK := $(VENV)/bin/python tests/checks/run.py
LAB := $(PYTHON) molecule/lab

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# --- what the other commands need ------------------------------------------------------------------------------------

.PHONY: deps
deps: ## install the Debian packages of debian-packages.txt that are missing
	@.ci/install-packages debian-packages.txt

.PHONY: venv
venv: $(VENV)/.installed build/ansible_collections/ringfence/zones ## make .venv with the tools of requirements.txt

$(VENV)/.installed: requirements.txt | deps
	@.ci/make-venv "$(PYTHON)" "$(VENV)" requirements.txt build/log/venv.log

$(IMPORTER)/.installed: requirements-importer.txt | deps
	@.ci/make-venv "$(PYTHON)" "$(IMPORTER)" requirements-importer.txt build/log/importer.log

# The root of the repository is the root of the collection; Ansible finds it through this link.
build/ansible_collections/ringfence/zones:
	@mkdir -p $(@D) && ln -s ../../.. $@

# --- tests -----------------------------------------------------------------------------------------------------------

.PHONY: lint
lint: venv $(IMPORTER)/.installed ## check the sources
	@$(CHECK) lint

.PHONY: sanity
sanity: venv ## run ansible-test sanity
	@$(CHECK) sanity

.PHONY: unit
unit: venv ## run the unit tests
	@$(CHECK) unit

.PHONY: docs
docs: venv ## build the documentation into build/docs
	@$(CHECK) docs

.PHONY: integration
integration: venv ## run the tests that need programs, but no host
	@$(TOOLS) pytest --numprocesses=auto tests/integration

# One scenario, with its output as it comes: make molecule SCENARIO=debian12
.PHONY: molecule
molecule: venv ## run the molecule scenarios on hosts in QEMU, side by side
ifdef SCENARIO
	@$(TOOLS) molecule test --scenario-name $(SCENARIO)
else
	@echo "molecule: hosts in QEMU, half an hour and more without KVM; follow them in build/log/molecule-*.log"
	@$(CHECK) molecule
endif

.PHONY: test
test: venv $(IMPORTER)/.installed ## run every test
	@$(CHECK) lint sanity unit docs
	@$(MAKE) --no-print-directory integration molecule

.PHONY: test-full
test-full: test ## run every test, and then the scenarios that take hours
	@$(CHECK) full
	@$(CHECK) alone

# --- the demo host, for developing ------------------------------------------------------------------------------------

.PHONY: demo
demo: venv ## start a Xen host in QEMU, converge the demo's zones on it, and show them; CPUS=2 for a host with two
	@$(TOOLS) examples/demo/run $(CPUS)

.PHONY: bench
bench: venv ## measure on the demo host, as ratios; the table also as JSON in build/bench
	@$(TOOLS) python tests/bench

.PHONY: lab-up
lab-up: deps ## start the demo host
	@$(LAB) up demo

.PHONY: lab-ssh
lab-ssh: ## open a shell on the demo host
	@$(LAB) ssh demo

.PHONY: lab-down
lab-down: ## power the demo host off
	@$(LAB) down demo

.PHONY: clean
clean: ## end this checkout's lab hosts and delete build/ and .venv
	@if [ -d build/lab ]; then $(LAB) destroy --all; fi
	@rm -rf build .venv
