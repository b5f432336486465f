#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""plant.py for the small operations, the rotation and the mixture of experts.

    tests/cuda/plant_ops.py BUILD [name ...]

BUILD has test_cuda_small, test_cuda_rope, test_cuda_moe and their _race twins."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plant  # noqa: E402

NORM, ROPE, ELEMENT, COPY = "norm.cu", "rope.cu", "elementwise.cu", "copy.cu"
MOE, MATMUL, DENSE = "moe.cu", "moe_matmul.cu", "moe_dense.cu"
# test: name, file, what is there (and which of several, from 0), what is planted
BUGS = {
    "test_cuda_small": [
        ("norm: sums read before written", NORM, "  __syncthreads();\n", 0, ""),
        ("norm: a warp's sum forgotten", NORM, "i < T / 32; i++) square", 0, "i < T / 32 - 1; i++) square"),
        ("norm: resid not stored", NORM, "      quad_store<ALIGNED>(resid", 0, "      if (false) quad_store<ALIGNED>(resid"),
        ("norm: wide rows stop at the registers", NORM, "for (int q = tid + N * T; q < n_quads; q += T) {", 1,
         "for (int q = tid + N * T; q < 0; q += T) {"),
        ("norm: wide rows not squared", NORM, "sum += quad_square(v);", 0, ""),
        ("norm: eps lost", NORM, " + a.eps)", 0, ")"),
        ("norm: mean over quads", NORM, "/ (float)a.cols", 0, "/ (float)(4 * n_quads)"),
        ("glu: up is gate", ELEMENT, "a.up + row", 0, "a.gate + row"),
        ("glu: other activation", ELEMENT, "if (a->gelu && a->aligned)", 0, "if (!a->gelu && a->aligned)"),
        ("softcap: not scaled back", ELEMENT, "v.w = a.cap * tanhf", 0, "v.w = tanhf"),
        ("gather: last column lost", COPY, "quad_store<ALIGNED>(a.y", 0, "if (left != 1) quad_store<ALIGNED>(a.y"),
        ("gather: rows not checked", COPY, "row < a.x_rows", 0, "row < a.x_rows + 1"),
        ("kv_copy: half of a page", COPY, "first + k * PAGE_THREADS < n) dst", 0, "first + k * PAGE_THREADS < n / 2) dst"),
    ],
    "test_cuda_rope": [
        ("angles: quadrant of the sine", ROPE, "quadrant & 2 ? -sw : sw", 0, "quadrant & 1 ? -sw : sw"),
        ("angles: second part of pi lost", ROPE, " - q * 0x1.0b4611a626331p-34", 0, ""),
        ("angles: mscale of the cosine lost", ROPE, "(float)(size * ((quadrant + 1)", 0, "(float)(((quadrant + 1)"),
        ("rope: partner one off", ROPE, "lo + a.rope_dims / 2 : lo + 4", 0, "lo + a.rope_dims / 2 + 4 : lo + 4"),
        ("rope: interleaved pairs share an angle", ROPE, "v.x = q.x * c.z - q.y * s.z", 0, "v.x = q.x * c.x - q.y * s.z"),
        ("rope: q normed with k's weights", ROPE, "h < a.n_heads ? a.q_norm", 0, "h < a.n_heads ? a.k_norm"),
        ("rope: v turned too", ROPE, "t.turned = h < a.n_heads + a.n_kv_heads", 0, "t.turned = true"),
        ("rope: KV before the norm", ROPE, "u = quad_scale(u, scale, quad_load<ALIGNED>(t.norm + lo, 4));", 0, ""),
        ("rope: slot in the page", ROPE, "pos - slot * a.page_size", 0, "pos % 16"),
        ("rope: page not checked", ROPE, "page >= a.n_pages) return t", 0, "page > a.n_pages + 1) return t"),
        ("rope: K where V goes", ROPE, "((int64_t)page * 2 + is_v)", 0, "((int64_t)page * 2)"),
        ("rope any: rest not stored", ROPE, "for (int i = 2 * half + lane;", 0, "for (int i = 2 * half + lane + 1;"),
        ("rope any: half of the squares", ROPE, "square = lanes_sum<FULL_WARP>(square)", 0, "square = lanes_sum<16>(square)"),
    ],
    "test_cuda_moe": [
        ("route: higher index of equal logits", MOE, "__reduce_min_sync(0xffffffffu, best == most ? index : 0xffffffffu)", 0,
         "__reduce_max_sync(0xffffffffu, best == most ? index : 0u)"),
        ("route: -0 below 0", MOE, "logit + 0.0f", 0, "logit"),
        ("route: softmax over the chosen", MOE, "    sum += value[j];", 0, "    sum += chosen >> j & 1 ? value[j] : 0.0f;"),
        ("route: always renormalised", MOE, "a.renormalise ? ", 0, "true ? "),
        ("sort: rows sorted before they are routed", MOE,
         "  __syncthreads(); /* the rows' experts are there for all */\n", 0, ""),
        ("sort: counts read before written", MOE, "  __syncthreads();\n  for (int e = warp", 0, "  for (int e = warp"),
        ("sort: starts read before written", MOE, "  __syncthreads();\n  for (int at", 0, "  for (int at"),
        ("sort: totals read before written", MOE, "  __syncthreads();\n  if (warp == 0)", 0, "  if (warp == 0)"),
        ("sort: carry lost", MOE, "carry + sum", 0, "sum"),
        ("combine: last expert forgotten", MOE, "k < a.n_used; k++) { /*", 0, "k < a.n_used - (a.n_used > 1); k++) { /*"),
        ("matmul: no wait for copies", MATMUL, "    cu_cp_async_wait<STAGES - 2>();\n", 0, ""),
        ("matmul: no barrier between rounds", MATMUL, "    __syncthreads(); /* round i", 0, "    /* round i"),
        ("matmul: sums over rings in use", MATMUL, "    __syncthreads(); /* the ring is read", 0, "    /* the ring is read"),
        ("matmul: sums read before written", MATMUL, "    __syncthreads();\n    if (kk == 1) return;", 0, "    if (kk == 1) return;"),
        ("matmul: slice not put aside", MATMUL, "i == cut && i > 0", 0, "false"),
        ("matmul: slices cut elsewhere", MATMUL, "chunks : weir_mm_slice_begin(chunks, a.slices, 1)", 0, "chunks : (chunks + 1) / a.slices"),
        ("matmul: a row too few", MATMUL, "if (r >= tile.count) continue;", 0, "if (r >= tile.count - (tile.count > 3)) continue;"),
        ("matmul: rows of the tile before", MATMUL, "tile.first + row : a.pick", 0, "row : a.pick"),
        ("matmul: answers in sorted order", MATMUL, "a.sorted_x ? a.pick[tile.first + r] : tile.first + r", 0, "tile.first + r"),
        ("matmul: missing features written", MATMUL, "if (f + 8 < expert.rows)", 0, ""),
        ("dense: repeated picks written", DENSE, "j >= n || ", 0, ""),
        ("dense: tail of the columns lost", DENSE, "c < a.cols; c += 128", 0, "c + 3 < a.cols; c += 128"),
        ("dense: last features repeat", DENSE, "min(f0 + r, expert.rows - 1)", 0, "min(f0 + r, expert.rows - 2)"),
    ],
}


def main():
    missed = 0
    for test, bugs in BUGS.items():
        plant.TEST, plant.BUGS = test, bugs
        missed |= plant.main()
    return missed


if __name__ == "__main__":
    sys.exit(main())
