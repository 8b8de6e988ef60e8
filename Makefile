# Needs python3 (>= 3.11), git and make. Installs everything else: uv, the locked environment, and for the tests the
# Debian packages of a real S3 server and a browser (if apt-get can install them).
SHELL := /bin/bash
UV_VERSION := 0.13.8
TOOLS := .cache/tools
UV := $(shell command -v uv 2>/dev/null || echo $(TOOLS)/bin/uv)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-fast lint types arch pytest debian chaos cluster-files clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# In a venv if Python has venv and pip, else with pip alone, else with Debian's python3-venv.
$(TOOLS)/bin/uv:
	@mkdir -p $(TOOLS)/bin
	@python3 -m venv $(TOOLS) 2>/dev/null && $(TOOLS)/bin/pip install --quiet uv==$(UV_VERSION) || { \
	  rm -rf $(TOOLS) && mkdir -p $(TOOLS); \
	  python3 -m pip install --quiet --target $(TOOLS) uv==$(UV_VERSION) 2>/dev/null; } || { \
	  apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && python3 -m venv $(TOOLS) && \
	  $(TOOLS)/bin/pip install --quiet uv==$(UV_VERSION); } || { \
	  echo "uv could not be installed: python3 needs its venv or pip module"; exit 1; }

setup: $(filter $(TOOLS)/%,$(UV))  ## install the locked environment
	$(UV) sync --frozen --no-dev --quiet

setup-dev: $(filter $(TOOLS)/%,$(UV))  ## install it with the tools for development
	$(UV) sync --frozen --quiet

demo: setup  ## edit 32 drawn scenes with Ray and the shipped models
	$(BIN)/retouch run jobs/quickstart.yaml
	$(BIN)/retouch verify runs/quickstart

test: setup-dev debian lint types arch pytest  ## everything that CI runs: checkers and all tests

# No server, Ray, browser or library of networks: see --fast in tests/conftest.py.
test-fast: setup-dev lint arch  ## ruff, import contracts and the fast tests, while you work
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --fast

lint:  ## run ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:  ## run mypy --strict
	$(BIN)/mypy

arch:  ## check the import contracts
	$(BIN)/lint-imports

# Three processes on two cores, because tests often wait for servers and Ray; one thread each, as editors run.
pytest:  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --no-loadscope-reorder

chaos: setup-dev debian  ## run the chaos suite and the long form of other tests, up to an hour
	@command -v faketime >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq faketime >/dev/null; } || true
	$(BIN)/python -m tests.chaos
	RETOUCH_LONG=1 OMP_NUM_THREADS=1 $(BIN)/pytest -m long

# The S3 tests use Ceph's gateway and the gallery's test Chromium; without them these tests are skipped.
debian:
	@if command -v radosgw >/dev/null && command -v chromium >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    radosgw ceph-mon ceph-osd ceph-common chromium >/dev/null \
	  || echo "debian packages could not be installed: the real-S3 and browser tests will be skipped"; \
	else echo "not root or no apt-get: the real-S3 and browser tests will be skipped"; fi

cluster-files:  ## write the manifests in cluster/ again with `retouch schedule`
	@for file in $$(grep -l '^# Made by: ' cluster/*.yaml); do \
	  command=$$(sed -n '1s/^# Made by: //p' $$file); eval "$(BIN)/$$command" >$$file.new && mv $$file.new $$file; done

clean:  ## remove the environment, caches and runs
	rm -rf .venv .cache runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
