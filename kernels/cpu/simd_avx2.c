/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loops with 8 lanes. Compiled for AVX2, FMA and F16C; nothing here may run before the device has
 * checked for them. */
#include "kernels/cpu/vec_avx2.h"
/* the vector vocabulary comes first: the kernels are written over it */
#include "kernels/cpu/attend_kernel.h"
#include "kernels/cpu/rows_kernel.h"
#include "kernels/cpu/sample_kernel.h"
#include "kernels/cpu/simd.h"

const weir_simd weir_simd_avx2 = {
    .add_rmsnorm = add_rmsnorm,
    .glu = glu,
    .softcap = softcap,
    .exp_minus = exp_minus,
    .add_scaled = add_scaled,
    .rope_angles = rope_angles,
    .rope_row = rope_row,
    .attend = {.load_q = attend_load_q,
               .start = attend_start,
               .run = attend_run,
               .merge = attend_merge,
               .finish = attend_finish},
    .sample = {.stat = sample_stat,
               .top = sample_top,
               .hist = sample_hist,
               .ties = sample_ties,
               .weigh = sample_weigh,
               .mass = sample_mass,
               .race = sample_race},
};
