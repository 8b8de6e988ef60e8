# Needs python3 (>= 3.11), git and make. Everything else is set up here: uv, the locked environment, and for the tests
# the Debian packages that start a real S3 server and a browser (where apt-get can install them).
SHELL := /bin/bash
UV_VERSION := 0.13.8
TOOLS := .cache/tools
UV := $(shell command -v uv 2>/dev/null || echo $(TOOLS)/bin/uv)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test lint types arch pytest debian chaos cluster-files clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# A venv with pip where Python has them, pip alone where it has no venv, Debian's package where it has neither.
$(TOOLS)/bin/uv:
	@mkdir -p $(TOOLS)/bin
	@python3 -m venv $(TOOLS) 2>/dev/null && $(TOOLS)/bin/pip install --quiet uv==$(UV_VERSION) || { \
	  rm -rf $(TOOLS) && mkdir -p $(TOOLS); \
	  python3 -m pip install --quiet --target $(TOOLS) uv==$(UV_VERSION) 2>/dev/null; } || { \
	  apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && python3 -m venv $(TOOLS) && \
	  $(TOOLS)/bin/pip install --quiet uv==$(UV_VERSION); } || { \
	  echo "uv could not be installed: python3 needs its venv or pip module"; exit 1; }

setup: $(filter $(TOOLS)/%,$(UV))  ## the locked environment
	$(UV) sync --frozen --no-dev --quiet

setup-dev: $(filter $(TOOLS)/%,$(UV))
	$(UV) sync --frozen --quiet

demo: setup  ## edit 32 drawn scenes through Ray, on the models that ship with us
	$(BIN)/retouch run jobs/quickstart.yaml
	$(BIN)/retouch verify runs/quickstart

test: setup-dev debian lint types arch pytest  ## all that CI runs

lint:  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:  ## mypy --strict
	$(BIN)/mypy

arch:  ## the import contracts
	$(BIN)/lint-imports

# Two processes: starting servers is mostly waiting. One thread each, as the editors have it.
pytest:  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --no-loadscope-reorder

chaos: setup-dev debian  ## the long form of the chaos suite, and of every test that has one; most of an hour
	@command -v faketime >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq faketime >/dev/null; } || true
	$(BIN)/python -m tests.chaos
	RETOUCH_LONG=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_readme.py tests/execution/executors/ray/test_train.py \
	  tests/execution/executors/ray/test_prefetch.py

# The S3 tests talk to Ceph's gateway, the gallery's test opens it in Chromium; where these cannot be installed the
# tests are skipped and say so.
debian:
	@if command -v radosgw >/dev/null && command -v chromium >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    radosgw ceph-mon ceph-osd ceph-common chromium >/dev/null \
	  || echo "debian packages could not be installed: the real-S3 and browser tests will be skipped"; \
	else echo "not root or no apt-get: the real-S3 and browser tests will be skipped"; fi

cluster-files:  ## what `retouch schedule` makes in cluster/, again
	@for file in $$(grep -l '^# Made by: ' cluster/*.yaml); do \
	  command=$$(sed -n '1s/^# Made by: //p' $$file); eval "$(BIN)/$$command" >$$file.new && mv $$file.new $$file; done

clean:  ## remove what was set up and made here
	rm -rf .venv .cache runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
