# Every target sets up .venv by itself; set-up is quick when nothing changed.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
READY_DEMO := .venv/.ready-demo
PREPARED := .venv/.prepared-demo
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup setup-demo demo node-demo test test-all check bench bench-transfer docs weights gpu-weights refinement fit stress clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      set up, simulate a patient, read the CT, name the report"
	@echo "make node-demo  start the node beside an Orthanc archive and send a study through both"
	@echo "make test      set up and run the tests (make test-all: the slow ones too)"
	@echo "make check     style, types, import directions, the rules of the house (tools/house.py)"
	@echo "make bench     speed, as ratios of two things in one run"
	@echo "make docs      build the documentation into build/docs"
	@echo "make weights   train the default weights, from the last checkpoint if there is one"
	@echo "make gpu-weights  train the default weights from scratch on a GPU (HEADS: folder of label maps)"
	@echo "make refinement  train what corrects the default weights where the scan is finer than they see; after each training"
	@echo "make fit       fit the prognostic and calibration models of the default weights; after each training"
	@echo "make stress    stress-test the default weights on simulated scans of heads that they never saw"

$(READY): pyproject.toml constraints.txt tools/setup_venv.sh
	PYTHON=$(PYTHON) bash tools/setup_venv.sh
	@touch $@ $(READY_DEMO)

# What the demo needs, without test tools and nnU-Net; done already where everything is set up.
$(READY_DEMO): pyproject.toml constraints.txt tools/setup_venv.sh
	PYTHON=$(PYTHON) bash tools/setup_venv.sh demo
	@touch $@

setup: $(READY)

setup-demo: $(READY_DEMO)

# The last step of the demo's set-up: its head and the compiled networks, so that the demo itself is quick.
$(PREPARED): $(READY_DEMO)
	$(BIN)/python tools/demo.py --prepare
	@touch $@

demo: setup-demo $(PREPARED)
	$(BIN)/python tools/demo.py

node-demo: setup
	$(BIN)/python tools/node_demo.py

test: setup
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: setup
	$(BIN)/pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/house.py

bench: setup
	$(BIN)/python benchmarks/run.py

# MINUTES of training from the last checkpoint; HEADS: a folder of label maps (the MNI head alone without it).
MINUTES ?= 10
weights: setup
	$(BIN)/ichnos train default --minutes $(MINUTES) $(if $(HEADS),--heads $(HEADS))

# The default weights from scratch on one GPU, from prepared label maps.
gpu-weights: setup
	$(BIN)/python -m ichnos.cli.gpu_weights prepare $(HEADS) build/gpu-heads
	$(BIN)/python -m ichnos.cli.gpu_weights train build/gpu-heads -o build/gpu-weights/multi

refinement: setup
	$(BIN)/ichnos train refinement --minutes $(MINUTES) $(if $(HEADS),--heads $(HEADS))

fit: setup
	$(BIN)/ichnos fit default --workers 2 $(if $(HEADS),--heads $(HEADS))

PATIENTS ?= 60
stress: setup
	$(BIN)/ichnos stress default -o build/stress --workers 2 --patients $(PATIENTS) $(if $(HEADS),--heads $(HEADS))

bench-transfer: setup
	$(BIN)/python benchmarks/transfer.py

docs: setup
	$(BIN)/mkdocs build --strict

clean:
	rm -rf build dist demo-out .pytest_cache .mypy_cache .ruff_cache
