# Everything here sets itself up: a machine with make and a Python >= 3.11 is enough.
#
#   make run        the gateway with its built-in echo server, on loopback (PORT=6269: another port than 5269)
#   make hello      (in a second terminal) a federation peer says hello to it, each step in words
#   make test       the tests            make lint     ruff and mypy
#   make coverage   the tests, and what they reach
#   make interop    real servers: Prosody behind the gateway and Prosody outside (Debian: installs them; OPENFIRE=FOLDER: an unpacked Openfire too)
#   make bench      what s2sgw, Prosody, ejabberd and xmpp-proxy take for the same work, side by side: 20 minutes (BENCH="--quick", "--rows NAME")
#   make calls      how many functions are called for a handshake and for a stanza: no more than the ceilings (CALLS=--functions: which)
#   make custody    situations in which stanzas could be lost, each on a gateway of its own: 0 lost in each (CUSTODY=name for some)
#   make attack     hostile scripts against a gateway with honest traffic (QUICK=1: half of them; ATTACK=words of titles)
#   make soak       mixed traffic and random faults: nothing may be lost, nothing may grow (MINUTES=5, SEED=…)
#   make crash      the gateway is killed under load again and again; every stanza is accounted for (CYCLES=200)
#   make console-test   the console in a real Chromium (Debian: apt-get install chromium chromium-driver; skipped where it is not)
#   make pictures   the pictures of the console in docs/images, of a gateway that has run for an hour (MINUTES=60)
#   make fuzz       random and mutated input at every door, guided by coverage, for FUZZ_SECONDS in all; then tests/properties, FUZZ_EXAMPLES each
#   make mutants    rules of the wire broken on purpose, in a copy: the tests that claim them must notice (MUTANTS="M3 M11")
#   make certs      a development CA and the certificates of the example domains
#   make floors     the tests, with the oldest libraries that pyproject.toml allows
#   make pythons    the tests, under Python 3.12 to 3.15 where they are here
#   make lock       the locks anew: requirements.lock for deployers, one more for CI, the docs and the release (UPGRADE=1: the newest)
#   make wheel      the wheel of the last commit, built twice, compared, started    make sbom  what is in it, as CycloneDX
#   make deb        a Debian package of it, with its libraries    make readme   README's steps, typed into a scratch machine (root)
#   make docs       the documentation as pages, in build/docs    make container   an image (podman or buildah)
#   make changelog  newsfragments/ moved into CHANGELOG.md (VERSION=X.Y.Z)
#   make audit      known vulnerabilities of what is locked (asks the package index)
#   make clean      back to a fresh clone (development certificates and state included)

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

BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
CERTS := certs/ca/ca.crt
RELEASE := .venv-release/.ready
DOCS := .venv-docs/.ready
PIP_WHEEL = SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run hello test coverage lint floors pythons interop bench calls custody soak attack crash fuzz mutants lock wheel deb readme docs container changelog sbom audit certs clean setup

help:
	@sed -n '3,/^$$/s/^# \{0,3\}//p' Makefile

# The first interpreter that is new enough and can make an environment: PYTHON, the usual names, then what pyenv has.
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

# Developers and CI have exactly what is locked, checked by its hashes.
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
	@echo "      What the gateway is doing. Also: streams, lanes, peers, refusals, certs."
	@echo "Press Ctrl-C to stop it."
	@exec $(BIN)/s2sgw run --config $(RUN_CONFIG)

hello: $(READY) $(CERTS)
	@$(BIN)/python examples/hello.py --gateway 127.0.0.1:$(PORT)

# A warning is an error. (Twisted's own page for what is not there warns of itself. What is not closed is told when the collector finds
# it, in whichever test that is: it is shown.)
WARNINGS := -W error -W ignore:twisted.web.resource._Unsafe:DeprecationWarning -W default::ResourceWarning

test: $(DEV)
	@$(BIN)/python $(WARNINGS) -m twisted.trial --temp-directory=_trial_temp $(TESTS)

# The tests, and how much of the code they reach: less than fail_under in pyproject.toml fails.
coverage: $(DEV)
	@$(BIN)/coverage erase
	@$(BIN)/python $(WARNINGS) -m coverage run -m twisted.trial --temp-directory=_trial_temp $(TESTS)
	@$(BIN)/coverage report > .coverage.txt; status=$$?; tail -n 25 .coverage.txt; exit $$status

lint: $(DEV)
	@status=0; $(BIN)/ruff check . || status=1; $(BIN)/mypy || status=1; exit $$status

# The tests with exactly the oldest releases that pyproject.toml allows.
floors: $(DEV)
	@$(BIN)/python -m venv .venv-floors
	@sed -n '/^dependencies/,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' pyproject.toml > .venv-floors/floors.txt
	@.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-floors/floors.txt 'hypothesis>=6.100' 'lxml>=5.2'
	@PYTHONPATH=$(CURDIR) .venv-floors/bin/python -m twisted.trial --temp-directory=_trial_temp_floors $(TESTS)

# The tests under every other Python that is here (by name, or by pyenv); NEWEST=1: under the newest of them.
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
	@$(BIN)/python -m benchmarks --json build/bench.json $(BENCH)

calls: $(DEV)
	@$(BIN)/python -m benchmarks.calls $(CALLS)

custody: $(DEV)
	@$(BIN)/python -m tests.durability.custody $(CUSTODY)

attack: $(DEV)
	@$(BIN)/python -m tests.attack $(if $(QUICK),--quick) $(ATTACK)

soak: $(DEV)
	@$(BIN)/python -m tests.durability.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

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

# For every Python and platform at once; --no-emit-index-url: whoever installs uses an index of their own.
lock: $(RELEASE)
	@for kind in '' dev docs release; do \
	  .venv-release/bin/uv pip compile pyproject.toml $${kind:+--extra $$kind} --output-file requirements$${kind:+-$$kind}.lock \
	    --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) || exit 1; \
	done

# Two builds of the last commit, in two places, at two times, with two umasks: byte for byte the same, or it fails.
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

# The package is for the Debian on which it is built. CHECK=1: built once more, with another umask, and compared.
deb: wheel
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python packaging/debian/build.py build/wheel/out-one/*.whl build/deb
	@[ -z "$(CHECK)" ] || { umask 077; SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) TZ=Pacific/Auckland \
	  $(BIN)/python packaging/debian/build.py build/wheel/out-one/*.whl build/deb-again; cmp build/deb/*.deb build/deb-again/*.deb; }
	@rm -f dist/*.deb; cp build/deb/*.deb dist/; sha256sum dist/*.deb

changelog: $(DEV)
	@$(BIN)/python packaging/changelog.py $(VERSION)

# By the first of the two builders that is here. (The health check needs docker's format.)
container:
	@for builder in podman buildah; do \
	  command -v $$builder >/dev/null && exec $$builder build --format docker --ignorefile .containerignore --file Containerfile --tag s2sgw .; \
	done; echo "neither podman nor buildah is here: no image is built"

readme: deb
	@$(BIN)/python -m tests.install $(README)

$(DOCS): requirements-docs.lock | $(BIN)/python
	@$(BIN)/python -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-docs.lock
	@touch $@

# A warning is an error: a link to a page or a heading that does not exist, a page that no other one lists.
docs: $(DOCS)
	@rm -rf build/docs
	@PYTHONPATH=. .venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/docs
	@echo "build/docs/index.html: $$(ls build/docs/*.html | wc -l) pages"

# What a deployer installs by requirements.lock, with versions, hashes, licences and who needs what.
sbom: $(RELEASE) requirements.lock
	@rm -rf .venv-deployed && $(BIN)/python -m venv --without-pip .venv-deployed && mkdir -p dist
	@.venv-release/bin/python -m pip --python .venv-deployed/bin/python install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@.venv-release/bin/cyclonedx-py environment .venv-deployed/bin/python --pyproject pyproject.toml --output-reproducible --gather-license-texts \
	  --output-format JSON --output-file dist/s2sgw.cdx.json
	@echo "dist/s2sgw.cdx.json: $$(grep -c '"purl"' dist/s2sgw.cdx.json) components"

# The advisories are the package index's: without them nothing is known, and that is said, not passed over.
audit: $(RELEASE)
	@mkdir -p build; .venv-release/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip --progress-spinner off --format json > build/audit.json; \
	status=$$?; .venv-release/bin/python -m tests.project.audit build/audit.json || exit 1; exit $$status

clean:
	@rm -rf .venv .venv-* build dist _trial_temp* .coverage* htmlcov .mypy_cache .ruff_cache .hypothesis twistd.log twistd.pid
	@rm -rf certs/ca certs/gateway certs/peer examples/state examples/echo-*.toml twisted/plugins/dropin.cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
