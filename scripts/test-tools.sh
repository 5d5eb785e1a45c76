#!/usr/bin/env bash
# What the tests need beside Python packages: splat-transform from npm, and a browser where the system has none.
#   test-tools.sh BIN    BIN is the virtual environment's bin folder
set -euo pipefail
bin=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
PATH="$bin:$PATH" npm --version >/dev/null 2>&1 || { echo "npm is missing: install Node.js 20 or newer" >&2; exit 1; }
(cd "$here/../tests/node" && PATH="$bin:$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
command -v chromium >/dev/null || command -v google-chrome >/dev/null || "$bin/playwright" install chromium
