#!/usr/bin/env bash
# Scores a predictions folder (as `landmarks run` writes it) with the evaluation image, under the platform's limits:
#   evaluation/score.sh PREDICTIONS REFERENCE OUT        -> OUT/metrics.json
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../docker/lib.sh"

[ $# -eq 3 ] && [ -d "$1" ] && [ -d "$2" ] || die "usage: score.sh PREDICTIONS REFERENCE OUT"
need_engine
limits
output=$(scratch)
run_exec landmarks-evaluation:exec "$(cd "$1" && pwd)" "$output" \
    --volume "$(cd "$2" && pwd):/opt/ml/input/data/ground_truth:ro"
mkdir -p "$3"
# Copied, so that the files belong to the caller and not to the container's user.
cp "$output"/* "$3"
