# Every target says what it does in its own line: run `make` to read them.
#
# Build and tests need Go. The demo, the benches and the tests also start real
# PostgreSQL servers; scripts/prepare brings what is missing for that.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Pairs of majors, old:new, that the tests move between.
PAIRS ?= $(or $(PGCUTOVER_TEST_PAIRS),15:18)
# Packages tested at the same time; each starts servers of its own.
TEST_PARALLEL ?= 3
# Runs of `make bench`.
ROUNDS ?= 3
# Passed on: `make demo ARGS="--json"`, `make test ARGS="-run Freeze -v"`.
ARGS ?=

VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)

# Pinned, so that a new release of the checker is a change of its own.
COMPOSE_GO_VERSION := v2.16.2

comma  := ,
MAJORS := $(sort $(subst :, ,$(subst $(comma), ,$(PAIRS))))
# Majors of tests that choose their own, whatever PAIRS says: test/rights.
OWN_MAJORS := 13 15 16 17 18
CACHE  := .cache
SHELL_SCRIPTS := .ci/run $(wildcard scripts/*) $(wildcard docker/*/*.sh)

.PHONY: help
help: ## Print this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-14s %s\n", $$1, $$2 }'

.PHONY: build
build: ## Build bin/pgcutover
	@go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/pgcutover ./cmd/pgcutover

.PHONY: prepare
prepare: ## Bring what demo and tests need: client programs, server binaries
	@scripts/prepare $(MAJORS)

.PHONY: prepare-tests
prepare-tests:
	@scripts/prepare $(sort $(MAJORS) $(OWN_MAJORS))

.PHONY: test
test: prepare-tests ## Test against real servers; PAIRS=15:18,13:17 chooses the majors
	PATH="$$PATH:$(CURDIR)/$(CACHE)/bin" PGCUTOVER_TEST_PAIRS=$(PAIRS) go test -count=1 -timeout 40m -p $(TEST_PARALLEL) $(ARGS) ./...

.PHONY: test-race
test-race: prepare-tests ## The same under the race detector (needs a C compiler)
	PATH="$$PATH:$(CURDIR)/$(CACHE)/bin" PGCUTOVER_TEST_PAIRS=$(PAIRS) go test -race -count=1 -timeout 40m -p $(TEST_PARALLEL) $(ARGS) ./...

# Nothing but the demo writes to stdout here, so that `make demo ARGS=--json`
# can be piped into a program.
.PHONY: demo
demo: build prepare ## Move a live throwaway cluster from 15 to 18 and report
	@bin/pgcutover demo $(ARGS)

.PHONY: bench
bench: build prepare ## Run the demo ROUNDS times: table on stderr, medians as JSON on stdout
	@rm -rf $(CACHE)/bench && mkdir -p $(CACHE)/bench
	@for round in $$(seq $(ROUNDS)); do \
		echo "round $$round of $(ROUNDS)" >&2; \
		bin/pgcutover demo --json $(ARGS) > $(CACHE)/bench/$$round.json; \
	done
	@go run ./internal/bench $(CACHE)/bench/*.json

# ROUNDS, TPS, CLIENTS, METHODS, CASE=large and PAIR choose what is measured;
# `go run ./test/bench/cutover -help` lists them. All of it takes half an hour.
.PHONY: bench-cutover
bench-cutover: export ROUNDS := $(if $(filter environment command%,$(origin ROUNDS)),$(ROUNDS))
bench-cutover: ## Measure the cutover against freeze-and-poll and a floor; table on stderr, JSON on stdout
	@scripts/prepare $(subst :, ,$(or $(PAIR),15:18)) >&2
	@go run ./test/bench/cutover $(ARGS)

# SIZE and BUFFERS (MB), WINDOW, RATE, VARIANTS, ROUNDS, PAIR and DIR choose what
# is measured; `go run ./test/bench/warm -help` lists them. All of it takes half
# an hour and 6 GB of disk; DIR keeps the servers for the next run.
.PHONY: bench-warm
bench-warm: export ROUNDS := $(if $(filter environment command%,$(origin ROUNDS)),$(ROUNDS))
bench-warm: ## Measure queries after a restart: cold, warmed, all prewarmed, hot; table on stderr, JSON on stdout
	@scripts/prepare $(subst :, ,$(or $(PAIR),15:18)) >&2
	@go run ./test/bench/warm $(ARGS)

# ROWS, SMALL, JOBS, VARIANTS, ROUNDS, DIR and PAIRS=15:18,15:17; see -help.
.PHONY: bench-analyze
bench-analyze: export ROUNDS := $(if $(filter environment command%,$(origin ROUNDS)),$(ROUNDS))
bench-analyze: export PAIRS := $(if $(filter environment command%,$(origin PAIRS)),$(PAIRS),15:18$(comma)15:17)
bench-analyze: ## Measure how soon there are statistics, against vacuumdb; table on stderr, JSON on stdout
	@scripts/prepare $(sort $(subst :, ,$(subst $(comma), ,$(if $(filter environment command%,$(origin PAIRS)),$(PAIRS),15:18$(comma)15:17)))) >&2
	@go run ./test/bench/analyze $(ARGS)

# ROUNDS, COUNTS, PAIRS and BUSY choose what is measured; `go run
# ./test/bench/sequences -help` lists them. All of it takes some minutes.
.PHONY: bench-sequences
bench-sequences: export ROUNDS := $(if $(filter environment command%,$(origin ROUNDS)),$(ROUNDS))
bench-sequences: ## Measure how sequences are set ahead of the pause and in it; table on stderr, JSON on stdout
	@scripts/prepare $(subst :, ,$(subst $(comma), ,$(or $(PAIRS),$(PAIR),10:18$(comma)15:18))) >&2
	@go run ./test/bench/sequences $(ARGS)

.PHONY: lint
lint: ## Run the linters of .golangci.yml (the first time builds them: minutes)
	@scripts/golangci-lint run

# The first reads the file as `docker compose` does (it is the same library),
# without an engine; yamllint watches over style and duplicate keys.
.PHONY: lint-compose
lint-compose: ## Check docker-compose.yml (needs yamllint)
	go run github.com/compose-spec/compose-go/v2/cmd@$(COMPOSE_GO_VERSION) docker-compose.yml > /dev/null
	yamllint --strict docker-compose.yml docker .golangci.yml

.PHONY: lint-shell
lint-shell: ## Check the shell scripts (needs shellcheck)
	shellcheck $(SHELL_SCRIPTS)

.PHONY: fmt
fmt: ## Format the Go code
	@scripts/golangci-lint fmt

.PHONY: clean
clean: ## Remove what the build left (server binaries stay, see CONTRIBUTING.md)
	rm -rf bin $(CACHE)/bench
	go clean

# CASES, TABLES, LOCK_TABLES, PAIR and others choose what is measured; `go run
# ./test/scale -help` lists them.
.PHONY: bench-scale
bench-scale: ## Measure cutovers of 10,000 and 30,000 tables, and beside clients that deadlock; JSON on stdout
	@scripts/prepare $(subst :, ,$(or $(PAIR),15:18)) >&2
	@go run ./test/scale $(ARGS)

.PHONY: model
model: ## Check the protocol's models with spin: table on stderr, JSON on stdout
	@scripts/model quick

.PHONY: model-full
model-full: ## The same with larger bounds (minutes, up to 8 GB of memory)
	@scripts/model full

# How many rounds of chaos, and which: SEED= repeats a run, ROUND= one round of
# it, FAULT= keeps to faults with this in their names, TIME=20m begins no round
# later than that.
N ?= 40
SEED ?=
ROUND ?=
FAULT ?=
TIME ?=

.PHONY: chaos
chaos: prepare ## Break something in each of N=40 cutovers and rollbacks; table on stderr, JSON on stdout; SEED= repeats
	@mkdir -p $(CACHE) && rm -f $(CACHE)/chaos.json
	@status=0; \
	PGCUTOVER_TEST_PAIRS=$(PAIRS) PGCUTOVER_CHAOS_ROUNDS=$(N) PGCUTOVER_CHAOS_SEED=$(SEED) \
	PGCUTOVER_CHAOS_ROUND=$(ROUND) PGCUTOVER_CHAOS_FAULT='$(FAULT)' PGCUTOVER_CHAOS_TIME=$(TIME) PGCUTOVER_CHAOS_RESULT=$(CURDIR)/$(CACHE)/chaos.json \
		go test -count=1 -timeout 0 -v -run '^TestChaos$$' $(ARGS) ./test/chaos >&2 || status=$$?; \
	if [ -f $(CACHE)/chaos.json ]; then cat $(CACHE)/chaos.json; fi; exit $$status
