#!/usr/bin/env bash
# Brings what no Python wheel carries, on Debian and Ubuntu with the right to install; elsewhere says what is missing.
#   system-packages.sh run    shared libraries Open3D loads
#   system-packages.sh test   Chromium, for the browser tests; exit code 1 where the system has none to give
set -euo pipefail

missing_libraries() {
    local library
    for library in libGL.so.1 libEGL.so.1 libgomp.so.1 libX11.so.6; do
        ldconfig -p 2>/dev/null | grep -q "$library" || echo "$library"
    done
}

install_packages() {
    local sudo=""
    [ "$(id -u)" -eq 0 ] || sudo="sudo -n"
    $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "$@" >/dev/null
}

[ "$(uname -s)" = Linux ] || exit 0
case "${1:-}" in
run)
    lacking=$(missing_libraries)
    [ -z "$lacking" ] && exit 0
    if command -v apt-get >/dev/null && install_packages libgl1 libegl1 libgomp1 libx11-6; then exit 0; fi
    echo "These shared libraries are missing and Open3D needs them: $lacking" >&2
    echo "On Debian or Ubuntu: sudo apt-get install libgl1 libegl1 libgomp1 libx11-6" >&2
    ;;
test)
    command -v chromium >/dev/null || command -v google-chrome >/dev/null && exit 0
    if command -v apt-get >/dev/null && install_packages chromium; then exit 0; fi
    echo "no Chromium from the system" >&2
    exit 1
    ;;
*)
    echo "usage: $0 run|test" >&2
    exit 2
    ;;
esac
