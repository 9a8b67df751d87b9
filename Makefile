.DEFAULT_GOAL := help
SHELL := /bin/bash

# A Python that is new enough; PYTHON=… chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PORT ?= 8006
URL := http://localhost:$(PORT)
SERVICE_LOG := data/service.log
ENABLE_KAFKA ?= false
KAFKA_PORT ?= 9092
KAFKA_DATA ?= data/kafka
JOBS ?= 3
RATINGS ?=
FLAGS ?=
LOCK_FLAGS := --upgrade --quiet --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

.PHONY: help install run demo stop kafka kafka-stop test chaos overload fuzz soak audit bench lint types \
	check test-events screenshots definitions docker-up docker-down logs lock clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

install: .venv/.installed .venv/.installed-dev  ## Make .venv with everything, the tools of development too

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "venv is needed; on Debian: apt install python3-venv"; exit 1; }

.venv/.installed: requirements.txt | .venv/bin/python
	@echo "Installing into .venv …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.installed-dev: requirements-dev.txt .venv/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: .venv/.installed  ## Run the service on PORT (8006) with the embedded engine; ENABLE_KAFKA=true reads from Kafka
	@echo "The service: $(URL)/docs   Ctrl-C stops it."
	@ENABLE_KAFKA=$(ENABLE_KAFKA) PORT=$(PORT) exec $(BIN)/python -m app.main

demo: .venv/.installed  ## Run it in the background, with sample viewing, and show what it answers
	@PORT=$(PORT) PYTHON=$(BIN)/python SERVICE_LOG=$(SERVICE_LOG) bash scripts/demo.sh

stop:  ## Stop the service that `make demo` left running
	@bash scripts/stop.sh

kafka:  ## A real Apache Kafka on 127.0.0.1:9092, in the background; it needs Java 17 and Maven
	@KAFKA_PORT=$(KAFKA_PORT) KAFKA_DATA=$(KAFKA_DATA) bash scripts/kafka.sh start

kafka-stop:  ## Stop it; its data stays
	@KAFKA_PORT=$(KAFKA_PORT) KAFKA_DATA=$(KAFKA_DATA) bash scripts/kafka.sh stop

test-events: .venv/.installed  ## Send sample viewing to the running service; FLAGS="--days 30 …"
	@$(BIN)/python test_events.py --url $(URL) $(FLAGS)

audit: .venv/.installed  ## Compare the running service's views with its events; FLAGS="--days 7 --repair"
	@$(BIN)/python scripts/audit.py --url $(URL) $(FLAGS)

test: install  ## Run every test, JOBS (3) at a time
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

chaos: install  ## Replay RATINGS=ratings.csv through Kafka, kill everything on the way, compare with plain Python
	@$(BIN)/python -m tests.chaos $(RATINGS) $(FLAGS)

overload: install  ## Ten times the load that the machine can take, for a minute; what becomes of the service
	@$(BIN)/python -m tests.overload $(FLAGS)

fuzz: install  ## A million odd and damaged events through both decoders; FLAGS="--inputs … --seed …"
	@$(BIN)/python -m tests.fuzz $(FLAGS)

soak: install  ## Ten minutes of mixed load, after two to warm up: memory, threads and open files have to stay; FLAGS="--minutes …"
	@$(BIN)/python -m tests.soak $(FLAGS)

bench: install  ## Measure everything side by side, and write benchmarks/RESULTS.md; FLAGS="--only …"
	@$(BIN)/python -m benchmarks $(FLAGS)

screenshots: install  ## Take the pictures of the page in docs/, with Chromium
	@$(BIN)/python -m tests.screenshots

definitions:  ## Bring the page's definitions to those of the README
	@awk '/^## / { wanted = ($$0 == "## Figures"); next } wanted' README.md >app/web/definitions.md

lint: install  ## Check format and style
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: install  ## Check types
	@$(BIN)/mypy

check: lint types test  ## Everything that must pass

docker-up:  ## Service, ClickHouse server and Kafka in containers
	docker compose up --build --detach --wait

docker-down:  ## Stop the containers; the data stays in their volumes
	docker compose down

logs:  ## Follow the containers' logs
	docker compose logs --follow

lock: install  ## Pin the newest versions of what requirements*.in name
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-tools
	@$(BIN)/pip-compile $(LOCK_FLAGS) -o requirements.txt requirements.in
	@$(BIN)/pip-compile $(LOCK_FLAGS) -o requirements-dev.txt requirements-dev.in

clean:  ## Remove .venv and the tools' caches; data/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
