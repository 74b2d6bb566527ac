# Everything runs in .venv, made on first use from Python 3.11 or newer; nothing else is needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types docs screenshots bench clean s3-server

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed

demo: .venv/installed
	rm -rf demo
	$(BIN)/summer-prep demo-data demo/nwb
	$(BIN)/summer-prep build --data-dir demo/nwb --cache-dir demo/data_cache
	$(BIN)/summer-prep inspect --cache-dir demo/data_cache
	$(BIN)/summer-prep inspect 14 --cache-dir demo/data_cache --picture demo/inspect.png \
		--html demo/patient-14.html > demo/inspect.txt
	$(BIN)/summer-train fit --data-dir demo/nwb --cache-dir demo/data_cache --output-dir demo/lightning_logs
	$(BIN)/summer-train fit --task label --data-dir demo/nwb --cache-dir demo/data_cache \
		--output-dir demo/lightning_logs --picture demo/learning_curve.png
	$(BIN)/summer-train study --data-dir demo/nwb --cache-dir demo/data_cache --output-dir demo/study \
		--label-name summer,office,tom-faces,persons --fold 1-5 --buffer 10 --patience 3 --keep-predictions
	$(BIN)/summer-train report demo/study
	$(BIN)/summer-train report demo/study --html demo/study.html
	@echo "pictures: demo/inspect.png demo/learning_curve.png demo/study/report/labels.png"
	@echo "to open in a browser: demo/patient-14.html demo/study.html"

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/installed
	$(BIN)/mypy

# The documentation, in docs/_build; a warning is an error.
docs: .venv/docs-installed
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	touch .venv/docs-installed

# What the tests of pages see, for people to look at.
screenshots: .venv/installed
	mkdir -p demo/screenshots
	SUMMER_SCREENSHOTS=$(CURDIR)/demo/screenshots $(BIN)/python -m pytest -q tests/summer_prep/test_page.py \
		tests/summer_train/test_report_page.py

bench: .venv/installed
	$(BIN)/python benchmarks/build.py

# A real S3 server for the tests of caches in buckets, which are skipped without it; its needs clash with ours.
s3-server: .s3-server/installed

.s3-server/installed:
	$(PYTHON) -m venv .s3-server
	.s3-server/bin/python -m pip install --quiet --disable-pip-version-check 'moto[server,s3]==5.2.*'
	touch .s3-server/installed

clean:
	rm -rf .venv .s3-server demo build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
