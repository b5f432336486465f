/* SPDX-License-Identifier: Apache-2.0 */
/* Whether rows may be read 16 bytes at a time: the host's side of quad.cuh. */
#ifndef WEIR_KERNELS_CUDA_QUAD_H
#define WEIR_KERNELS_CUDA_QUAD_H
#include "kernels/device.h"

static inline bool weir_quad_ptr(const void *p) { return (uintptr_t)p % 16 == 0; }
static inline bool weir_quad_mat(weir_mat m) { return weir_quad_ptr(m.data) && m.ld % 4 == 0; }

#endif
