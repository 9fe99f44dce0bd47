# `make demo` and `make test` need Python >= 3.11 and nothing else; both make the environment in .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
CLUSTER := $(VENV)/cluster/.ready

# Where Python keeps no compiled modules, each process would compile thousands of them again: seconds of each start.
ifdef PYTHONDONTWRITEBYTECODE
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/compiled
endif

.PHONY: demo test check lint types docs faults faults-more faults-short test-cluster test-cluster-short mutants mutants-short test-versions typed requirements results bench gpu-bundle clean

demo: $(READY)
	$(BIN)/python sweeps/digits.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: lint types docs test

# 200 SIGKILLs of live sweeps, each followed by a resume; goes on where it was interrupted, below 90 minutes on 2 cores.
faults: $(READY)
	$(BIN)/python tests/faults/suite.py --folder results/faults --write docs/reliability.md

# What else a store has to withstand: an object store that fails, a full disk, lost nodes, damaged objects.
faults-more: $(READY)
	$(BIN)/python tests/faults/s3.py
	$(BIN)/python tests/faults/full_disk.py
	$(BIN)/python tests/faults/full_disk.py --local
	$(BIN)/python tests/faults/nodes.py
	$(BIN)/python tests/faults/flips.py

# The short forms that CI runs. Where hosts cannot be made (it takes root, openssh-server, rsync, iproute2),
# tests/cluster/suite.py runs tests/faults/nodes.py in their place.
faults-short: $(READY) $(CLUSTER)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long -n 2 --dist loadfile
	$(BIN)/python tests/faults/suite.py --rounds 1
	$(BIN)/python tests/faults/s3.py --short
	$(BIN)/python tests/faults/full_disk.py --local
	$(BIN)/python tests/faults/full_disk.py --stages commit comparison
	OMP_NUM_THREADS=1 $(BIN)/python tests/cluster/suite.py --short
	$(BIN)/python tests/faults/flips.py --flips 100 --losses 20 --repairs 2

# Three hosts as namespaces, a cluster of them by `ray up`, and sweeps while hosts and cables go. It takes root,
# openssh-server, rsync and iproute2. The short form says what is missing, and runs tests/faults/nodes.py instead.
test-cluster: $(READY) $(CLUSTER)
	$(BIN)/python tests/cluster/suite.py

test-cluster-short: $(READY) $(CLUSTER)
	OMP_NUM_THREADS=1 $(BIN)/python tests/cluster/suite.py --short

# Mistakes made on purpose, one at a time: for each a test must fail. About 40 minutes on 2 cores.
mutants: $(READY)
	$(BIN)/python tests/mutants/run.py --write docs/mutants.md

# The short form that CI runs: twelve of them.
mutants-short: $(READY)
	$(BIN)/python tests/mutants/run.py --sample 12

# Python 3.11 to 3.14, and the oldest libraries that pyproject.toml allows. Several GB of downloads; not in CI.
test-versions: $(READY)
	$(BIN)/python tests/versions.py

# What README.md and docs/start.md say, typed in an empty HOME: from a clone, and from the wheel. Several GB; not in CI.
typed: $(READY)
	$(BIN)/python tests/typed.py

# The pinned versions with the SHA-256 of every file: again whenever constraints.txt or the extras change. all.txt is the
# extra `all`; cluster.txt what the machines of a cluster have; uv.txt what installs it there.
LOCK = $(BIN)/uv pip compile --quiet -c constraints.txt --generate-hashes --no-header --no-annotate \
  --no-emit-index-url --python-version 3.11 --python-platform x86_64-manylinux_2_28
requirements: $(READY)
	$(LOCK) pyproject.toml --extra all -o requirements/all.txt
	$(LOCK) pyproject.toml requirements/cluster.in --extra all --extra gpu -o requirements/cluster.txt
	echo uv | $(LOCK) - -o requirements/uv.txt

# Hours: bench/*.py --help says how to measure less, and how to write the tables of docs/benchmarks.md.
# Rebuild the figures, claims and tables of docs/replication.md from results/published.
results: $(READY)
	$(BIN)/python bench/replication.py

bench: $(READY)
	$(BIN)/python bench/training.py
	$(BIN)/python bench/metrics.py --no-peers

# What a bare GPU machine lacks, in .gpu/: IMAGES is a folder of images, or an archive of one. There: bench/gpu/run.sh.
gpu-bundle:
	PYTHON=$(PYTHON) bash bench/gpu/bundle.sh

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

# The documentation as a site, in .site/: open .site/index.html. A link to nothing, or a page left out, is an error.
docs: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# uv installs in a fraction of pip's time; where it cannot (an index that only pip is configured for), pip does the same.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'distsim needs Python 3.11 or newer, this is ' + sys.version.split()[0]"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv -c constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]' -c constraints.txt \
	  || $(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $(READY)

# What `ray up` needs, beside the environment and not in it: the other tests run without it.
$(CLUSTER): requirements/cluster.txt $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(VENV)/cluster 'ray[default]' -c requirements/cluster.txt
	touch $(CLUSTER)

clean:
	rm -rf $(VENV)
