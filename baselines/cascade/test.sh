#!/usr/bin/env bash
# Runs both images under the platform's limits on the cases in test/ and fails on a wrong answer.
# With --model FOLDER the model there is mounted as the platform does, in place of the one in the image.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../../docker/lib.sh"

test_algorithm "$here" "$@"
