# Everything here sets itself up: a machine with make and a Python >= 3.11 is enough.
#
#   make run        the gateway with its built-in echo server, on loopback (PORT=6269: another port than 5269)
#   make hello      (in a second terminal) a federation peer says hello to it, each step in words
#   make test       the tests            make lint     ruff and mypy
#   make coverage   the tests, and what they reach
#   make interop    real servers: Prosody behind the gateway and Prosody outside (Debian: installs them)
#   make bench      stanzas a second, beside Prosody and ejabberd; a million stanzas in the spool; the first message to a cold peer
#   make custody    situations in which stanzas could be lost, each on a gateway of its own: 0 lost in each (CUSTODY=name for some)
#   make crash      the gateway is killed under load again and again; every stanza is accounted for (CYCLES=200)
#   make fuzz       the framer and the addresses under Hypothesis, a lane against its model, for FUZZ_EXAMPLES
#   make certs      a development CA and the certificates of the example domains
#   make floors     the tests, with the oldest libraries that pyproject.toml allows
#   make pythons    the tests, under Python 3.12 and 3.13 where they are here
#   make clean      back to a fresh clone (development certificates and state included)

PYTHON ?= python3
VENV ?= .venv
PORT ?= 5269
RUN_CONFIG := $(if $(filter 5269,$(PORT)),examples/echo.toml,examples/echo-$(PORT).toml)
HELLO_PORT := $(if $(filter 5269,$(PORT)),, PORT=$(PORT))
FUZZ_EXAMPLES ?= 20000
CYCLES ?= 200
TESTS ?= tests.unit tests.integration tests.properties tests.project
INTEROP ?=
CUSTODY ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
CERTS := certs/ca/ca.crt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run hello test coverage lint floors pythons interop bench custody crash fuzz certs clean setup

help:
	@sed -n '3,/^$$/s/^# \{0,3\}//p' Makefile

# The first interpreter that is new enough and can make an environment: PYTHON, the usual names, then what pyenv has.
$(BIN)/python:
	@found=; \
	for candidate in "$(PYTHON)" python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3 \
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

$(DEV): pyproject.toml | $(BIN)/python
	@$(PIP) --editable '.[dev]'
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

test: $(DEV)
	@$(BIN)/python -m twisted.trial --temp-directory=_trial_temp $(TESTS)

coverage: $(DEV)
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m twisted.trial --temp-directory=_trial_temp $(TESTS)
	@$(BIN)/coverage report

lint: $(DEV)
	@status=0; $(BIN)/ruff check . || status=1; $(BIN)/mypy || status=1; exit $$status

# The tests with exactly the oldest releases that pyproject.toml allows.
floors: $(DEV)
	@$(BIN)/python -m venv .venv-floors
	@sed -n '/^dependencies/,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' pyproject.toml > .venv-floors/floors.txt
	@.venv-floors/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-floors/floors.txt 'hypothesis>=6.100'
	@.venv-floors/bin/python -m twisted.trial --temp-directory=_trial_temp_floors $(TESTS)

# The tests under every other Python that is here (by name, or by pyenv).
pythons:
	@status=0; for version in 3.12 3.13; do \
	  found=; for candidate in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version*/bin/python3; do \
	    "$$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1 && found=$$candidate && break; \
	  done; \
	  if [ -z "$$found" ]; then echo "Python $$version: not here"; continue; fi; \
	  echo "Python $$version: $$found"; \
	  $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON="$$found" || status=1; \
	done; exit $$status

interop: $(DEV)
	@$(BIN)/python -m tests.interop $(INTEROP)

bench: $(DEV)
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.single
	@$(BIN)/python -m benchmarks.size
	@$(BIN)/python -m benchmarks.cold

custody: $(DEV)
	@$(BIN)/python -m tests.durability.custody $(CUSTODY)

crash: $(DEV)
	@status=0; $(BIN)/python -m tests.durability.crash --cycles $(CYCLES) || status=1; $(BIN)/python -m tests.durability.restarts || status=1; exit $$status

fuzz: $(DEV)
	@FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m twisted.trial --temp-directory=_trial_temp_fuzz tests.properties

clean:
	@rm -rf .venv .venv-* build dist _trial_temp* .coverage* htmlcov .mypy_cache .ruff_cache .hypothesis twistd.log twistd.pid
	@rm -rf certs/ca certs/gateway certs/peer examples/state examples/echo-*.toml twisted/plugins/dropin.cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
