# SPDX-License-Identifier: Apache-2.0
# The files of the CUDA device, for both who compile them: nvcc (kernels/cuda) and the emulator (tests/emu).
set(WEIR_CUDA_HOST # C
  copy.c
  elementwise.c
  norm.c
  rope.c
  weights.c
  embed.c
  attend.c
  cuda_dev.c
  dense.c
  entry.c
  graphs.c
  linear.c
  moe.c
  ops.c
  peers.c
  ring.c
  sample.c
)
set(WEIR_CUDA_KERNELS # CUDA C
  copy.cu
  peers.cu
  elementwise.cu
  norm.cu
  rope.cu
  repack.cu
  embed.cu
  dequant.cu
  cast.cu
  dense_gemv.cu
  matmul.cu
  moe.cu
  moe_dense.cu
  moe_matmul.cu
  sample.cu
  sample_cut.cu
  sample_ratio.cu
  sample_shards.cu
  sample_top.cu
  attend_any.cu
  attend_decode.cu
  attend_merge.cu
  attend_prefill.cu
)
