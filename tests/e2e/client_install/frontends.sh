#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The example frontends against a real engine with the pair of models/: the same greedy text from all of them, and from
# `weir run`. usage: frontends.sh WEIR EXAMPLE_FRONTEND [EXAMPLE_NNG]
set -eu
weir=$1 frontend=$2 nng=${3:-}
ls models/*.gguf > /dev/null 2>&1 || { echo "SKIP: no models"; exit 77; }
tmp=$(mktemp -d)
pid=
finish() {
  [ -z "$pid" ] || { kill "$pid" 2> /dev/null || true; wait "$pid" 2> /dev/null || true; }
  rm -rf "$tmp"
}
trap finish EXIT
fail() { echo "frontends: $1"; cat "$tmp/log" "$tmp/err"; exit 1; }
: > "$tmp/err"

url=ipc://$tmp/weir.ipc
"$weir" serve --no-http --rpc "$url" > "$tmp/log" 2>&1 &
pid=$!
# The client library waits for the engine to be there: no need to look for its socket.
prompt='Once upon a time'
timeout 60 "$frontend" --greedy -n 24 "$url" "$prompt" > "$tmp/library" 2> "$tmp/err" || fail "example-frontend: $?"
grep -q '^length: 24 tokens, ' "$tmp/err" || fail "example-frontend's last line"
[ "$(wc -c < "$tmp/library")" -gt 40 ] || fail "hardly any text"
"$weir" run --temperature 0 -n 24 -p "$prompt" --show none --quiet > "$tmp/run" 2> "$tmp/err" || fail "weir run: $?"
grep -qF "$(cat "$tmp/library")" "$tmp/run" || fail "other text than weir run: $(cat "$tmp/library" "$tmp/run")"
if [ -n "$nng" ]; then
  timeout 60 "$nng" --greedy -n 24 "$url" "$prompt" > "$tmp/nng" 2> "$tmp/err" || fail "example-nng: $?"
  cmp -s "$tmp/library" "$tmp/nng" || fail "NNG has other text: $(cat "$tmp/library" "$tmp/nng")"
fi
python=${WEIR_TEST_PYTHON:-python3}
if "$python" -c 'import pynng, grpc_tools.protoc' 2> /dev/null; then
  timeout 60 "$python" engine/client/examples/example_pynng.py --greedy -n 24 "$url" "$prompt" > "$tmp/py" 2> "$tmp/err" || fail "pynng: $?"
  cmp -s "$tmp/library" "$tmp/py" || fail "pynng has other text: $(cat "$tmp/library" "$tmp/py")"
else
  echo "frontends: no pynng: that one is left out"
fi
timeout 60 "$frontend" --chat -n 8 "$url" 'What is two and two?' > "$tmp/chat" 2> "$tmp/err" || fail "a chat: $?"
status=0
timeout 60 "$frontend" -n 100000 "$url" "$prompt" > "$tmp/out" 2> "$tmp/err" || status=$?
[ "$status" = 1 ] && grep -q '400: ' "$tmp/err" || fail "more than the context holds: status $status"
kill "$pid"
wait "$pid" || fail "the engine ended with $?"
pid=
echo "frontends: the same text from all"
