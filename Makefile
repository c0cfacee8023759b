# Everything a person does with this checkout. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The checkout's own tools first. CURDIR and not a relative path: molecule and ansible-test change the folder.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Bytecode lies outside of the tree, so it litters nothing; without it every Python process compiles what it imports.
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
unexport PYTHONDONTWRITEBYTECODE

# Several twins can run side by side: MT_TWIN=another make twin-up.
export MT_TWIN ?= mt-twin
ARGS ?=
STEPS ?=

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2} /^##@/ {print "\n" substr($$0, 5)}' Makefile

##@ Run
.PHONY: setup python twin-up twin-down image trial twin-docs rehearse pin
setup: ## install what is missing: Debian packages, .venv, a running Docker engine
	@scripts/setup.sh

python:
	@scripts/setup.sh --python

twin-up: setup ## start the digital twin of the host (a container with systemd, sshd and the host's tenants)
	@python images/twin/twin.py up

twin-down: python ## stop and remove the twin
	@python images/twin/twin.py down

image: setup ## build the bench image: llama-server and trialbench (HOST=panda: on that inventory's pinned base)
	@$(if $(HOST),python scripts/image.py --inventory playbooks/$(HOST) --host $(HOST),python images/bench/build.py)

trial: setup twin-up image ## the whole trial on the twin, over SSH (ARGS="-e ..." goes to ansible-playbook)
	@cd playbooks && ansible-playbook benchmark-e4b.yml -i twin $(ARGS)

# A copy, because a trial writes into it; run this again for a fresh one.
twin-docs: ## the twin's sample documents in build/her-os: make trial ARGS="-e docs_root=../build/her-os"
	@rm -rf build/her-os && mkdir -p build/her-os/docs
	@cd images/twin/her-os && cp MEMORY.md ../../../build/her-os/ && cp docs/*.md ../../../build/her-os/docs/

rehearse: setup twin-up ## stop, drain, restore, verify on the twin without a candidate, with measured times
	@cd playbooks && ansible-playbook rehearse.yml -i twin $(ARGS)

pin: python ## resolve and write the pins: revision, hashes, image digest (CANDIDATE=FILE: of another candidate)
	@python scripts/pin.py $(if $(CANDIDATE),--candidate $(CANDIDATE)) $(ARGS)

##@ Test
.PHONY: test prove unit lint coverage browser pictures readers sanity fuzz storm live twin-tests drills rollback check-host ground-truth molecule gpu
test: ## the short proof, setup included, in minutes; times at the end and in build/test.json
	@"$$(scripts/setup.sh --which)" scripts/prove.py test $(STEPS)

prove: ## everything; resumes where it was interrupted; build/prove.json (STEPS="drills-1 storm"; ALL=1: from scratch)
	@"$$(scripts/setup.sh --which)" scripts/prove.py prove $(STEPS)

unit: python ## the unit tests, property tests in their short profile; no Docker
	@scripts/unit.sh all $(ARGS)

lint: python ## ruff, mypy, ansible-lint, yamllint, import borders, wording, spelling, the changelog
	@scripts/lint.sh

coverage: python ## all unit tests, measured: at least 95 % line coverage of every file
	@scripts/unit.sh coverage $(ARGS)

browser: ## report.html in a real headless browser: light, dark, on a phone; screenshots in build/screens/
	@scripts/browser.sh $(ARGS)

pictures: python ## pictures of the report (light, dark, phone) for docs/, from the recorded golden trial
	@scripts/setup.sh --browser
	@python scripts/pictures.py $(ARGS)

readers: python ## promtool and Jenkins' JUnit schema read the exports; fetches both into build/readers
	@scripts/readers.sh $(ARGS)

sanity: python ## ansible-test on the built and installed collection: sanity and units
	@scripts/ansible_test.sh sanity units

# Make's own variable; in the shell that name counts by itself.
fuzz: python ## random bytes and structures over wire, documents, URLs, WAV and hub answers (SECONDS=20)
	@MT_FUZZ_S=$(or $(SECONDS),20) pytest tests/fuzz -q --tb=short $(ARGS)

storm: setup image ## 500 cancels at random moments and 1000 requests with faults, under 5 minutes; build/storm.json
	@pytest tests/storm -q -s $(ARGS)

live: python ## tests on the real gemma.cpp (GEMMA_CPP_BINARY, GEMMA_CPP_WEIGHTS); skipped where there is none
	@pytest tests/live -m live -v -s $(ARGS)

twin-tests: setup image ## tests on a twin: the golden trial, broken contracts, faults (ARGS="tests/twin/golden")
	@pytest $(if $(filter tests/%,$(ARGS)),,tests/twin --ignore=tests/twin/drills) -v -m twin $(ARGS)

# Each worker strikes a twin of its own.
DRILL_WORKERS ?= 2

drills: setup image ## every fault in every phase: the host comes back (DRILL_WORKERS=2; ARGS="-k voice"); build/drills.json
	@pytest tests/twin/drills -q --tb=short -n $(DRILL_WORKERS) --dist load --maxschedchunk 1 \
	    -o console_output_style=classic $(ARGS)

rollback: setup ## does Panda come back? Rehearsal and five drills on a twin of its inventory (build/prove-rollback)
	@cd playbooks && ansible-playbook prove_rollback.yml -i panda \
	    -e prove_rollback_image=$$(python ../images/twin/twin.py base) $(ARGS)

check-host: setup twin-up ## the eight checks as an independent suite, against the twin (build/check-host.xml)
	@cd playbooks && ansible-playbook check_host.yml -i twin $(ARGS)

ground-truth: setup ## is a converted model still the same? Checks the tiny models (ARGS=--shipped: without torch)
	@python scripts/ground_truth.py $(ARGS)

molecule: setup image ## the trial, a rollback and single roles, on their own twin (ARGS="-s rollback")
	@scripts/molecule.sh $(ARGS)

gpu: python ## tests on a real NVIDIA GPU; without one, each test is skipped and says so (figures: build/gpu.xml)
	@pytest tests/gpu -m gpu -v -o junit_family=xunit1 --junitxml=build/gpu.xml $(ARGS)

##@ Measure
.PHONY: bench bench-aa bench-scenes bench-engines bench-report
bench: setup image ## trialbench against a raw socket, httpx and others on one llama-server; build/benchmarks.json
	@python scripts/bench_client.py $(ARGS)
	@$(MAKE) bench-engines ARGS=
	@$(MAKE) bench-report ARGS=

# Its figures must hold with one picture and with several: ARGS=--scenes.
bench-aa: setup image ## a model against itself, and a tenth slower: how often it is "different"; build/bench-aa.json
	@python scripts/bench_aa.py $(ARGS)

bench-scenes: python ## what 60 scenes add to the window, against as many samples of one; build/bench-scenes.json
	@python scripts/bench_scenes.py $(ARGS)

bench-engines: python ## what supervisor and worker add to reading a pipe and to a round trip; build/bench-*.json
	@python scripts/bench_engines.py $(ARGS)
	@python scripts/bench_worker.py

bench-report: python ## a report of 5,000 samples a segment: its time and size against their limits; build/bench-report.json
	@python scripts/bench_report.py $(ARGS)

##@ Keep
.PHONY: format changelog constraints build clean
format: python ## let ruff format the code
	@ruff format . && ruff check --fix .

changelog: python ## write CHANGELOG.md from changelogs/fragments, for the version in galaxy.yml
	@antsibull-changelog release --update-existing --reload-plugins

constraints: python ## resolve again the packages that those in pyproject.toml need
	@python scripts/constraints.py

build: python ## the collection's tarball, in build/dist
	@mkdir -p build/dist && ansible-galaxy collection build --force --output-path build/dist

clean: ## remove what was built here (keeps a running twin, .venv and the results)
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name twin ! -name dockerd.log -exec rm -rf {} +; fi
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .ansible .cache tests/output
