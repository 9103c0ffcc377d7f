# Two commands matter: `make run` and `make test`. Each installs what it needs into .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: run test check lint types bench bench-peers bench-docs profile campaign campaign-cluster campaign-kept campaign-mutants failover fuzz soak model clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run  ## the gateway, an embedded Redis and a small worker pool on http://127.0.0.1:8080
	@$(BIN)/gateway run

test: $(VENV)/.dev  ## the tests (needs no Redis of yours)
	$(BIN)/python -m pytest -n 4 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test  ## ruff, mypy --strict and the tests

bench: $(VENV)/.dev  ## the benchmarks, on this machine, into benchmarks/results/ and docs/performance.md
	$(BIN)/python -m benchmarks --write-docs

bench-peers: $(VENV)/.dev  ## the gateway beside other queues (Node and Go for theirs), likewise
	$(BIN)/python -m benchmarks.peers --write-docs

bench-docs: $(VENV)/.dev  ## the goals from the newest run of both, into docs/performance.md
	$(BIN)/python -m benchmarks.goals --write-docs

profile: $(VENV)/.dev  ## where the gateway and Redis spend a task's time (needs py-spy)
	$(BIN)/python -m benchmarks.profile

campaign: $(VENV)/.dev  ## faults under load, and a checker of what came of it (SECONDS=600, SEED=1)
	$(BIN)/python -m tests.campaign --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1)

campaign-kept: $(VENV)/.dev  ## the campaigns that once found something (needs root, nftables, FUSE, faketime)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[campaign]'
	$(BIN)/python -m tests.campaign --kept $(if $(SECONDS),--seconds $(SECONDS))

campaign-mutants: $(VENV)/.dev  ## the campaign against gateways and a store broken on purpose (needs root and FUSE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[campaign]'
	$(BIN)/python -m tests.campaign.mutants

failover: $(VENV)/.dev  ## Sentinel failovers and split brains under load (needs root and nftables)
	$(BIN)/python -m tests.failover --rounds 10

fuzz: $(VENV)/.dev  ## the API by its document, then every reader of others' bytes, ten minutes each
	$(BIN)/python -m tests.fuzz schema --minutes $(or $(MINUTES),10)
	$(BIN)/python -m tests.fuzz decoders --minutes $(or $(MINUTES),10)

campaign-cluster: $(VENV)/.dev  ## the same over a Redis Cluster (SECONDS=180, SEED=1)
	$(BIN)/python -m tests.campaign --cluster --seconds $(or $(SECONDS),180) --seed $(or $(SEED),1)

soak: $(VENV)/.dev  ## mixed load for an hour, and what grew (MINUTES=60)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60)

model: $(VENV)/.dev  ## the store against its model, for ten minutes
	$(BIN)/python -m tests.model --minutes $(or $(MINUTES),10)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
