#!/usr/bin/env bash
# Builds landmarks-evaluation:exec and :invoke.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../docker/lib.sh"

build_evaluation
