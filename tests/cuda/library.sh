#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# weir-cuda.so as it is built: needs no libcuda (a program linked to it does not start where there is no driver),
# exports one symbol, and can be opened here, GPU or not.
# usage: library.sh weir-cuda.so COUNT_GPUS
set -u
library=$1
bad=0
say() { echo "library: $*"; bad=1; }

needed=$(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
[ -n "$needed" ] || say "readelf says nothing of $library"
for so in $needed; do
  case $so in
    libcublasLt.so.* | libc.so.* | libm.so.* | libgcc_s.so.* | libstdc++.so.* | ld-linux*) ;;
    libdl.so.* | libpthread.so.* | librt.so.* | libasan.so.* | libubsan.so.*) ;;
    *) say "needs $so" ;;
  esac
done

exported=$(nm -D --defined-only "$library" | awk '{ print $3 }' | tr '\n' ' ')
[ "$exported" = "weir_cuda_entry " ] || say "exports $exported, want weir_cuda_entry alone"

found=$("$2" "$library")
case $found in
  "0 GPUs CUDA: "*"driver"* | "0 GPUs CUDA: no CUDA-capable device is detected") ;;
  [1-9]*" GPUs ") ;;
  *) say "opened, it says: $found" ;;
esac
echo "library: $found"
exit "$bad"
