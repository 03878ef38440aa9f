# Every target is one short script; `make help` lists them. Arguments are given as NAME=value and reach the
# scripts as environment variables.
SHELL := bash
.DEFAULT_GOAL := help

# The Node that wrangler needs comes as an npm package, and goes before the one that is installed.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)

# Some systems set NAME to the machine's name. Only what is said to make counts.
ifeq ($(origin NAME),environment)
unexport NAME
endif

# In CI a lock file that does not fit is an error, never an update.
LOCKED := $(if $(filter true,$(CI)),--locked)

.PHONY: help setup build dev test test-upstreams soak lint fuzz bench bench-count bench-micro dry-run deploy key revoke tenant config usage

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## Install what is missing: wasm target, build tools, npm packages
	@scripts/setup

build: setup ## Compile the Worker into build/
	@scripts/build

dev: build ## Run it all locally. [PORT=8787] [UPSTREAM_PORT=8788] [UPSTREAM=http://…/v1 [UPSTREAM_MODEL=] [UPSTREAM_KEY=]]
	@exec node scripts/dev.mjs

test: setup ## All tests: native ones, then the compiled Worker with real clients
	cargo test $(LOCKED)
	@scripts/build
	tests/e2e/run

test-upstreams: build ## The compiled Worker in front of real model servers, which it installs. [ONLY=test-name-pattern]
	tests/upstreams/run $(if $(ONLY),'$(ONLY)')

soak: build ## Mixed faults under load for minutes, with the books compared at the end. [SOAK_SECONDS=600] [SOAK_SEED=]
	tests/soak/run

lint: setup ## Formatting, and clippy for the host and for wasm32
	cargo fmt --check
	cargo clippy $(LOCKED) --all-targets -- -D warnings
	cargo clippy $(LOCKED) --lib --target wasm32-unknown-unknown -- -D warnings
	$(if $(LOCKED),cargo check --locked --manifest-path fuzz/Cargo.toml)
	$(if $(LOCKED),cargo check --locked --benches --manifest-path benches/micro/Cargo.toml)

fuzz: ## Every fuzz target. [FUZZ_SECONDS=60]
	@scripts/setup fuzz
	@exec node scripts/fuzz.mjs

bench: build ## The Worker beside others, in one run. [BENCH_QUICK=1] [BENCH_ONLY=burst] [BENCH_SYSTEMS=gateway] [BENCH_SECONDS=2] [BENCH_ROUNDS=5]
	benches/run

bench-count: build ## The instructions of a request, by valgrind. [BENCH_SYSTEMS=] [BENCH_OTHER_BUILD=]
	benches/run count

bench-micro: ## Its parts, natively. [ONLY=transcode]
	cargo bench $(LOCKED) --manifest-path benches/micro/Cargo.toml -- $(if $(ONLY),'$(ONLY)')

dry-run: build ## What a deploy would upload, and its size. Needs no account
	@exec node scripts/deploy.mjs --dry-run

deploy: build ## Upload to Cloudflare with wrangler
	@exec node scripts/deploy.mjs

# The operator's commands ask the admin API: of the Worker that `make dev` runs, or with URL=https://… ADMIN_TOKEN=… of a
# deployed one. They need Node alone.

key: ## New API key. TENANT= [NAME=] [MODELS=a,b] [LIMITS=] [EXPIRES=2027-01-31|+30d] [FORMAT=] [CREATE=1] | ROTATE=id [GRACE=s]
	@exec node scripts/key.mjs

revoke: ## Revoke a key. KEY=sk-…|KEY_ID=…|KEY_HASH=… [TENANT=]
	@exec node scripts/revoke.mjs

tenant: ## New or changed tenant. TENANT= [STATUS=active|suspended] [NAME=] [MODELS=a,b|all] [LIMITS=] [DELETE=1]
	@exec node scripts/tenant.mjs

config: ## Store a configuration, if it is good. FILE=config.json [CHECK=1]
	@exec node scripts/config.mjs

usage: ## What a tenant has used. TENANT= [FROM=2026-01-01] [TO=2026-01-31] [BY=day,model,key]
	@exec node scripts/usage.mjs
