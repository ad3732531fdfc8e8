#!/usr/bin/env bash
# Gradescope calls this once, as root, while it builds the container from the zip (see build.sh).
#
# Makes a virtual environment with the pinned tools and the CPU build of torch, fills mypy's cache
# and grades the reference, which proves that this container reaches LEVEL: if it does not get full
# marks the build fails, rather than every submission. mypy's first run on torch takes 20 s and
# 700 MB, so it runs alone here; with the cache the whole exam takes 620 MB of the 768.
# Base image: one with Python 3.11 or newer, for example Ubuntu 24.04.
set -euo pipefail

AUTOGRADER=${AUTOGRADER:-/autograder}
SOURCE=$AUTOGRADER/source
# shellcheck source=/dev/null
[ ! -f "$SOURCE/settings" ] || . "$SOURCE/settings" # what build.sh was told
REPOSITORY=$SOURCE/minituner
LAB=${LAB:-00}
LEVEL=${LEVEL:-standard}
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

ours() {
  echo "minituner setup: $1" >&2
  exit 2
}

find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

if ! python=$(find_python); then
  apt-get update -q && { apt-get install -qy python3.12-venv || apt-get install -qy python3.11-venv; } ||
    ours "expected Python 3.11 or newer; choose a newer base image (Ubuntu 24.04 has 3.12)"
  python=$(find_python) || ours "expected Python 3.11 or newer with venv, found none"
fi

"$python" -m venv "$SOURCE/venv"
PATH="$SOURCE/venv/bin:$PATH"
torch=$(sed -n 's/^torch==//p' "$REPOSITORY/constraints.txt")
[ -n "$torch" ] || ours "constraints.txt: expected a line torch==VERSION, found none"
# No cache: pip holds a cached wheel in memory, and torch's is 200 MB.
pip() { python -m pip install --quiet --disable-pip-version-check --no-cache-dir "$@"; }
pip --no-deps --index-url "$TORCH_INDEX" "torch==$torch"
pip --constraint "$REPOSITORY/constraints.txt" --editable "$REPOSITORY"

chmod 700 "$REPOSITORY/solutions" "$REPOSITORY/tests" # a second wall: the sandbox is the first
export MALLOC_ARENA_MAX=2 OMP_NUM_THREADS=1
python - "$LAB" <<'WARM' || ours "mypy does not pass the reference"
import sys
from minituner.grading.registry import ROOT, lab
from minituner.grading.tools import check_types
path = ROOT / lab(sys.argv[1]).reference
sys.exit(check_types(path, path.read_text(encoding="utf-8")).outcome != "passed")
WARM
minituner exam "$REPOSITORY/solutions" --lab "$LAB" --require "$LEVEL" --format json \
  --out "$SOURCE/reference.json" || ours "the reference did not get full marks; see above"
echo "minituner setup: the reference gets full marks at level $LEVEL"
