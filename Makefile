# Everything is built into .venv and native/target; downloads are cached where pip and cargo keep them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := s3,kubernetes,mount,image,test,servers,dev
PYTEST_WORKERS ?= auto
# They wait for pods more than they compute. Those that take the cluster down go first, one by one: at the end of
# all they would leave processors idle that are short until then.
CLUSTER_WORKERS ?= 4
CARGO := cargo
MANIFEST := --manifest-path native/Cargo.toml
# A name that changes with what is to be installed, so that a second run finds nothing to do.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: build demo wheel test test-all test-robust test-s3 servers image test-image test-cluster cluster-programs \
	cluster-up cluster-down simulate model model-all fuzz lint lint-python lint-rust test-python test-rust bench \
	constraints clean help

help: ## say what the targets do
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# Debug information and the places where code panics name files; a wheel must not tell where it was built. The
# extension of .venv is built the same way, without symbols too, so that a wheel after it finds everything done;
# `make build STRIP=` keeps them, for a profiler.
STRIP := --strip
BUILD_CARGO_HOME := $(or $(CARGO_HOME),$(HOME)/.cargo)
BUILD_ENV := VIRTUAL_ENV="$(CURDIR)/$(VENV)" \
	RUSTFLAGS="--remap-path-prefix=$(BUILD_CARGO_HOME)=cargo --remap-path-prefix=$(CURDIR)=." \
	CFLAGS="-ffile-prefix-map=$(BUILD_CARGO_HOME)=cargo -ffile-prefix-map=$(CURDIR)=."

build: $(STAMP) ## make .venv with the release extension in it; .venv/bin/pvback works afterwards
	@$(BUILD_ENV) $(BIN)/maturin develop --release --locked $(STRIP) --skip-install --quiet

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/.installed-*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt 'maturin>=1.9,<2'
	PIP_CONSTRAINT=constraints.txt $(BUILD_ENV) $(BIN)/maturin develop --release --locked $(STRIP) --extras $(EXTRAS)
	touch $@

demo: build ## back up, change, back up again, restore and compare a real tree of 1 GiB
	$(BIN)/python -m benchmarks.demo

wheel: $(STAMP) ## make a wheel in dist/ to give away, and try it in a fresh environment
	rm -rf dist
	$(BUILD_ENV) $(BIN)/maturin build --release --locked --strip --out dist
	$(BIN)/python -m tests.support.check_wheel dist/*.whl

test: build lint test-rust test-python ## what every change has to pass

test-rust:
	$(CARGO) test $(MANIFEST) --locked --quiet

test-python: build
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) -m 'not slow and not s3 and not image and not cluster'

test-all: build lint test-rust ## as test, with the slow tests
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) -m 'not s3 and not image and not cluster'

servers: $(STAMP) ## build the S3 servers that the tests start; kept in the cache, outside the tree
	$(BIN)/python -m tests.support.s3_servers

test-s3: build servers ## object storage against real S3 servers
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --dist loadfile tests/s3

image: $(STAMP) ## build the container image and its SBOM into build/image; BASE_IMAGE= and BUILD_BASE= pin the bases
	$(BIN)/python -m deploy.image.build

test-image: servers image ## run the image as a restricted pod would
	$(BIN)/python -m pytest -q tests/image

cluster-programs: $(STAMP) ## build Kubernetes and what the test cluster runs beside it; kept in the cache
	$(BIN)/python -m tests.cluster.local programs

cluster-up: cluster-programs ## bring up a Kubernetes of two nodes on this machine, for the tests; needs root
	$(BIN)/python -m tests.cluster.local up

cluster-down: $(STAMP) ## take it down; nothing of it is left
	$(BIN)/python -m tests.cluster.local down

test-cluster: build servers image ## the tests on Kubernetes: yours with PVBACK_TEST_KUBECONFIG, else one brought up and taken down
	@if [[ -z "$${PVBACK_TEST_KUBECONFIG:-}" ]] && ! $(BIN)/python -m tests.cluster.local is-up; then trap '$(MAKE) cluster-down' EXIT; $(MAKE) cluster-up; fi; \
		$(BIN)/python -m pytest -q -m alone tests/cluster; \
		$(BIN)/python -m pytest -q -n $(CLUSTER_WORKERS) --dist worksteal -m 'not alone' tests/cluster

test-robust: build ## kills, damage, full disks, memory, frozen repositories: fast and slow
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) tests/robust tests/compat

simulate: build ## commit and prune in a simulated store, and what is broken on purpose; SIMULATE_ARGS="--count 10000"
	$(BIN)/python -m tests.simulation $(SIMULATE_ARGS)

# The runner needs nothing but Python's own library, so neither the extension nor .venv.
model: ## search the model of commit and prune with Spin: the rows for CI, about ten minutes
	$(PYTHON) -m tests.model.run

model-all: ## as model, with the rows that take hours
	$(PYTHON) -m tests.model.run --all

fuzz: $(STAMP) ## feed the parsers what a fuzzer makes up, each for FUZZ_SECONDS (15)
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'error: cargo-fuzz is missing; cargo install --locked cargo-fuzz' >&2; exit 1; }
	$(BIN)/python -m tests.support.fuzz_seeds build/fuzz/seeds
	native/fuzz/run build/fuzz/seeds $(FUZZ_TARGETS)

lint: lint-python lint-rust ## style, types, layers, licences

lint-python: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pip --disable-pip-version-check check

lint-rust:
	$(CARGO) fmt $(MANIFEST) --all --check
	$(CARGO) fmt --manifest-path native/fuzz/Cargo.toml --check
	$(CARGO) clippy $(MANIFEST) --locked --quiet --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cd native && cargo deny --locked check bans licenses sources; \
	else echo 'note: cargo-deny is not installed, licences are not checked' >&2; fi

bench: build ## measure against restic, rustic, kopia and borg
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

constraints: ## renew constraints.txt with the newest versions that fit
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*p["dependencies"], *sum(p["optional-dependencies"].values(), []), sep="\n")' > build/requirements.txt
	build/constraints/bin/pip install --quiet --disable-pip-version-check -r build/requirements.txt
	{ head -n 1 constraints.txt; build/constraints/bin/pip freeze; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## remove everything that was built
	rm -rf $(VENV) build dist native/target native/fuzz/target native/fuzz/artifacts pvback/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find pvback tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
