#!/usr/bin/env bash
# Builds the zip to upload to Gradescope (Configure Autograder, Zip file upload):
#   [LAB=00] [LEVEL=standard] [MINITUNER_LANG=en] autograder/gradescope/build.sh [OUT.zip]
# At its root setup.sh, run_autograder and the settings, in minituner/ the repository as last
# committed: what is not committed does not grade. In the assignment set 100 points and a base image
# with Python 3.11 or newer. MINITUNER_LANG=es gives feedback in Spanish.
set -euo pipefail

out=${1:-minituner-gradescope.zip}
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")/../.."
scripts=autograder/gradescope
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for pair in "LAB=${LAB:-00}" "LEVEL=${LEVEL:-standard}" "MINITUNER_LANG=${MINITUNER_LANG:-en}"; do
  value=${pair#*=}
  case $value in
    "" | *[!a-z0-9]*)
      echo "build.sh: ${pair%%=*}: expected letters and digits, got '$value'" >&2
      exit 2
      ;;
  esac
  printf ': "${%s:=%s}"\n' "${pair%%=*}" "$value"
done >"$work/settings"
git archive --format=zip --output="$out" \
  --add-file="$scripts/setup.sh" --add-file="$scripts/run_autograder" \
  --add-file="$work/settings" --prefix=minituner/ HEAD
echo "$out"
