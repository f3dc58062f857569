# make train   the main job                     make train ARGS="encoder=conv latent_dim=16"
# make test    the fast tests                   make test ARGS="-m slow"
# Either sets up .venv first, once, and again when the lock or pyproject.toml changes.

PYTHON ?= python3
ARGS ?=
export PYTHON
STAMP := .venv/.stamp

.PHONY: help setup train test lint format types lock clean FORCE

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' Makefile | awk -F '|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo '  ARGS="..." goes to the command behind the target; PYTHON=... makes .venv with another Python 3.11 to 3.14'

setup: $(STAMP) ## .venv with the locked versions, and nothing else
	@echo ".venv is ready"

train: $(STAMP) ## set up if need be, then: vae-train experiment=quickstart $(ARGS)
	@exec .venv/bin/vae-train $(if $(findstring experiment=,$(ARGS)),,experiment=quickstart) $(ARGS)

test: $(STAMP) ## set up if need be, then: pytest $(ARGS)
	@exec .venv/bin/pytest $(ARGS)

lint: $(STAMP) ## ruff: rules and format, nothing is changed
	@.venv/bin/ruff check $(ARGS)
	@exec .venv/bin/ruff format --check

format: $(STAMP) ## ruff: mends what it can, formats
	@.venv/bin/ruff check --fix $(ARGS)
	@exec .venv/bin/ruff format

types: $(STAMP) ## pyright
	@exec env PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright $(ARGS)

lock: ## new lock from pyproject.toml; ARGS="--upgrade" moves every version
	@exec scripts/lock.sh $(ARGS)

clean: ## remove .venv and caches; logs/ stays
	@rm -rf .venv build dist .pytest_cache .ruff_cache
	@find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml requirements/bootstrap.txt requirements/lock.txt
	@exec sh scripts/setup.sh

# the stamp holds the folder that .venv was made in: a copied or moved checkout sets itself up again
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif
FORCE:
