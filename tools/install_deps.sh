#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that weir needs and this machine lacks. usage: tools/install_deps.sh [build] [test] [full]
#   build  to build the program (the default)
#   test   to build and run the tests
#   full   for ./test.sh --full: clang with libFuzzer
# Asks apt for nothing when all is there. As another user than root it goes through sudo.
set -eu

build="build-essential cmake ninja-build pkg-config libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libedit-dev libnanomsg-dev protobuf-c-compiler libprotobuf-c-dev libevent-dev"
test="libcmocka-dev xz-utils libnng-dev python3 python3-venv curl chromium prometheus"
full="clang-14 libclang-rt-14-dev"

[ $# -gt 0 ] || set -- build
wanted=
for set in "$@"; do
  case $set in
    build) wanted="$wanted $build" ;;
    test) wanted="$wanted $test" ;;
    full) wanted="$wanted $full" ;;
    *) echo "install_deps: unknown set $set" >&2; exit 2 ;;
  esac
done

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  echo "weir: not a Debian system: the build needs what Debian calls$wanted" >&2
  exit 0
fi
missing=
for p in $wanted; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2> /dev/null)" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
  command -v sudo > /dev/null || {
    echo "weir: these packages are missing and there is no sudo; as root: apt-get install$missing" >&2
    exit 1
  }
  as_root=sudo
fi
echo "weir: installing$missing" >&2
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
