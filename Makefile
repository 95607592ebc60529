# Every command of the project. `make run` and `make test` set up what they need on a fresh Debian machine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace
# One target directory outside the checkout: a fresh clone on a used machine builds only what is new.
export CARGO_TARGET_DIR ?= $(CACHE)/target
# RocksDB's C++ is compiled once for a version of the crate, whatever profile or feature set needs it later.
ROCKSDB_VERSION := $(shell sed -n '/^name = "librocksdb-sys"/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
export ROCKSDB_LIB_DIR := $(CACHE)/rocksdb-$(ROCKSDB_VERSION)
export ROCKSDB_STATIC := 1
export MILLRACE_BIN := $(CARGO_TARGET_DIR)/release/millrace
TOOLS := $(CACHE)/tools
# A Python of its own with paho-mqtt, a foreign client of the tests.
PYTHON := $(CACHE)/python-test
export MILLRACE_PYTHON := $(PYTHON)/bin/python
# The published SDKs of Azure IoT, foreign clients of the tests, too. Python in an environment of its own: it needs an older paho-mqtt.
AZURE_PYTHON := $(CACHE)/azure-python
export MILLRACE_AZURE_PYTHON := $(AZURE_PYTHON)/bin/python
AZURE_NODE := $(CACHE)/azure-node
export MILLRACE_AZURE_NODE := $(AZURE_NODE)/node_modules
CARGO_DENY_VERSION := 0.20.2
RUMQTTD_VERSION := 0.20.0
# Brokers that `make peers` installed are found like those of the system.
export PATH := $(PATH):$(TOOLS)/bin

# What `make run` listens on and where it keeps its stores.
GATEWAY_BIND ?= 127.0.0.1:1883
DATA ?= ./data

PURE := -p millrace-model -p millrace-wire -p millrace-routes -p millrace-hub -p millrace-broker -p millrace-loadgen
LINKED := -p millrace-store -p millrace
BINARIES := -p millrace -p millrace-loadgen -p millrace-powercut

.PHONY: help run test bench peers soak guard crash sim fuzz lint fmt deny docs build setup setup-test release clean

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

run: build ## The quickstart: gateway, plant, WAN and a small fleet on this machine
	@$(CARGO_TARGET_DIR)/release/loadgen quickstart --millrace $(MILLRACE_BIN) --gateway-bind $(GATEWAY_BIND) --data $(DATA) $(ARGS)

test: setup-test lint deny docs build ## Everything fast: lints, unit tests, real processes, a short crash test
	cargo test --locked $(PURE)
	cargo test --locked --release $(LINKED)
	cargo test --locked --release -p millrace-bench
	cargo test --locked --release -p millrace-tests --test tidy
	cargo test --locked --release -p millrace-tests --test it
	cargo test --locked --release -p millrace-powercut
	cargo test --locked --release -p millrace-test-iothub
	cargo test --locked --release -p millrace-tests --test crash
	tests/fuzz/run $(CACHE)/fuzz frames=60,routes=20,broker=20

crash: setup-test build ## kill -9 under load, again and again (MILLRACE_CRASH_ROUNDS, MILLRACE_SEED)
	MILLRACE_CRASH_ROUNDS=$${MILLRACE_CRASH_ROUNDS:-200} cargo test --locked --release -p millrace-tests --test crash -- --nocapture

sim: setup ## The simulations over ever new seeds, until one fails or ^C (MILLRACE_SIM_FROM, MILLRACE_SIM_SEEDS a round, SIM_ROUNDS)
	from=$${MILLRACE_SIM_FROM:-0}; seeds=$${MILLRACE_SIM_SEEDS:-2000}; round=0; \
	until [ $$round = $${SIM_ROUNDS:-endless} ]; do \
	  echo "== seeds $$from to $$((from + seeds - 1))"; \
	  MILLRACE_SIM_FROM=$$from MILLRACE_SIM_SEEDS=$$seeds cargo test --locked --release -p millrace-broker -- --nocapture \
	    whatever_happens simulation sim_an_uplink sim_a_pool; \
	  from=$$((from + seeds)); round=$$((round + 1)); \
	done

fuzz: ## Coverage-guided fuzzing of frames, routes and the broker (FUZZ_SECONDS)
	tests/fuzz/run $(CACHE)/fuzz $${FUZZ_SECONDS:-600}

# One folder for all of it, whatever the clock and the tree do meanwhile.
bench: export MILLRACE_RESULTS = $(shell echo bench/results/$$(date -u +%F)-$$(git rev-parse --short=9 HEAD))
bench: setup-test build peers ## The comparison with mosquitto and rumqttd, durable throughput, outages, restarts, and the micro benches (about 30 minutes)
	cargo build --locked --release -p millrace-bench
	$(CARGO_TARGET_DIR)/release/bench compare --peer configs/peers/rumqttd.toml $(ARGS)
	$(CARGO_TARGET_DIR)/release/bench durable
	$(CARGO_TARGET_DIR)/release/bench idle
	$(CARGO_TARGET_DIR)/release/bench retained
	$(CARGO_TARGET_DIR)/release/bench forward --rounds 3
	$(CARGO_TARGET_DIR)/release/bench uplink
	$(CARGO_TARGET_DIR)/release/bench restart --rounds 3
	$(CARGO_TARGET_DIR)/release/bench drain --rounds 3
	$(CARGO_TARGET_DIR)/release/bench wear --rounds 1 --seconds 20
	$(CARGO_TARGET_DIR)/release/bench dialect
	MILLRACE_BLESS=1 cargo test --locked --release -q -p millrace-tests --test tidy performance
	cargo bench --locked -p millrace-bench

soak: setup build ## Memory under overload must stay flat (SOAK_MINUTES, an hour if nobody says otherwise)
	cargo build --locked --release -p millrace-bench
	$(CARGO_TARGET_DIR)/release/bench soak --minutes $${SOAK_MINUTES:-60} $(ARGS)

guard: setup-test build ## Instructions of the hot path, and hot rows beside a relay and mosquitto, judged by what is stored (about 3 minutes)
	@# Counts depend on how code is cut into units: always as CI does it, whatever the shell says.
	CARGO_INCREMENTAL=0 cargo build --locked --release -p millrace-bench
	@packaging/install-packages valgrind -- valgrind "counting instructions"
	$(CARGO_TARGET_DIR)/release/bench instructions
	$(CARGO_TARGET_DIR)/release/bench guard --rounds 9 --seconds 0.7 $(ARGS)

peers: $(TOOLS)/bin/rumqttd-$(RUMQTTD_VERSION) ## Brokers to compare with that are published as crates (rumqttd)

# Not --locked: the versions that it locks do not compile with the toolchain of this repository.
$(TOOLS)/bin/rumqttd-$(RUMQTTD_VERSION):
	@echo "== installing rumqttd $(RUMQTTD_VERSION) once, about 5 minutes on 2 cores"
	env -u ROCKSDB_LIB_DIR cargo install rumqttd --version $(RUMQTTD_VERSION) --root $(TOOLS)
	touch $@

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

docs: setup
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --no-deps --workspace --document-private-items

# Advisories need their database from the network. Where that cannot be had, it is said, and the rest is checked.
deny: $(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION)
	$(TOOLS)/bin/cargo-deny check bans licenses sources
	@if $(TOOLS)/bin/cargo-deny fetch db >/dev/null 2>&1; then \
	  $(TOOLS)/bin/cargo-deny check advisories; \
	else \
	  echo "WARNING: ADVISORIES WERE NOT CHECKED: the advisory database cannot be fetched from this machine."; \
	fi

$(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION):
	@echo "== installing cargo-deny $(CARGO_DENY_VERSION) once, about 5 minutes on 2 cores"
	env -u ROCKSDB_LIB_DIR cargo install cargo-deny --locked --version $(CARGO_DENY_VERSION) --root $(TOOLS)
	touch $@

build: setup
	cargo build --locked --release $(BINARIES)

fmt: ## Format all code
	cargo fmt --all

clean: ## Forget builds, RocksDB included
	rm -rf $(CACHE)

# --- what a fresh machine needs -------------------------------------------------------------------------------------

setup: $(ROCKSDB_LIB_DIR)/librocksdb.a
	@packaging/own-target $(CARGO_TARGET_DIR)

setup-test: setup $(PYTHON)/requirements.txt $(AZURE_PYTHON)/requirements.txt $(AZURE_NODE)/installed.json
	@packaging/install-packages mosquitto mosquitto_sub -- mosquitto mosquitto-clients "the peer and the foreign clients of the tests"
	@packaging/install-packages ip unshare -- iproute2 util-linux "emulated networks of the tests"
	@packaging/install-packages mkfs.ext4 e2fsck losetup mount prlimit -- e2fsprogs mount util-linux "file systems that fail, for the tests"

$(PYTHON)/requirements.txt: tests/it/paho/requirements.txt
	@packaging/install-packages python3 '/usr/lib/python3*/ensurepip/__init__.py' -- python3 python3-venv "Python and its environment for the foreign client of the tests"
	python3 -m venv --clear $(PYTHON)
	$(PYTHON)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	cp $< $@

$(AZURE_PYTHON)/requirements.txt: tests/it/azure/python/requirements.txt
	@packaging/install-packages python3 '/usr/lib/python3*/ensurepip/__init__.py' -- python3 python3-venv "Python and its environment for the SDK of Azure IoT, a foreign client of the tests"
	python3 -m venv --clear $(AZURE_PYTHON)
	$(AZURE_PYTHON)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	cp $< $@

# No script of a package runs; the lock file names versions and hashes, and no host.
$(AZURE_NODE)/installed.json: tests/it/azure/node/package-lock.json tests/it/azure/node/package.json
	@packaging/install-packages node npm -- nodejs npm "Node for the SDK of Azure IoT, a foreign client of the tests"
	mkdir -p $(AZURE_NODE)
	cp tests/it/azure/node/package.json tests/it/azure/node/package-lock.json $(AZURE_NODE)
	npm ci --prefix $(AZURE_NODE) --ignore-scripts --no-audit --no-fund --silent
	cp $< $@

$(ROCKSDB_LIB_DIR)/librocksdb.a:
	@packaging/install-packages clang clang++ '/usr/lib/llvm-*/lib/libclang*.so*' -- clang libclang-dev "RocksDB: clang compiles it, libclang reads its header for the Rust bindings"
	@echo "== building RocksDB $(ROCKSDB_VERSION) from its bundled source, once: about 11 minutes on 2 cores"
	env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC cargo build --locked --release -p librocksdb-sys --target-dir $(CACHE)/rocksdb-build
	mkdir -p $(ROCKSDB_LIB_DIR)
	cp $(CACHE)/rocksdb-build/release/build/librocksdb-sys-*/out/librocksdb.a $@.new
	mv $@.new $@
	rm -rf $(CACHE)/rocksdb-build
