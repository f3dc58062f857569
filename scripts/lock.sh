#!/bin/sh
# Writes requirements/bootstrap.txt and requirements/lock.txt from pyproject.toml: exact versions with hashes for Linux
# and macOS, Python 3.11 to 3.14, whatever machine this runs on. A version that is locked stays as long as pyproject.toml
# allows it; --upgrade or --upgrade-package NAME moves it (make lock ARGS="--upgrade").
set -eu
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
if [ ! -x "$uv" ]; then
    uv=$(command -v uv) || { echo "lock: no uv here; 'make setup' brings it" >&2; exit 1; }
fi

compile() { # compile OUTPUT SOURCE...; --no-header: no command line, hence no address, in the file
    output=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --output-file "$output" "$@" >/dev/null
}

mkdir -p requirements
compile requirements/bootstrap.txt --group bootstrap "$@"
compile requirements/lock.txt pyproject.toml --all-extras --group dev --group bootstrap --constraints requirements/bootstrap.txt "$@"
