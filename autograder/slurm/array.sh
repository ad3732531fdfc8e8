#!/bin/bash
# Grade a folder of submissions as a Slurm job array, then write the summary and the page. Two lines:
#
#   job=$(sbatch --parsable --array=1-40 autograder/slurm/array.sh SUBMISSIONS OUT)
#   sbatch --dependency=afterany:$job --cpus-per-task=1 autograder/slurm/array.sh --merge SUBMISSIONS OUT
#
# Each task of the array grades its own share (--shard i/n, picked by a hash of the name) into
# OUT/results, so SUBMISSIONS and OUT lie on a file system that every node sees. More options of
# `minituner cohort` may follow OUT. A task that is killed, or a node that dies, loses nothing but
# what was under way: submit both lines again, and only what is missing is graded. The merge waits
# with afterany, not afterok: when a task failed, it says what is missing. OUT/report.html is the page.
#
#SBATCH --job-name=minituner
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --output=minituner-%A-%a.log

set -euo pipefail

merge=no
if [[ ${1:-} == --merge ]]; then
  merge=yes
  shift
fi
if (($# < 2)); then
  echo "array.sh: expected [--merge] SUBMISSIONS OUT, got $# arguments; its first lines say how" >&2
  exit 2
fi
submissions=$1
out=$2
shift 2
minituner=${MINITUNER:-minituner} # for example /shared/minituner/.venv/bin/minituner

if [[ $merge == yes ]]; then
  exec "$minituner" cohort "$submissions" --out "$out" --merge "$@"
fi

# An array may begin anywhere and take any step: --array=0-39, --array=10-100:10. Without one there
# is a single share, which writes summary and page itself.
first=${SLURM_ARRAY_TASK_MIN:-1}
share=$(((${SLURM_ARRAY_TASK_ID:-$first} - first) / ${SLURM_ARRAY_TASK_STEP:-1} + 1))

exec "$minituner" cohort "$submissions" --out "$out" \
  --shard "$share/${SLURM_ARRAY_TASK_COUNT:-1}" --jobs "${SLURM_CPUS_PER_TASK:-1}" "$@"
