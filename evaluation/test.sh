#!/usr/bin/env bash
# Runs both images under the platform's limits on the submission in test/input and compares with test/expected.json,
# whose numbers follow by hand: in case-1 every point is off by (3, 4, 0) mm, in case-2 only nasion is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../docker/lib.sh"

main() {
    need_engine
    limits
    truth=(--volume "${1:-$here/test/ground_truth}:/opt/ml/input/data/ground_truth:ro")
    output=$(scratch)
    score_exec
    check_metrics exec
    find "$output" -mindepth 1 -delete
    score_invoke
    check_metrics invoke
    say "landmarks-evaluation passes"
}

score_exec() {
    check_image landmarks-evaluation:exec exec
    run_exec landmarks-evaluation:exec "$here/test/input" "$output" "${truth[@]}" || die "landmarks-evaluation:exec failed"
}

score_invoke() {
    check_image landmarks-evaluation:invoke invoke
    start_invoke landmarks-evaluation:invoke "$here/test/input" "$output" "${truth[@]}"
    call_invoke 2 || { docker logs "$SERVER" >&2; die "landmarks-evaluation:invoke failed"; }
}

check_metrics() {
    [ -f "$output/metrics.json" ] || die "landmarks-evaluation:$1 wrote no metrics.json"
    docker run --rm --network none --user "$(id -u)" --volume "$here/test:/test:ro" --volume "$output:/output:ro" \
        --entrypoint python3 "$CPU_BASE" -I -c "$(cat "$ROOT/challenge/landmark_challenge/metrics_check.py")" \
        /test/expected.json /output/metrics.json || die "landmarks-evaluation:$1 gives wrong metrics"
    say "landmarks-evaluation:$1 gives the expected metrics"
}

main "$@"
