# Every target first creates what it needs: a virtual environment with pinned packages in .venv.

PYTHON ?= python3
OUT ?= runs/demo
DATA ?=
MODEL ?= shapes
MODELS ?=
SPLIT ?=
RUN ?=
STORE ?=
SEEDS ?=
STEPS ?=
JOBS ?=
SECONDS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/pytest

# One thread per process: the tests are many small operations on few cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo ablations evaluate eval-reasonseg eval-refcoco eval-grefcoco eval-general eval-routing eval-cost eval-ablations eval-all test test-fast test-slow test-page test-lmms test-lowest soak gpu-report smoke-full-size check lint types docs format clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18
	@echo "Settings: PYTHON=$(PYTHON) (3.11 or newer), OUT=$(OUT), DATA=, SPLIT=, RUN=, STORE="

setup: $(STAMP)  ## Create .venv with the packages of requirements.txt (about 6.5 GB).

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lens-cache needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing requirements.txt into $(VENV); a few minutes the first time"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt 2> $(VENV)/pip.log \
	  || { cat $(VENV)/pip.log >&2; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation \
	  -e . 2> $(VENV)/pip.log || { cat $(VENV)/pip.log >&2; exit 1; }
	@touch $@

demo: $(STAMP)  ## Run all steps on drawn shapes, with a page in OUT=; with DATA= on photographs (COCO).
	@$(BIN)/lens-cache demo --out '$(OUT)' $(if $(DATA),--data '$(DATA)') $(if $(SPLIT),--split '$(SPLIT)')

ablations: OUT = runs/ablations
ablations: $(STAMP)  ## Run the paper's ablations on the world of shapes; SEEDS= (3), STEPS=, JOBS= at a time.
	@$(BIN)/lens-cache ablations '$(OUT)' -c configs/sweeps/ablations.yaml \
	  $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(STEPS),--steps '$(STEPS)') \
	  $(if $(JOBS),--jobs '$(JOBS)')

evaluate: $(STAMP)  ## Evaluate RUN= on a SPLIT= of STORE=.
	@test -n '$(RUN)' -a -n '$(STORE)' -a -n '$(SPLIT)' || { \
	  echo "make evaluate: give RUN=, STORE= and SPLIT=" >&2; exit 2; }
	@$(BIN)/lens-cache evaluate '$(RUN)' --store '$(STORE)' --split '$(SPLIT)'

# The tables of the paper. By default on drawn shapes, with the head of the package; on LISA's folder
# of datasets with DATA=, the frozen models in MODELS= and the head in RUN= or MODEL=.
EVAL := runs/eval
METHOD = $(if $(RUN),'$(RUN)',--model '$(MODEL)')
ifeq ($(DATA),)
SOURCE = -c shapes --set 'data.root=$(EVAL)/world'
WORLD := $(EVAL)/world
BENCHMARKS := $(EVAL)/benchmarks
else
SOURCE = -c configs/extract/lisa.yaml --set 'data.root=$(DATA)' --set "data.lisa.sets=[$$split]" \
  $(if $(MODELS),--set 'encoders.root=$(MODELS)')
BENCHMARKS := $(DATA)
endif

# $(1): the table; $(2): splits of its benchmark; $(3): splits of the world of shapes.
define table
@set -e; folders=; for split in $(if $(DATA),$(2),$(3)); do \
  out="$(EVAL)/$(1)/$$(echo "$$split" | tr '|' '-')"; folders="$$folders $$out"; \
  $(BIN)/lens-cache evaluate $(METHOD) --split "$$split" --panels 0 $(SOURCE) --out "$$out"; \
done; $(BIN)/lens-cache table $(1) $$folders --out $(EVAL)/tables
endef

$(EVAL)/world: | $(STAMP)
	@$(BIN)/lens-cache data shapes $@ --train 0 --val 150 --test 200 --hard 150 --absent 100

$(EVAL)/benchmarks: | $(STAMP)
	@$(BIN)/lens-cache data shapes-benchmarks $@

eval-reasonseg: $(STAMP) $(WORLD)  ## Table of ReasonSeg; on shapes, or with DATA= RUN= MODELS=.
	$(call table,reasonseg,'reason_seg|val' 'reason_seg|test',val test)

eval-refcoco: $(STAMP) $(WORLD)  ## Table of RefCOCO(+/g); on shapes, or with DATA= RUN= MODELS=.
	$(call table,refcoco,'refcoco|val' 'refcoco|testA' 'refcoco|testB' 'refcoco+|val' 'refcoco+|testA' \
	  'refcoco+|testB' 'refcocog|val' 'refcocog|test',val test hard)

eval-grefcoco: $(STAMP) $(WORLD)  ## Table of gRefCOCO, with absent targets; on shapes, or with DATA= RUN= MODELS=.
	$(call table,grefcoco,'grefcoco|val' 'grefcoco|testA' 'grefcoco|testB',absent)

eval-general: $(STAMP) $(BENCHMARKS)  ## Table of MME, MMBench, MMMU, MMStar; DATA= has their TSV files.
	@$(BIN)/lens-cache general $(BENCHMARKS)/M*.tsv --model '$(MODEL)' --out $(EVAL)/general
	@$(BIN)/lens-cache table general $(EVAL)/general --out $(EVAL)/tables

eval-routing: $(STAMP) $(BENCHMARKS)  ## Which requests the agent takes for what; DATA= has routing.jsonl.
	@$(BIN)/lens-cache routing $(BENCHMARKS)/routing.jsonl --model '$(MODEL)' --out $(EVAL)/routing
	@$(BIN)/lens-cache table routing $(EVAL)/routing --out $(EVAL)/tables

eval-cost: $(STAMP)  ## Table of costs: memory, device time, bytes; on shapes, or with STORE= RUN=.
	@$(BIN)/lens-cache benchmark cost $(if $(STORE),--store '$(STORE)') \
	  $(if $(RUN),--run '$(RUN)',--model '$(MODEL)') --out $(EVAL)/cost
	@$(BIN)/lens-cache table cost $(EVAL)/cost --out $(EVAL)/tables

eval-ablations: OUT = runs/ablations
eval-ablations: ablations  ## The paper's ablations, and its own rows; SEEDS=, STEPS=, JOBS=.
	@$(BIN)/lens-cache table ablations '$(OUT)' --out $(EVAL)/tables

eval-all: eval-reasonseg eval-refcoco eval-grefcoco eval-general eval-routing eval-cost  ## All tables that take minutes.

test: check  ## Run lint, types and all tests except the slow ones, in WORKERS= (2) processes.
	@$(PYTEST) -n '$(WORKERS)' --dist loadfile -m "not slow and not full_size and not page and not lmms"

test-fast: $(STAMP)  ## Run the unit tests.
	@$(PYTEST) -q tests/unit

test-slow: $(STAMP)  ## Run the slow tests.
	@$(PYTEST) -m "slow and not full_size and not page and not lmms"

test-page: $(STAMP)  ## Test the page of the server in Chromium (apt-get install chromium); screenshots in runs/page.
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  echo "make test-page: needs chromium; run: apt-get install chromium" >&2; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check playwright
	@$(PYTEST) -m page -W default tests/page

test-lmms: $(STAMP)  ## Test the plug-in of lmms-eval with its real package, in .venv-lmms.
	@test -x .venv-lmms/bin/python || $(BIN)/python -m venv .venv-lmms
	@cd .venv-lmms/lib/python3.*/site-packages && \
	  $(CURDIR)/$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > lens_cache_venv.pth
	@.venv-lmms/bin/python -m pip install -q --disable-pip-version-check --no-deps 'lmms-eval>=0.7.3'
	@.venv-lmms/bin/python -m pip install -q --disable-pip-version-check accelerate evaluate loguru sacrebleu
	@.venv-lmms/bin/python -m pytest -m lmms -W default tests/lmms

test-lowest:  ## Run the unit tests with the lowest versions that pyproject.toml admits, in .venv-lowest.
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install -q --disable-pip-version-check uv
	@.venv-lowest/bin/uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	@.venv-lowest/bin/python -m pytest -q -W default tests/unit

soak: OUT = runs/soak
soak: $(STAMP)  ## Disturb extractions at random for SECONDS= (600) and compare their stores.
	@$(BIN)/python -m tests.faults.soak --out '$(OUT)' $(if $(SECONDS),--seconds '$(SECONDS)')

gpu-report: OUT = runs/gpu-report
gpu-report: $(STAMP)  ## Measure both phases on a GPU at full size into OUT=; on a CPU at tiny size.
	@$(BIN)/lens-cache benchmark gpu --out '$(OUT)'

smoke-full-size: $(STAMP)  ## Test LLaVA-1.5-7B and SAM ViT-H with random weights; needs a large machine.
	@$(PYTEST) -m full_size

check: lint types  ## Run lint and types.

lint: $(STAMP)  ## Check rules and formatting with ruff.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)  ## Check types with mypy --strict.
	@$(BIN)/mypy

docs: $(STAMP)  ## Generate docs/settings.md and build the documentation strictly, into site/.
	@$(BIN)/lens-cache config docs > docs/settings.md
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)  ## Fix rules and formatting with ruff.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove the environment, caches, site/ and runs/demo.
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis site runs/demo
	find lens_cache pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +
