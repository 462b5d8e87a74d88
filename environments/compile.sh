#!/bin/sh
# Make the locks anew: exact versions with hashes, and no index address, so that they work with any mirror.
set -eu
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"
lock() {
    out=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "environments/compile.sh" --extra in-process --output-file "$out" pyproject.toml "$@"
}
lock environments/requirements.txt
lock environments/requirements-dev.txt --group dev --group test --group browser --constraint environments/requirements.txt
