#!/usr/bin/env bash
# Writes the archives to upload, dist/landmarks-<name>-<mode>.tar.gz.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../../docker/lib.sh"

save_images "$here" "$(algorithm_name "$here")"
