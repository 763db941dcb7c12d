# make run    installs the app into .venv and starts it; a second start installs nothing
# make test   installs what the tests need as well, checks style and types, and runs every test
# make test-others  does the same, and before it runs the tests that train under two other arithmetics
# make test-cluster  installs Ray and runs the tests of trainings on a cluster, which those above leave out
# make test-all  all of them, but under one other arithmetic, those on a cluster last
# make audit  asks a public database whether a dependency has a known weakness
# make lock   writes the hashes of what the container installs, and whose software that is
# make words  gathers the texts for translators (gradviz/locale); compiles the translations
# make plotly finds what browsers need of plotly.js, after another version of it has been pinned
# make wheel  builds dist/gradviz_lab-….whl, which carries the pages too
# make base   writes the digest of today's base image into the Dockerfile; needs Docker and its registry
# Plain sh and make 3.81 (macOS). Another Python: make run PYTHON=python3.12. PyTorch for processors or an NVIDIA card, as is
# here; otherwise: make run TORCH=cpu, or cuda. On Windows run.cmd is make run.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV = .venv
BIN = $(VENV)/bin
TORCH ?= auto
INSTALL = $(BIN)/python deploy/install.py --torch $(TORCH)

.PHONY: help run test test-others test-cluster test-all audit lock words plotly wheel base install clean

help:
	@sed -n 's/^# //p' Makefile

run: $(VENV)/app.stamp $(VENV)/words.stamp
	@exec $(BIN)/python -m streamlit run app.py

test test-others test-all: $(VENV)/app.stamp $(VENV)/words.stamp $(VENV)/tests.stamp
	@$(BIN)/python tests/chromium.py
	@$(BIN)/ruff check
	@$(BIN)/mypy --num-workers auto
	@exec $(BIN)/python tests/parts.py $(if $(filter test,$@),,--$(@:test-%=%))

test-cluster: $(VENV)/app.stamp $(VENV)/words.stamp $(VENV)/tests.stamp
	@exec $(BIN)/python tests/parts.py --cluster

audit: $(VENV)/app.stamp
	@$(BIN)/python tests/audit.py

lock: $(VENV)/app.stamp
	@$(BIN)/python deploy/lock.py

words: $(VENV)/app.stamp
	@$(BIN)/python tests/catalogues.py
	@$(BIN)/pybabel --quiet compile -d gradviz/locale -D gradviz

plotly: $(VENV)/app.stamp
	@$(BIN)/python tests/plotly_cut.py

wheel: $(VENV)/app.stamp $(VENV)/tests.stamp
	@$(BIN)/python -m build --quiet --wheel --no-isolation

base:
	@name=$$(sed -n 's/^ARG BASE=\([^@]*\).*/\1/p' Dockerfile) && \
	digest=$$(docker buildx imagetools inspect "$$name" --format '{{.Manifest.Digest}}') && \
	sed "s|^ARG BASE=.*|ARG BASE=$$name@$$digest|" Dockerfile >Dockerfile.new && mv Dockerfile.new Dockerfile && \
	grep '^ARG BASE=' Dockerfile

install: $(VENV)/app.stamp $(VENV)/words.stamp

clean:
	rm -rf $(VENV)

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "gradviz needs Python 3.11 or newer; install it, or name it: make run PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu install its venv module first: apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# A stamp is newer than its requirements exactly when they are installed.
$(VENV)/app.stamp: requirements.txt constraints.txt | $(VENV)/pyvenv.cfg
	@$(INSTALL) requirements.txt
	@touch $@

$(VENV)/tests.stamp: requirements-dev.txt constraints.txt | $(VENV)/app.stamp
	@$(INSTALL) requirements-dev.txt
	@touch $@

$(VENV)/words.stamp: $(wildcard gradviz/locale/*/LC_MESSAGES/*.po) | $(VENV)/app.stamp
	@$(BIN)/pybabel --quiet compile -d gradviz/locale -D gradviz
	@touch $@
