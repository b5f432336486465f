#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ./demo.sh --json: standard output is one line of JSON with the keys that its help promises. usage: demo_json.sh PROGRAM
# The demo builds and runs build/release; where another build is tested, SKIP.
set -u
cd "$(dirname "$0")/../.." || exit 1
if [ "$1" != "$PWD/build/release/engine/programs/weir" ]; then
  echo "SKIP: not the program that the demo runs"
  exit 77
fi
err=build/demo_json.err
out=$(./demo.sh --json --no-install 2> "$err") || { echo "demo.sh failed"; tail -n 20 "$err"; exit 1; }
[ "$(printf '%s\n' "$out" | wc -l)" = 1 ] || { echo "not one line: $out"; exit 1; }
number='-\{0,1\}[0-9][0-9.e+-]*'
for key in tokens deferral_rate entropy cascade_tok_s large_tok_s small_tok_s; do
  echo "$out" | grep -q "\"$key\":$number[,}]" || { echo "no number $key in: $out"; exit 1; }
done
for key in cascade large small; do
  echo "$out" | grep -q "\"exact_match\":{[^}]*\"$key\":$number[,}]" || { echo "no exact_match.$key in: $out"; exit 1; }
done
grep -q "the large model wrote it" "$err" || { echo "the demo shows no origin of tokens"; exit 1; }
echo "$out"
