# `make` alone lists the targets. Each works from a fresh clone; what is missing is installed, out loud.

CARGO ?= cargo
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
TOOLS := .tools
FIGURES := $(or $(CARGO_TARGET_DIR),target)/figures.jsonl
# What the demo does besides: `make demo DEMO=--outage` takes the cloud away for a while, `DEMO=--once` ends by itself.
DEMO :=
# The demo's cloud function is the real one where moto is installed; without it, the demo needs nothing but Rust.
FUNCTION := $(wildcard $(TOOLS)/venv/bin/moto_server)

.PHONY: help demo test check lint fmt setup bench cross image

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 14

demo: ## the whole story on this machine: cloud, provisioning, relay and sensor; no account needed
	$(CARGO) build --locked -p cloud-relay $(FUNCTION:%=-p cloud-relay-provision)
	$(CARGO) run --locked -p cloud-relay-sandbox -- demo --relay $(BUILT)/cloud-relay $(DEMO) \
	  $(FUNCTION:%=--provision $(BUILT)/provision --python $(TOOLS)/venv/bin/python)

test: setup ## every test: the crates, the foreign peers, container files and scripts, the page in a browser
	$(CARGO) test --workspace --locked
	tests/peers/check
	node --test tests/validate/*.test.mjs
	node --test tests/browser/*.test.mjs

check: lint test ## what CI runs: formatting, lints, dependencies, spelling, then the tests

lint: ## formatting, clippy with warnings denied, dependencies and licences, spelling
	tests/setup/install --lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(TOOLS)/cargo/bin/cargo-deny --log-level error check bans licenses sources
	$(TOOLS)/venv/bin/typos

bench: setup ## figures of the release build beside mosquitto, in one table; half an hour
	rm -f $(FIGURES)
	$(CARGO) bench --locked --bench figures -- --runs 3 --json $(FIGURES)
	$(CARGO) bench --locked --bench paths

cross: setup ## the ARM binaries, built and put through the end-to-end tests under qemu-user; half an hour
	tests/setup/install --cross
	tests/cross/check

image: setup ## the image, built as balena does and tested as a container; as root, on Debian; half an hour
	tests/setup/install --cross
	tests/setup/install --image
	tests/image/check amd64
	tests/image/emulate tests/image/check aarch64

fmt: ## format the Rust code
	$(CARGO) fmt --all

setup: ## what the tests need, under .tools/
	tests/setup/install
