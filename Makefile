# Each target does everything that it needs on a fresh machine, and is quick the second time.

PYTHON ?= python3
# The CPU build where the index has one under this version; set TORCH=torch for the platform's default (CUDA on Linux).
TORCH ?= torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet "$(TORCH)"
	$(RUN) -m pip install --quiet --editable ".[dev]"
	@touch $@

install: $(VENV)/installed ## build .venv with everything

TEACHER := runs/quickstart_teacher/version_0/export/model.safetensors
STUDENT := runs/quickstart/version_0/export/model.safetensors

$(TEACHER): | $(VENV)/installed
	$(RUN) train.py fit --config configs/experiments/quickstart_teacher.yaml --version 0 --ckpt_path last

$(STUDENT): | $(VENV)/installed $(TEACHER)
	$(RUN) train.py fit --config configs/experiments/quickstart.yaml --version 0 --ckpt_path last

quickstart: $(STUDENT) ## pretrain a dense teacher and an 80 % sparse student on text that is already there
	@$(RUN) report.py runs/quickstart_teacher runs/quickstart

results: | $(VENV)/installed ## the protocol of the results page at toy size: tune, pretrain, distil, finetune
	$(RUN) sweep.py --config configs/protocols/results.yaml --quick
	@$(RUN) report.py page runs/results_toy

docs: $(VENV)/installed ## build the documentation into .cache/site, strictly
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

pictures: $(VENV)/installed ## draw the pictures of the documentation anew
	$(RUN) docs/pictures.py

notebook: $(VENV)/installed ## write notebooks/quickstart.ipynb from the text beside it
	$(VENV)/bin/jupytext --quiet --to ipynb notebooks/quickstart.py

lint: $(VENV)/installed ## lint, format, spelling, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy

test: lint docs ## run every check: lint, format, spelling, types, documentation, tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --max-worker-restart 0 -m "not realdata"
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m realdata # hundreds of steps of a real encoder, in a process of their own

tensorboard: $(VENV)/installed ## show all runs at http://localhost:6006
	$(VENV)/bin/tensorboard --logdir runs

.PHONY: help install quickstart results docs pictures notebook lint test tensorboard
.DEFAULT_GOAL := help
