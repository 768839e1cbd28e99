#!/usr/bin/env bash
# The whole loop on synthetic X-rays: make phantoms, train or load models, localize, evaluate, draw.
# Needs Python 3.11 or later; uses the containers where a Docker engine answers. Arguments go to `landmarks demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./environment.sh

make_environment
echo "Running: landmarks demo $*"
exec .venv/bin/landmarks demo "$@"
