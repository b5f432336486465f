/* SPDX-License-Identifier: Apache-2.0 */
/* usage: count_gpus LIBRARY: opens the CUDA device's library and says how many GPUs it sees, or why none. */
#include <stdio.h>

#include "kernels/cuda/open.h"

int main(int argc, char **argv) {
  weir_err e = {0};
  if (argc != 2) return 2;
  printf("%d GPUs %s\n", weir_cuda_count(argv[1], &e), e.msg);
  return 0;
}
