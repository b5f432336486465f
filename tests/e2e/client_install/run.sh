#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the client library into a temporary folder and builds somebody else's program with it: by pkg-config,
# shared and static, and by CMake. usage: run.sh BUILD CMAKE CC SANITIZERS
set -eu
build=$1 cmake=$2 cc=$3 sanitize=$4
here=$(cd "$(dirname "$0")" && pwd)
[ -z "$sanitize" ] || { echo "SKIP: a library with sanitizers asks for them in its users"; exit 77; }
command -v pkg-config > /dev/null || { echo "SKIP: no pkg-config"; exit 77; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$cmake" --install "$build" --component client --prefix "$tmp/installed" > "$tmp/log"
# another place than it was installed to: nothing may remember the first
mv "$tmp/installed" "$tmp/moved"
lib=$(dirname "$(find "$tmp/moved" -name libweir-client.a)")
PKG_CONFIG_PATH=$lib/pkgconfig LD_LIBRARY_PATH=$lib
export PKG_CONFIG_PATH LD_LIBRARY_PATH
fail() { echo "client_install: $1"; exit 1; }

for f in include/weir/client.h share/weir/weir.proto share/weir/PROTOCOL.md; do
  [ -s "$tmp/moved/$f" ] || fail "no $f"
done
others=$(nm -D --defined-only "$lib/libweir-client.so" | awk '{print $3}' | grep -v '^weir_client_' || true)
[ -z "$others" ] || fail "the shared library shows more than its interface: $others"
nm -D --defined-only "$lib/libweir-client.so" | grep -q ' weir_client_open$' || fail "no weir_client_open"

try() {
  "$1" "ipc://$tmp/nobody" > "$tmp/said" || fail "$1 says: $(cat "$tmp/said")"
  grep -q '^503: ' "$tmp/said" || fail "$1 says: $(cat "$tmp/said")"
}
warn="-Wall -Wextra -Werror -pedantic"
# shellcheck disable=SC2046,SC2086
"$cc" -std=c99 $warn $(pkg-config --cflags weir-client) "$here/consumer/consumer.c" $(pkg-config --libs weir-client) -o "$tmp/shared"
try "$tmp/shared"
# shellcheck disable=SC2046,SC2086
"$cc" -std=c11 $warn $(pkg-config --cflags weir-client) "$here/consumer/consumer.c" "$lib/libweir-client.a" \
  $(pkg-config --libs nanomsg libprotobuf-c) -o "$tmp/static"
try "$tmp/static"
"$cmake" -S "$here/consumer" -B "$tmp/build" -DCMAKE_PREFIX_PATH="$tmp/moved" -DCMAKE_C_COMPILER="$cc" > "$tmp/log"
"$cmake" --build "$tmp/build" > "$tmp/log"
try "$tmp/build/consumer-client"
try "$tmp/build/consumer-client-static"
if command -v c++ > /dev/null; then
  # shellcheck disable=SC2046
  printf '#include <weir/client.h>\nint main() { weir_client_close(nullptr); }\n' |
    c++ -x c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags weir-client) - || fail "no C++"
fi
echo "client_install: shared and static, pkg-config and CMake"
