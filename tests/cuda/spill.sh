#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The build must end at a kernel that spills: nvcc_checked.sh with kernels planted for it.
# usage: spill.sh NVCC
set -u
nvcc=$1
checked=kernels/cuda/nvcc_checked.sh
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
bad=0

cat > "$dir/clean.cu" << 'END'
template <int N> __global__ void fine(float *x) { x[threadIdx.x] *= N; }
template __global__ void fine<3>(float *);
END
cat > "$dir/frame.cu" << 'END'
__global__ void frame(float *x, int n) {
  float a[64] = {0};
  for (int i = 0; i < n; i++) a[(i * n) & 63] += x[i];
  for (int i = 0; i < 64; i++) x[i] = a[i];
}
END
# 32 registers a thread, and 96 values that live across a barrier.
cat > "$dir/spill.cu" << 'END'
static __global__ void __launch_bounds__(1024, 2) crowded(float *x) {
  float a[96];
#pragma unroll
  for (int i = 0; i < 96; i++) a[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; i++) x[i * 1024 + threadIdx.x] = a[i] * a[95 - i];
}
extern "C" void launch(float *x) { crowded<<<1, 1024>>>(x); }
END
echo 'this is no C++' > "$dir/broken.cu"
: > "$dir/none.txt"
echo 'crowded 4096 planted' > "$dir/crowded.txt"
echo 'crowded 8 planted, and too small' > "$dir/small.txt"
echo 'crowded lots of it' > "$dir/wrong.txt"

# expect pass|fail FILE LIST WORDS
expect() {
  rm -f "$dir/out.o"
  said=$("$checked" "$dir/$3" "$nvcc" -std=c++17 -O3 -gencode arch=compute_80,code=sm_80 \
    -gencode arch=compute_90a,code=sm_90a -c "$dir/$2" -o "$dir/out.o" 2>&1)
  status=$?
  case $1,$status in
    pass,0) [ -f "$dir/out.o" ] || { echo "spill: $2, $3: no object"; bad=1; } ;;
    fail,0) echo "spill: $2, $3: passed"; bad=1 ;;
    pass,*) echo "spill: $2, $3: failed: $said"; bad=1 ;;
    fail,*) [ ! -f "$dir/out.o" ] || { echo "spill: $2, $3: failed and left its object"; bad=1; } ;;
  esac
  case $said in
    *"$4"*) ;;
    *) echo "spill: $2, $3: says \"$said\", want \"$4\""; bad=1 ;;
  esac
}
expect pass clean.cu none.txt ''
grep -q '^sm_80 .*fine.*registers.* 0 bytes stack' "$dir/out.o.ptxas" && grep -q '^sm_90a ' "$dir/out.o.ptxas" || {
  echo "spill: no report of registers for both architectures"
  bad=1
}
expect fail frame.cu none.txt 'frame'
expect fail spill.cu none.txt 'crowded'
expect pass spill.cu crowded.txt ''
expect fail spill.cu small.txt '8 bytes of stack are allowed'
expect fail clean.cu wrong.txt 'wrong.txt: crowded lots of it'
expect fail clean.cu missing.txt 'cannot read'
expect fail broken.cu none.txt 'error'
[ "$bad" = 0 ] && echo "spill: planted spills end the build"
exit "$bad"
