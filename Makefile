# Penstock. `make demo` shows the main job, `make test` runs the tests; both need only Go and make.

SHELL      := /bin/bash
BIN        := $(CURDIR)/bin
TOOLS      := $(BIN)/tools
GIT_REV    := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
VERSION    ?= $(shell git describe --tags --always 2>/dev/null || echo dev)
LDFLAGS    := -s -w -X main.version=$(VERSION) -X main.gitRev=$(GIT_REV)
FUZZTIME   ?= 30s
IMAGE      ?= penstock:dev
# What `make upgrade-e2e` upgrades from: revisions of feature levels 1 and 3.
UPGRADE_FROM ?= 81232d4c0e72 891291fbe86d
UNIT        = $(shell go list ./... 2>/dev/null | grep -v /internal/e2e)

.PHONY: help build upgrade-e2e metadata-100k demo test test-unit test-e2e race lint fmt fuzz fuzz-corpora proto proto-release bench bench-compare modules peers peers-quoted bench-quoted bench-report catchup bench-log image sim sim-ci sim-long group-sim mutants clean log-crash-long recovery-10g chaos chaos-short storm group-bench failover kafka-clients kafka-figures wire-clients

help: ## What can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

build: ## The static binary bin/penstock
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/penstock ./cmd/penstock

demo: build ## Three server processes, real records, a group, a replay, a killed leader
	go run ./internal/demo -penstock $(BIN)/penstock

test: test-unit test-e2e ## All tests: units with the fuzz corpora, then real processes

test-unit:
	scripts/gotest -timeout 8m $(UNIT)

test-e2e: build
	PENSTOCK_BINARY=$(BIN)/penstock scripts/gotest -count=1 -timeout 8m ./internal/e2e/...

upgrade-e2e: build ## A cluster of earlier revisions (UPGRADE_FROM) upgraded to this one, a node at a time, under load
	UPGRADE_FROM="$(UPGRADE_FROM)" PENSTOCK_BINARY=$(BIN)/penstock go test -count=1 -timeout 20m -v -run 'TestRollingUpgrade$$' ./internal/e2e

kafka-clients: build ## Kafka clients that nobody here wrote against three processes; installs them into bin/kafkaclients
	scripts/kafka-clients

wire-clients: build ## grpcurl and a generated Python client against the gRPC API; installs them into bin/wireclients
	scripts/wire-clients

kafka-figures: build ## What the Kafka door costs beside the gRPC door and a sink, as rows of a table: NODES (1), ROUNDS (3) of MEBIBYTES (1024), BATCH (262144); PROFILES=folder
	MEBIBYTES=$(or $(MEBIBYTES),1024) scripts/kafka-clients -v -timeout 30m -run 'TestFigures$$'

race: ## Unit tests under the race detector
	scripts/gotest -race -short -timeout 10m $(UNIT)

lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## golangci-lint, buf lint, buf breaking against the released messages
	$(TOOLS)/golangci-lint run ./...
	$(TOOLS)/buf lint
	$(TOOLS)/buf breaking --against proto/released.binpb

modules: $(TOOLS)/golangci-lint ## The modules that `make lint` and `make test` do not see: build, vet, lint, test (clients: make kafka-clients wire-clients)
	set -e; for module in bench/peers bench/report; do \
	  (cd $$module && go build -o /dev/null ./... && go vet ./... && $(TOOLS)/golangci-lint run ./... && $(CURDIR)/scripts/gotest -timeout 2m ./...); \
	done
	set -e; for module in internal/kafkaclients internal/wireclients; do (cd $$module && go vet ./... && $(TOOLS)/golangci-lint run ./...); done

fuzz-corpora: ## The seed corpora of every fuzz target
	scripts/gotest -run '^Fuzz' -timeout 2m $(UNIT)

fmt: $(TOOLS)/golangci-lint ## Format the code
	$(TOOLS)/golangci-lint fmt ./...

SIM := go test ./internal/sim -run '^TestSeeds$$' -count=1 -v

sim: ## Simulated clusters: SEEDS=2000 of them from FIRST=1 on, or SEED=n alone with its trace
	$(SIM) -timeout 60m -sim.seeds=$(or $(SEEDS),2000) -sim.first=$(or $(FIRST),1) -sim.seed=$(or $(SEED),0)

sim-ci: ## 2,000 simulated clusters, each twice; fails if some trouble came up too seldom
	$(SIM) -timeout 10m -sim.seeds=2000 -sim.twice

sim-long: ## Simulated clusters for SIMTIME=2h, other seeds each day; writes docs/reliability/sim-long.md
	@mkdir -p docs/reliability
	$(SIM) -timeout 0 -sim.for=$(or $(SIMTIME),2h) -sim.first=$(or $(FIRST),$$(date +%Y%m%d)0000000) -sim.report=$(CURDIR)/docs/reliability/sim-long.md

group-sim: ## Simulated groups, with the coordinators of three brokers: SEEDS=2000 of them from FIRST=1 on, or SEED=n alone with its trace
	go test ./broker -run '^TestGroupHunt$$' -count=1 -v -timeout 60m -groups.seeds=$(or $(SEEDS),2000) -groups.first=$(or $(FIRST),1) -groups.seed=$(or $(SEED),0)

mutants: ## Deliberate faults, each of which the simulation must notice
	go run ./internal/mutants

fuzz: ## Every fuzz target for FUZZTIME each
	scripts/fuzz $(FUZZTIME)

proto: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## Generate Go from the .proto files
	PATH=$(TOOLS):$$PATH $(TOOLS)/buf generate

bench: build ## Throughput and latency of three server processes on this machine; ARGS="-bench-format -runs 10" for benchstat
	go run ./internal/benchrun -penstock $(BIN)/penstock $(ARGS)

bench-quoted: build ## All figures but many and catchup by the rule for quoted ones (5 runs of 60 s after 10 s, 20 kills), nearly two hours; ARGS="-only produce"
	go run ./internal/benchrun -penstock $(BIN)/penstock -quote -markdown $(ARGS)

bench-compare: build ## Revision OLD beside this tree, by turns, for ROUNDS=10, and benchstat; ARGS="-only produce -duration 8s"
	ROUNDS=$(or $(ROUNDS),10) scripts/bench-compare "$(OLD)" $(ARGS)

peers: build ## Penstock beside Kafka, JetStream, Redis and RabbitMQ, in turn in one run, hours; ARGS="-short" takes five minutes
	cd bench/peers && go build -o $(BIN)/peers/peers .
	$(BIN)/peers/peers -penstock $(BIN)/penstock $(ARGS)

peers-quoted: override ARGS += -quote
peers-quoted: peers ## The same by the rule for quoted figures, and it says how long first; ARGS="-peers kafka -rows produce-100,consume-100 -durability synced"

bench-report: build ## How it scales, a curve a question, into docs/performance; ARGS="-point 10s -runs 3"
	cd bench/report && go build -o $(BIN)/report .
	$(BIN)/report -penstock $(BIN)/penstock $(ARGS)

catchup: build ## A follower GIB=10 behind catches up: on an idle cluster, and under load; needs five times that on the disk
	go run ./internal/benchrun -penstock $(BIN)/penstock -only catchup -gib $(or $(GIB),10)

metadata-100k: ## The metadata of 100,000 partitions on three Raft nodes: creation, snapshots, failover, registration, restart
	go test ./cluster -run 'TestLargeMetadata$$' -count=1 -v -timeout 15m -large.partitions=100000
	go test ./cluster/metadata ./cluster/controller -run xxx -bench 'Apply|Decide' -benchmem

bench-log: ## The partition log beside this machine's limits, on a disk (PENSTOCK_BENCH_DIR), 7 minutes
	go run ./internal/benchlog

log-crash-long: ## 2,000 random histories of logs, the power cut at every change
	nice go test ./log -run 'TestCrash$$' -v -timeout 2h -crash.seeds 2000 -crash.steps 120 -crash.kinds

recovery-10g: ## Opening a log of 10 GiB against one of 100 MiB after a kill; needs 12 GiB in /var/tmp
	go run ./internal/recoverybench

# A run that somebody asks for in particular is not recorded, and is all that is done.
CHAOS_ALONE = $(SEED)$(SCHEDULE)$(DURATION)

chaos: build ## Real processes broken for 30 minutes while clients use them, then storm, root; DURATION=5m, SEED=n, SCHEDULE=file: only that
	scripts/chaos chaos -duration $(or $(DURATION),30m) -seed $(or $(SEED),0) $(if $(SCHEDULE),-schedule $(SCHEDULE)) $(if $(CHAOS_ALONE),,-record docs/reliability)
	$(if $(CHAOS_ALONE),,$(MAKE) storm)

group-bench: build ## What consumer groups are held to: joins, kills, commits, loading, memory; ARGS="-only commits"
	go run ./internal/groupbench $(ARGS)

storm: build ## Twenty consumers of a group join, leave, are killed and sleep under load, for ten minutes; STORM=1m is not recorded
	GROUP_STORM=$(or $(STORM),10m) $(if $(STORM),,GROUP_STORM_RECORD=$(CURDIR)/docs/reliability) PENSTOCK_BINARY=$(BIN)/penstock go test -count=1 -timeout 60m -v -run TestConsumersInAStorm ./internal/e2e

chaos-short: build ## Real processes and the quick faults, for 20 s, in 45 s altogether, root; SEED=n
	scripts/chaos chaos -short -duration 20s -seed $(or $(SEED),0)

failover: build ## How long writes stop when a node is killed, stopped, cut off or loses its power, root, about 20 minutes; ARGS="-kills 3" is not recorded
	scripts/chaos failover $(or $(ARGS),-record docs/reliability)

proto-release: $(TOOLS)/buf ## Make today's messages the ones that may not be broken
	$(TOOLS)/buf build -o proto/released.binpb

image: build ## The container image, FROM scratch
	docker build --target prebuilt -t $(IMAGE) .

clean:
	rm -rf $(BIN)

# The tools are pinned by tools/go.mod and built from source.
$(TOOLS)/buf:                PKG = github.com/bufbuild/buf/cmd/buf
$(TOOLS)/golangci-lint:      PKG = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/protoc-gen-go:      PKG = google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-go-grpc: PKG = google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(TOOLS)/%: tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	cd tools && go build -o $@ $(PKG)
	@touch $@
