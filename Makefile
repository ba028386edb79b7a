# What there is to do with this tree; CONTRIBUTING.md says more.
# Every target installs what it needs through dev/setup.sh and builds into one cache folder outside the tree (dev/env.sh).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BUILD := dev/setup.sh build && . dev/env.sh
TEST := dev/setup.sh test && . dev/env.sh
# The clients whose checks are part of the tests.
DRIVERS := psycopg_3 sqlalchemy_2 node_postgres pgx pgjdbc psql_terminal catalog_queries

.PHONY: help demo build check test bench bench-batch clients fuzz kafka kafka-stop kill oracle pg slt

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 22

demo: build ## build the server and run `millstream demo` (ARGS="--help" for its options)
	@bin/millstream demo $(ARGS)

build: ## the release binary, at bin/millstream
	@$(BUILD) && cargo build --release --locked --bin millstream && mkdir -p bin && \
	  cp "$$CARGO_TARGET_DIR/release/millstream" bin/.millstream.new && mv bin/.millstream.new bin/millstream

check: ## rustfmt, clippy and cargo doc, warnings denied
	@export MILLSTREAM_CHECK=1 && $(BUILD) && cargo fmt --all --check && \
	  cargo clippy --locked --workspace --all-targets -- -D warnings && \
	  RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --workspace --no-deps --document-private-items

test: ## everything that CI runs: make check, then every test
	@$(TEST) && dev/kafka/kafka.sh resolve && dev/s3/s3.sh resolve && tests/clients/run.sh install $(DRIVERS)
	@$(MAKE) --no-print-directory check
	@. dev/env.sh && cargo test --locked --workspace

kill: ## the kill test at length: 300 seeded SIGKILLs (KILLS=n SEED=n)
	@$(TEST) && dev/kafka/kafka.sh resolve && \
	  MILLSTREAM_KILLS=$${KILLS:-300} MILLSTREAM_SEED=$${SEED:-} cargo test --locked --test it kill:: -- --include-ignored --nocapture

oracle: ## the oracle at length: generated queries and changelogs (CASES=n SEED=n)
	@$(TEST) && MILLSTREAM_ORACLE_CASES=$${CASES:-8000} MILLSTREAM_SEED=$${SEED:-} cargo test --locked --test it oracle:: -- --nocapture

pg: ## the comparison with PostgreSQL at length (CASES=n SEED=n)
	@$(TEST) && MILLSTREAM_PG_CASES=$${CASES:-5000} MILLSTREAM_SEED=$${SEED:-} cargo test --locked --test it pg:: -- --include-ignored --nocapture

fuzz: ## mangled statements, records, schemas and options at length (CASES=n SEED=n)
	@$(TEST) && MILLSTREAM_MANGLED_CASES=$${CASES:-100000} MILLSTREAM_SEED=$${SEED:-} \
	  cargo test --locked --workspace --lib --test it mangled -- --nocapture

slt: ## the sqllogictest files alone (FILE=part-of-name; COMPLETE=1 writes the answers into the files)
	@$(TEST) && MILLSTREAM_SLT=$${FILE:-} MILLSTREAM_SLT_COMPLETE=$${COMPLETE:-} cargo test --locked --test it slt:: -- --nocapture

bench: ## throughput and latency on a real Kafka broker, and Nexmark, release build (EVENTS=n SECONDS_EACH=n)
	@$(TEST) && dev/kafka/kafka.sh resolve && \
	  KAFKA_JIT_LEVEL=4 KAFKA_SHORT_PAUSES=1 MILLSTREAM_BENCH_EVENTS=$${EVENTS:-} MILLSTREAM_BENCH_SECONDS=$${SECONDS_EACH:-} cargo bench --locked --bench pipeline --bench nexmark

bench-batch: ## TPC-H, the daily job, point reads and large SELECTs beside DuckDB, DataFusion and PostgreSQL (NAME=tpch RUNS=n)
	@dev/setup.sh clients && $(BUILD) && RUNS=$${RUNS:-3} benches/batch/run.sh $${NAME:-}

clients: ## clients of PostgreSQL, and Delta tables with deltalake and DuckDB, installed into the cache folder (NAME=pgx)
	@dev/setup.sh clients && tests/clients/run.sh $${NAME:-}

kafka: ## a single-node Apache Kafka 4 on 127.0.0.1:9092 (KAFKA_BOOTSTRAP=HOST:PORT for another)
	@$(TEST) && dev/kafka/kafka.sh start

kafka-stop: ## stop it
	@dev/kafka/kafka.sh stop
