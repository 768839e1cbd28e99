# What build.sh, test.sh and save.sh of every image share. Sourced, never run.
#
# Needs Docker and, to fetch wheels, pip on the host: a container may have no route to a package index, so every image is
# built offline. Knobs, all optional: LANDMARKS_BASE (Python base image), LANDMARKS_GPU_BASE (one that carries torch for
# CUDA 12.6), LANDMARKS_TORCH_INDEX (where PyTorch's CPU wheels are, if pip's index has none), LANDMARKS_MEMORY_MB (limit
# in tests), PYTHON (the host's Python with pip).

DOCKER_FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$DOCKER_FOLDER")
CPU_BASE=${LANDMARKS_BASE:-python:3.11-slim-bookworm}
GPU_BASE=${LANDMARKS_GPU_BASE:-pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime}
MEMORY_MB=${LANDMARKS_MEMORY_MB:-4096}
TORCH_INDEX=${LANDMARKS_TORCH_INDEX:-}
# Without BuildKit's plug-in the classic builder does the same work.
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-$(docker buildx version >/dev/null 2>&1 && echo 1 || echo 0)}

say() { echo "$*" >&2; }
die() { say "error: $*"; exit 1; }

need_engine() {
    command -v docker >/dev/null || die "wanted the docker command, it is not installed"
    docker info >/dev/null 2>&1 || die "wanted a running Docker engine, none answers (DOCKER_HOST=${DOCKER_HOST:-unset})"
}

# yaml_value FILE KEY: a top-level `key: value` of a flat YAML file, comments and quotes removed.
yaml_value() { sed -n "s/^$2:[[:space:]]*//p" "$1" | sed -e 's/[[:space:]]*#.*$//' -e 's/^"\(.*\)"$/\1/' | head -n 1; }

# algorithm_name FOLDER: what its images are called, by algorithm.yaml or else by the folder.
algorithm_name() {
    local name
    name=$(yaml_value "$1/algorithm.yaml" name)
    name=${name:-$(basename "$1")}
    [[ $name =~ ^[a-z0-9]+([_-][a-z0-9]+)*$ ]] || die "$1: wanted a name of a-z, 0-9, _ and -, got '$name'"
    echo "$name"
}

# choose_device [--cpu|--gpu]: prints cpu or gpu; without a flag what the engine's runtimes offer.
choose_device() {
    case ${1:-} in
    --cpu) echo cpu ;;
    --gpu) echo gpu ;;
    "") if docker info --format '{{json .Runtimes}}' | grep -q nvidia; then echo gpu; else echo cpu; fi ;;
    *) die "usage: build.sh [--cpu|--gpu]" ;;
    esac
}

# ---- base images: third-party libraries only, shared by every image -------------------------------------------------

# fetch_wheels SET: download the pinned wheels of a set beside the Dockerfile, unless they are all there.
fetch_wheels() {
    local set=$1 python=${PYTHON:-python3} requirements=$DOCKER_FOLDER/requirements/$1.txt
    local wheels=$DOCKER_FOLDER/wheels/$1
    cmp -s "$requirements" "$wheels/fetched-for" && return
    say "fetching the wheels of '$set' (once)"
    rm -rf "$wheels" "$wheels.part"
    mkdir -p "$wheels.part"
    # Of two hashes the first is that of the CPU build of torch. Offered both, pip would take PyPI's, which needs CUDA.
    awk '/--hash/ { if (seen++) next; sub(/ \\$/, "") } !/--hash/ { seen = 0 } { print }' "$requirements" \
        >"$wheels.part/requirements.txt"
    local -a download=("$python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps
        --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any
        --dest "$wheels.part" --requirement "$wheels.part/requirements.txt")
    { "${download[@]}" 2>"$wheels.part/log" ||
        { [ -n "$TORCH_INDEX" ] && "${download[@]}" --extra-index-url "$TORCH_INDEX" 2>>"$wheels.part/log"; }; } ||
        { tail -n 5 "$wheels.part/log" >&2; die "cannot fetch the wheels of '$set' with $python -m pip; where its index has \
no CPU build of torch, set LANDMARKS_TORCH_INDEX to PyTorch's own"; }
    cp "$requirements" "$wheels.part/fetched-for"
    mv "$wheels.part" "$wheels"
}

# base_image SET FROM: build landmarks-base:SET on top of FROM if it is not there already in this very form.
base_image() {
    local set=$1 from=$2 tag=landmarks-base:$1 digest
    digest=$(cat "$DOCKER_FOLDER/base.Dockerfile" "$DOCKER_FOLDER/requirements/${3:-$set}.txt" - <<<"$from" |
        sha256sum | cut -c1-16)-$(docker image inspect --format '{{.Id}}' "$from" 2>/dev/null | cut -c8-19)
    if [ "$(docker image inspect --format '{{index .Config.Labels "landmarks.base"}}' "$tag" 2>/dev/null)" = "$digest" ]; then
        return
    fi
    local libraries=${3:-$set}
    fetch_wheels "$libraries"
    say "building $tag"
    tar -C "$DOCKER_FOLDER" -c base.Dockerfile "requirements/$libraries.txt" "wheels/$libraries" |
        docker_build --file base.Dockerfile --tag "$tag" --build-arg "BASE=$from" \
            --build-arg "LIBRARIES=$libraries" --label "landmarks.base=$digest" -
}

# docker_build ARGUMENTS: an offline build that is silent unless it fails.
docker_build() {
    docker build --platform linux/amd64 --network none "$@" >"$SCRATCH/build.log" 2>&1 ||
        { tail -n 30 "$SCRATCH/build.log" >&2; die "docker build failed"; }
}

need_base() {
    local image=$1
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet --platform linux/amd64 "$image" >&2 ||
        die "wanted the base image $image, it is neither here nor can it be pulled"
}

# base_for LIBRARIES DEVICE: makes the base image that an image with these libraries needs; sets BASE_TAG.
base_for() {
    local libraries=$1 device=$2
    if [ "$device" = gpu ] && [ "$libraries" = torch ]; then
        need_base "$GPU_BASE"
        base_image gpu "$GPU_BASE" light
        BASE_TAG=landmarks-base:gpu
        return
    fi
    need_base "$CPU_BASE"
    base_image light "$CPU_BASE"
    [ "$libraries" = light ] || base_image "$libraries" landmarks-base:light
    BASE_TAG=landmarks-base:$libraries
}

# ---- images: the program on top of a base, one tag per API mode, all layers shared -----------------------------------

# stage_kit FOLDER PACKAGE: copy landmark_challenge, the task files and one more package, without caches.
stage_kit() {
    local folder=$1/kit package=$2
    mkdir -p "$folder"
    tar -C "$ROOT/challenge" --exclude __pycache__ -c landmark_challenge | tar -C "$folder" -x
    tar -C "$ROOT" -c data_specs | tar -C "$folder/landmark_challenge" -x
    tar -C "$ROOT/${package#*:}" --exclude __pycache__ -c "${package%:*}" | tar -C "$folder" -x
}

# build_modes CONTEXT DOCKERFILE NAME: the tags landmarks-NAME:exec and :invoke from a staged context.
build_modes() {
    local context=$1 dockerfile=$2 name=$3 mode
    cp "$DOCKER_FOLDER/$dockerfile" "$context/Dockerfile"
    for mode in exec invoke; do
        docker_build --tag "landmarks-$name:$mode" --build-arg "BASE=$BASE_TAG" --build-arg "API_METHOD=$mode" "$context"
        say "built landmarks-$name:$mode ($(($(docker image inspect --format '{{.Size}}' "landmarks-$name:$mode") / 1000000)) MB)"
    done
}

# build_algorithm FOLDER [--cpu|--gpu]
build_algorithm() {
    local folder=$1 device name libraries context
    need_engine
    device=$(choose_device "${2:-}")
    name=$(algorithm_name "$folder")
    libraries=$(yaml_value "$folder/algorithm.yaml" libraries)
    [ -n "$(ls -A "$folder/model" 2>/dev/null)" ] || die "$folder/model: wanted a model folder, it is empty or absent"
    say "building landmarks-$name for the $device"
    base_for "${libraries:-torch}" "$device"
    context=$(scratch)
    stage_kit "$context" landmark_baselines:baselines
    mkdir "$context/algorithm"
    tar -C "$folder" --exclude ./test --exclude ./dist --exclude ./wheels --exclude __pycache__ --exclude '*.sh' \
        --exclude README.md -c . | tar -C "$context/algorithm" -x
    own_wheels "$folder" "$context/wheels"
    build_modes "$context" algorithm.Dockerfile "$name"
}

# own_wheels FOLDER TARGET: what requirements.txt of a participant asks for beyond the shared libraries, for offline use.
own_wheels() {
    local folder=$1 target=$2 wheel
    mkdir -p "$target"
    touch "$target/none.txt"
    [ -f "$folder/requirements.txt" ] || return 0
    if ! cmp -s "$folder/requirements.txt" "$folder/wheels/fetched-for"; then
        say "fetching the wheels of $folder/requirements.txt"
        rm -rf "$folder/wheels"
        "${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
            --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none --platform manylinux_2_28_x86_64 \
            --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
            --platform manylinux2014_x86_64 --platform any --constraint "$ROOT/constraints.txt" \
            --dest "$folder/wheels" --requirement "$folder/requirements.txt" ||
            die "$folder/requirements.txt: its wheels cannot be fetched"
        cp "$folder/requirements.txt" "$folder/wheels/fetched-for"
    fi
    for wheel in "$folder"/wheels/*.whl; do
        # The shared libraries have the same pins already.
        ls "$DOCKER_FOLDER"/wheels/*/"$(basename "$wheel")" >/dev/null 2>&1 || cp "$wheel" "$target"
    done
}

# build_evaluation
build_evaluation() {
    local context
    need_engine
    base_for evaluation cpu
    context=$(scratch)
    stage_kit "$context" landmark_evaluation:evaluation
    build_modes "$context" evaluation.Dockerfile evaluation
}

# scratch: a new temporary folder that goes when the script ends.
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/landmarks.XXXXXX")
scratch() { mktemp -d "$SCRATCH/XXXXXX"; }
scratch_copy() {
    local copy
    copy=$(scratch)
    cp -R "$1/." "$copy" && chmod -R a+rX "$copy"
    echo "$copy"
}
CONTAINERS=()
clean_up() {
    [ ${#CONTAINERS[@]} -eq 0 ] || docker rm --force "${CONTAINERS[@]}" >/dev/null 2>&1 || true
    rm -rf "$SCRATCH"
}
trap clean_up EXIT

# ---- running under the platform's limits -----------------------------------------------------------------------------

# LIMITS: no network, read-only root, /tmp as the only scratch, no capability, the platform's memory limits.
limits() {
    local data=$(((MEMORY_MB - 1024) * 1024 * 1024))
    LIMITS=(--network none --read-only --tmpfs "/tmp:rw,nosuid,nodev,size=1g,mode=1777" --cap-drop ALL
        --security-opt no-new-privileges --pids-limit 512 --memory "${MEMORY_MB}m" --memory-swap "${MEMORY_MB}m"
        --ulimit "data=$data:$data" --shm-size "$((MEMORY_MB / 2))m" --env LOG_LEVEL=INFO --env no_proxy=amazonaws.com)
}

# check_image TAG MODE: what the platform's import refuses.
check_image() {
    local user
    user=$(docker image inspect --format '{{.Config.User}}' "$1") || die "$1: wanted an image, there is none; run build.sh"
    case $user in "" | root | 0 | root:* | 0:*) die "$1: wanted a user that is not root, got '$user'" ;; esac
    [ "$(docker image inspect --format '{{.Architecture}}' "$1")" = amd64 ] || die "$1: wanted linux/amd64"
    [ "$(docker image inspect --format '{{index .Config.Labels "org.grand-challenge.api-method"}}' "$1")" = "$2" ] ||
        die "$1: wanted the label org.grand-challenge.api-method=$2"
}

# run_exec TAG INPUT OUTPUT [docker options]: one run of an exec image.
run_exec() {
    local tag=$1 input=$2 output=$3
    shift 3
    mkdir -p "$output" && chmod 777 "$output"
    docker run --rm "${LIMITS[@]}" "$@" --volume "$input:/input:ro" --volume "$output:/output" "$tag"
}

# start_invoke TAG INPUT OUTPUT [docker options]: starts an invoke image, sets SERVER to its id.
start_invoke() {
    local tag=$1 input=$2 output=$3
    shift 3
    SERVER=$(docker run --detach "${LIMITS[@]}" "$@" --volume "$input:/input:ro" --volume "$output:/output" "$tag")
    CONTAINERS+=("$SERVER")
}

# call_invoke CALLS: wait for /health, then so many calls of /invoke, from beside the server as the platform does.
call_invoke() {
    local client
    client=$(cat "$ROOT/challenge/landmark_challenge/invoke_client.py")
    printf 'call\n%.0s' $(seq "$1") | docker run --rm --interactive --network "container:$SERVER" --user 65534 \
        --entrypoint python3 "$CPU_BASE" -I -c "$client" 300 300
}

# ---- tests and archives ------------------------------------------------------------------------------------------------

# test_algorithm FOLDER [--model MODEL]: both modes under the limits on the sample cases; fails on a wrong answer.
test_algorithm() {
    local folder=$1 name limit answers case mode
    local -a options=()
    need_engine
    case ${2:-} in
    "") ;;
    --model)
        # The platform unpacks a model so that the image's user can read it, whatever its modes were.
        options=(--volume "$(scratch_copy "$3"):/opt/ml/model:ro")
        ;;
    *) die "usage: test.sh [--model FOLDER]" ;;
    esac
    name=$(algorithm_name "$folder")
    limit=$(yaml_value "$folder/algorithm.yaml" max_error_mm)
    answers=$(scratch)
    limits
    for mode in exec invoke; do
        check_image "landmarks-$name:$mode" "$mode"
        mkdir -p "$answers/$mode"
        "localize_samples_$mode" "$name" "$folder/test" "$answers/$mode" ${options[@]+"${options[@]}"}
        say "landmarks-$name:$mode, points against what is expected:"
        check_answers "$folder/test" "$answers/$mode" "$limit" || die "landmarks-$name:$mode gives wrong answers"
    done
    say "landmarks-$name passes"
}

localize_samples_exec() {
    local name=$1 cases=$2 answers=$3 case
    shift 3
    for case in "$cases"/*/input; do
        case=$(basename "$(dirname "$case")")
        run_exec "landmarks-$name:exec" "$cases/$case/input" "$answers/$case" --env STRICT=1 "$@" ||
            die "landmarks-$name:exec failed on $case"
    done
}

localize_samples_invoke() {
    local name=$1 cases=$2 answers=$3 case input output
    shift 3
    input=$(scratch) output=$(scratch)
    chmod 755 "$input" && chmod 777 "$output"
    start_invoke "landmarks-$name:invoke" "$input" "$output" --env STRICT=1 "$@"
    for case in "$cases"/*/input; do
        case=$(basename "$(dirname "$case")")
        # As the platform does between calls: both folders emptied, the input provided anew.
        find "$input" "$output" -mindepth 1 -delete
        cp -R "$cases/$case/input/." "$input" && chmod -R a+rX "$input"
        if ! call_invoke 1; then
            docker logs "$SERVER" >&2
            die "landmarks-$name:invoke failed on $case"
        fi
        mkdir -p "$answers/$case" && cp -R "$output/." "$answers/$case"
    done
    docker logs "$SERVER"
    docker rm --force "$SERVER" >/dev/null
}

# check_answers CASES ANSWERS LIMIT_MM
check_answers() {
    docker run --rm --network none --user "$(id -u)" --volume "$1:/cases:ro" --volume "$2:/answers:ro" \
        --entrypoint python3 "$CPU_BASE" -I -c "$(cat "$ROOT/challenge/landmark_challenge/sample_check.py")" \
        /cases /answers "$3"
}

# save_images FOLDER NAME [exec|invoke]: the upload archives FOLDER/dist/landmarks-NAME-<mode>.tar.gz, each with exactly one image, and
# landmarks-NAME.sbom.json, their bill of materials.
save_images() {
    local folder=$1 name=$2 modes=${3:-exec invoke} mode archive
    case $modes in exec | invoke | "exec invoke") ;; *) die "usage: save.sh [exec|invoke]" ;; esac
    need_engine
    mkdir -p "$folder/dist"
    for mode in $modes; do
        check_image "landmarks-$name:$mode" "$mode"
        archive=$folder/dist/landmarks-$name-$mode.tar.gz
        docker save "landmarks-$name:$mode" | gzip --fast >"$archive.part"
        mv "$archive.part" "$archive"
        say "wrote $archive ($(du -m "$archive" | cut -f1) MB)"
    done
    docker run --rm --network none --entrypoint python3 "landmarks-$name:${modes%% *}" \
        -c "$(cat "$ROOT/challenge/landmark_challenge/sbom.py")" "landmarks-$name" >"$folder/dist/sbom.part"
    mv "$folder/dist/sbom.part" "$folder/dist/landmarks-$name.sbom.json"
    say "wrote $folder/dist/landmarks-$name.sbom.json"
}
