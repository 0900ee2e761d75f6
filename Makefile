# `make demo` and `make test` do all set-up themselves, from a bare clone.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test slow lint clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/latentia fit --model VAE --data digits --out runs/demo --model.latent 8 --learner.epochs 400 --learner.lr 0.002 \
	    --learner.schedule cosine --learner.patience 60 --evaluation false
	$(BIN)/latentia evaluate runs/demo --importance_samples 1000
	$(BIN)/latentia report runs/demo

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

slow: $(READY)
	$(BIN)/pytest -m slow -q

clean:
	rm -rf .venv runs build *.egg-info
