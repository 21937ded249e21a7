# Everything a contributor types. `make up` and `make test` install what they need by themselves.

PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE # a stack starts eight services, each of which would compile all modules anew

.PHONY: up setup test test-engines bite chaos bench bench-saves bench-submits bench-leaderboard bench-content bench-similarity bench-integrity lint gen tools lock

up: setup ## the whole stack in the foreground
	@$(BIN)/finalbell up

setup: .venv/.ready ## install only

.venv/.ready: requirements.lock pyproject.toml
	@echo "finalbell: installing into .venv (about half a minute the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "finalbell: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

test: setup ## every test, four at a time (ten minutes on two cores)
	@$(BIN)/python -m pytest -n 4 --dist loadfile

test-engines: test ## every test on each engine of the session service: the default, then grpcio
	@FINALBELL_TEST_ENGINE=grpcio $(BIN)/python -m pytest -n 4 --dist loadfile

bite: setup ## every seeded bug, which a test has to catch (about a quarter of an hour)
	@$(BIN)/python -m tests.bite

chaos: setup ## random faults under load, then an audit: SEED=1 MINUTES=10 (both may be left out)
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

bench: bench-saves bench-submits bench-leaderboard bench-content bench-similarity bench-integrity ## every figure of docs/performance.md (about two hours; needs Go)
	@$(BIN)/python -m bench.starts --sessions 100000 --together 400
	@$(BIN)/python -m bench.memory
	@$(BIN)/python -m bench.losses wipe
	@$(BIN)/python -m bench.soak

bench-submits: setup ## the final bell: 100,000 submits at a rate, at once, and by the bell (about half an hour; needs Go)
	@$(BIN)/python -m bench.submits

bench-leaderboard: setup ## boards of a million, and up to 25,000 who watch one (about an hour; needs Go)
	@$(BIN)/python -m bench.leaderboard --kill

bench-content: setup ## reads of content beside a file server, cold and warm (some minutes; needs Go)
	@$(BIN)/python -m bench.content

bench-integrity: setup ## what collecting signals costs saves (a quarter of an hour; needs Go)
	@$(BIN)/python -m bench.integrity

bench-similarity: setup ## answer similarity: how often it is wrong, what it finds, 50 million pairs (some minutes)
	@$(BIN)/python -m bench.similarity
	@$(BIN)/python -m bench.analysis

bench-saves: setup ## saves/s and latencies, both engines, peers (about half an hour; needs Go)
	@$(BIN)/python -m bench.saves

lint: setup ## format, lint, types, import rules, protos
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code

gen: setup ## regenerate gen/ from protos/
	@$(BIN)/python protos/generate.py gen

tools: .tools/bin/grpcurl .tools/bin/toxiproxy-server .tools/bin/stripe-mock ## grpcurl, toxiproxy and stripe-mock, pinned, into .tools/ (needs Go)

.tools/bin/grpcurl:
	@GOBIN=$(CURDIR)/.tools/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4

.tools/bin/toxiproxy-server:
	@GOBIN=$(CURDIR)/.tools/go go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0
	@mv .tools/go/server $@

.tools/bin/versitygw: ## a real S3 bucket for the tests of links, which are skipped without it (minutes to compile)
	@GOBIN=$(CURDIR)/.tools/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

.tools/bin/stripe-mock:
	@GOBIN=$(CURDIR)/.tools/bin go install github.com/stripe/stripe-mock@v0.203.0

lock: ## pin every dependency again (needs uv)
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--all-extras --group dev pyproject.toml -o requirements.lock --upgrade --quiet
