#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds weir and shows a cascade at work: a small and a large model write real text, and the cascade is set beside
# each of the two alone.
#
# usage: ./demo.sh [--json] [--no-install]
#   --json        standard output is one line of JSON: tokens, deferral_rate, entropy (mean, nats), cascade_tok_s,
#                 large_tok_s, small_tok_s, exact_match: {cascade, large, small}, and more; all else on standard error
#   --no-install  do not look for missing Debian packages
set -eu
cd "$(dirname "$0")"

json=no install=yes
for arg in "$@"; do
  case $arg in
    --json) json=yes ;;
    --no-install) install=no ;;
    -h | --help) sed -n '3,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "demo.sh: unknown argument $arg; see ./demo.sh --help" >&2; exit 2 ;;
  esac
done
if [ "$json" = yes ]; then exec 3>&1 1>&2; fi # from here on standard output is for the line alone, on 3

say() { printf '\n== %s\n' "$*"; }

[ "$install" = no ] || tools/install_deps.sh build
say "Building (build/release)"
tests=ON
pkg-config --exists cmocka || tests=OFF
cmake --preset release -D WEIR_TESTS=$tests > /dev/null
cmake --build build/release --target weir weir-gateway
weir=build/release/engine/programs/weir

say "Two models of models/README.md write together: what the large one wrote is marked"
$weir run --prompts models/prompts.txt --entropy 0.5 --max-tokens 64 --batch 8 --show origin

say "The cascade beside the small and the large model alone: 120 tasks, one at a time, as a single user sees it"
set -- eval models/tasks-test.jsonl --limit 120 --batch 1 --repeat 2 --entropy 0.3,0.5,1
if [ "$json" = yes ]; then
  $weir "$@" --summary >&3
else
  $weir "$@"
  say "A page to try it in a browser, and the OpenAI API: build/release/engine/programs/weir serve"
  say "More: build/release/engine/programs/weir --help, README.md, docs/"
fi
