#!/bin/sh
# Makes .venv hold what requirements/ locks, and vaelab itself. The Makefile calls it when .venv is missing, unfinished, moved,
# or older than the lock. Everything is installed with its hash required: uv and the build back ends by pip, the rest by uv;
# nothing is built but antlr4-python3-runtime (which has no wheel) and vaelab, both with the locked build back ends.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)
python=${PYTHON:-python3}
supported="import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))"

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# what a person has set for pip (an index, certificates) holds for uv too; what would divert an installation does not hold
unset PIP_USER PIP_TARGET PIP_PREFIX PYTHONHOME PYTHONPATH UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX 2>/dev/null || true
if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"; fi
if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"; fi
if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"; fi

# .venv/.unfinished stands while packages are installed: what an interruption left is not trusted but made anew
if [ -e .venv ]; then
    stamp=$(cat .venv/.stamp 2>/dev/null || true)
    if [ -e .venv/.unfinished ]; then
        why="an earlier set-up did not finish"
    elif ! .venv/bin/python -c "$supported" 2>/dev/null; then
        why="its Python does not start, or is not one of 3.11 to 3.14"
    elif [ -n "$stamp" ] && [ "$stamp" != "$here" ]; then
        why="it was made in $stamp"
    else
        why=
    fi
    if [ -n "$why" ]; then
        echo "Removing .venv: $why"
        rm -rf .venv
    fi
fi

if [ ! -e .venv ]; then
    command -v "$python" >/dev/null 2>&1 || fail "no $python here; name a Python 3.11 to 3.14, e.g. make train PYTHON=python3.12"
    if ! "$python" -c "$supported"; then
        found=
        for other in python3.14 python3.13 python3.12 python3.11; do
            if "$other" -c "" >/dev/null 2>&1; then found=$other && break; fi
        done
        fail "$python is $("$python" --version 2>&1), but Python 3.11 to 3.14 is needed;" \
            "name one, e.g. make train PYTHON=${found:-python3.12}"
    fi
    "$python" -c "import venv, ensurepip" 2>/dev/null ||
        fail "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv, then again"
fi

case $(uname -s) in
    Linux) size="3 GB, most of it CUDA for torch" ;;
    *) size="0.5 GB" ;;
esac
if [ -e .venv/.stamp ]; then
    echo "Bringing .venv up to date with the lock ..."
else
    echo "Setting up .venv: downloads about $size, then takes half a minute ..."
fi
mkdir -p .venv
: >.venv/.unfinished
rm -f .venv/.stamp
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    .venv/bin/python -m ensurepip >/dev/null
fi
.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    -r requirements/bootstrap.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --no-deps --no-build-isolation \
    --only-binary :all: --no-binary antlr4-python3-runtime --compile-bytecode -r requirements/lock.txt
rm -f .venv/.unfinished
.venv/bin/uv pip install --quiet --python .venv/bin/python --reinstall --no-deps --no-build-isolation --editable .
printf '%s\n' "$here" >.venv/.stamp
