# Sourced by run.sh and test.sh: makes .venv in this checkout once, then finds it again in no time.
# PYTHON=<interpreter> chooses the Python to make it with.

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.14 python3 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        elif [ "$candidate" = "${PYTHON:-}" ]; then
            echo "PYTHON=$PYTHON: wanted Python 3.11 or later with venv and pip" >&2
            return 1
        fi
    done
    echo "wanted Python 3.11 or later with venv and pip (on Debian: python3 and python3-venv), found none" >&2
    return 1
}

# What the environment was made from; it is made again when any of it changes.
fingerprint() {
    cat pyproject.toml constraints.txt
    echo "$PWD"
}

make_environment() {
    local python
    if [ -x .venv/bin/landmarks ] && fingerprint | cmp -s - .venv/made-from; then
        return 0
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1 || ! head -1 .venv/bin/pip | grep -qF "$PWD/.venv/"; then
        python=$(find_python) || return 1
        echo "Making .venv with $python ($("$python" --version 2>&1))."
        "$python" -m venv --clear .venv || return 1
    fi
    echo "Installing the kit and its pinned dependencies into .venv (once; a few minutes)."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]' || return 1
    fingerprint > .venv/made-from
}
