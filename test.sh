#!/usr/bin/env bash
# The tests. Needs Python 3.11 or later, nothing else; what cannot run here is skipped with a reason.
# Arguments go to pytest, for example: ./test.sh tests/challenge -k landmarks
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./environment.sh

make_environment
echo "Running: pytest $*"
exec .venv/bin/python -m pytest "$@"
