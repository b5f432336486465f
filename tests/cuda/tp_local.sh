#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A model cut over two ranks that share the emulated GPU writes the text that it writes in one piece; recorded steps
# among them.
# usage: tp_local.sh WEIR WEIR-CUDA-EMU.SO MODEL
set -u
say() { # DEVICES RANKS
  echo 'hello world' | "$weir" run -m large -s "$model" -l "$model" --small-device cpu --large-device "$1" --large-tp "$2" \
    --cuda-library "$library" -n 5 2> "$work/log" || { cat "$work/log"; exit 1; }
}
weir=$1 library=$2 model=$3
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
say cuda:0 1 > "$work/whole" && say cuda:0,cuda:0 2 > "$work/cut" || exit 1
[ -s "$work/whole" ] || { echo "no text"; exit 1; }
cmp "$work/whole" "$work/cut"
