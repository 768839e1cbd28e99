#!/usr/bin/env bash
# Writes requirements/<set>.txt, the pinned and hashed libraries of the images, from constraints.txt.
# Run it after a change of constraints.txt; needs pip and a route to PyPI. The images are Linux on x86-64, Python 3.11.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

light=(numpy simpleitk pydantic pyyaml safetensors)
torch=(torch)
# The container writes numbers and no page: no matplotlib, no jinja2.
evaluation=(grand-challenge-metrics scipy)

main() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    download light "${light[@]}"
    download torch "${torch[@]}"
    download evaluation "${evaluation[@]}"
    write light
    write torch light
    write evaluation light
}

download() {
    local set=$1
    shift
    "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --constraint "$here/../constraints.txt" \
        --dest "$work/$set" "$@"
}

# write SET [BELOW]: pins of a set, less those that the set below it carries already.
write() {
    local set=$1 below=${2:-} wheel name version
    {
        echo "# Written by docker/lock.sh from constraints.txt; do not edit."
        for wheel in "$work/$set"/*.whl; do
            wheel=$(basename "$wheel")
            [ -z "$below" ] || [ ! -e "$work/$below/$wheel" ] || continue
            name=$(cut -d- -f1 <<<"$wheel") version=$(cut -d- -f2 <<<"$wheel")
            version=${version%%+*}
            echo "${name//_/-}==$version \\"
            hashes "$name" "$version" "$work/$set/$wheel"
        done
    } >"$work/$set.txt"
    mv "$work/$set.txt" "$here/requirements/$set.txt"
}

# hashes NAME VERSION WHEEL: that of the wheel; for torch that of PyPI's build too, since its CPU build is another file.
hashes() {
    local own listed=""
    own=$(sha256sum "$3" | cut -d' ' -f1)
    if [ "$1" = torch ]; then
        listed=$(curl --fail --silent --show-error https://pypi.org/simple/torch/ |
            sed -n "s/.*torch-$2-cp311-cp311-manylinux_2_28_x86_64.whl#sha256=\([0-9a-f]*\)\".*/\1/p" | head -n 1)
        [ -n "$listed" ] || { echo "lock.sh: PyPI lists no torch $2 for this platform" >&2; return 1; }
    fi
    if [ -n "$listed" ] && [ "$listed" != "$own" ]; then
        echo "    --hash=sha256:$own \\"
        echo "    --hash=sha256:$listed"
    else
        echo "    --hash=sha256:$own"
    fi
}

main
