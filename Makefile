# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo test test-long bench lint clean

demo: $(VENV)/.runtime
	rm -rf runs/demo
	$(PY) main.py --demo
	$(PY) test_code.py runs/demo/fold_0.pt --show-errors
	@echo "ages in your own photographs: $(PY) predict.py PHOTO"

test: $(VENV)/.dev lint
	$(PY) -m pytest

# An hour and a half: thirty killed scripts, three hundred sequences of what happens to a run, ten thousand broken files.
test-long: $(VENV)/.dev
	$(PY) benchmarks/kill_test.py
	$(PY) benchmarks/run_machine.py
	$(PY) benchmarks/mutation_test.py

# Twelve minutes on two cores: how fast each stage is here; the table.
bench: $(VENV)/.runtime
	$(PY) benchmarks/throughput.py

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) runs cache demo_faces .demo_faces.lock .pytest_cache .ruff_cache .hypothesis
