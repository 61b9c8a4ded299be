# The commands a person needs:  make demo   make test   make bench   make setup
PY     ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BPF    := $(wildcard src/pylvs/datapath/bpf/*.[ch] src/pylvs/datapath/bpf/*/*.h)
SHARE  := $(wildcard share/*.py share/man/*.8 share/completion/*.in)
LAYOUT := src/pylvs/datapath/_layout.py
# The tests are run by several processes, each with network namespaces of its own; a file by one of them.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))

.PHONY: demo test setup bpf deps bench lint clean

demo: setup
	$(BIN)/pylvs demo

test: setup $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests

setup: $(VENV)/.made $(LAYOUT)

# Debian packages: what the build, the demo, the tests and the benchmarks run. Nothing is done when all are there.
deps:
	@.ci/deps

$(VENV)/.made: pyproject.toml | deps
	$(PY) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.made
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(LAYOUT): hatch_build.py $(BPF) $(SHARE) | deps
	$(PY) hatch_build.py

bpf: $(LAYOUT)

bench: setup
	@.ci/deps bench
	$(BIN)/python -m bench e2e
	$(BIN)/python -m bench table
	$(BIN)/python -m bench schedulers
	$(BIN)/python -m bench options
	$(BIN)/python -m bench tunnels
	$(BIN)/python -m bench ipvsadm

lint: setup $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) src/pylvs/datapath/obj $(LAYOUT)
