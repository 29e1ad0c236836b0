# make app    set up, open the dashboard on the records that come along; the demo run trains meanwhile where there is none
# make test   set up, then every test
# make check  lint, format, types
# make samples   the records that come along, made anew
# make test-qlora    the tests of quantised models, with bitsandbytes beside the environment
# make test-oldest   the tests of what meets transformers and peft, with the oldest of these that were tried

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8501
RUNS_DIR ?= runs
BIN := $(VENV)/bin

.PHONY: app test test-qlora test-oldest check browser samples clean

app: $(VENV)/.installed
	ORTHO_LORA_RUNS_DIR="$(RUNS_DIR)" $(BIN)/python -m app --demo --server.port $(PORT)

samples: $(VENV)/.installed
	$(BIN)/python docs/samples.py

test: $(VENV)/.installed-dev browser
	$(BIN)/python -m ortho_lora assets --all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 4 --dist worksteal

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test-qlora: $(VENV)/qlora/.installed
	PYTHONPATH=$(VENV)/qlora OMP_NUM_THREADS=1 $(BIN)/python -m pytest -k "qlora or QLoRA" tests/surgery tests/test_examples.py

# The other tests of surgery are of torch alone, of which there is one version.
TUNED := $(addprefix tests/surgery/test_,architectures.py distributed.py sketched.py surgeon.py surgeon_conditions.py surgeon_made.py tuned_models.py)
test-oldest: $(VENV)-oldest/.installed
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest --numprocesses auto --maxprocesses 4 tests/trainers $(TUNED)

# Set-up runs again only when a requirements file has changed.
$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-rules.txt requirements-gguf.txt requirements-ray.txt requirements-trl.txt requirements-tensorboard.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(VENV)/qlora/.installed: requirements-qlora.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/qlora -r requirements-qlora.txt
	touch $@

$(VENV)-oldest/.packages: requirements-oldest.txt
	test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-oldest.txt
	touch $@

$(VENV)-oldest/.installed: pyproject.toml $(VENV)-oldest/.packages
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Without a browser the browser tests say so and are skipped; in CI they fail.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then \
		sudo apt-get update -qq && sudo apt-get install -y -qq chromium >/dev/null; \
	else echo "no Chrome or Chromium found: the browser tests will be skipped"; fi

clean:
	rm -rf $(VENV) $(VENV)-oldest .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
