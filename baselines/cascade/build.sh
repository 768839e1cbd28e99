#!/usr/bin/env bash
# Builds this folder's images, tags exec and invoke. With --gpu or --cpu for that device, else for what the engine offers.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../../docker/lib.sh"

build_algorithm "$here" "$@"
