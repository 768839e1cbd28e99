#!/usr/bin/env bash
# Writes what is uploaded, dist/landmarks-<name>-<mode>.tar.gz, and the bill of materials dist/landmarks-<name>.sbom.json.
# Both modes, or with an argument, exec or invoke, that one.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../../docker/lib.sh"

save_images "$here" "$(algorithm_name "$here")" "$@"
