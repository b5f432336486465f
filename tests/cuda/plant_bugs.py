# SPDX-License-Identifier: Apache-2.0
"""The bugs that plant.py plants: groups of edits of kernel files, each with the test that must notice it."""

DECODE, ANY, MERGE = "attend_decode.cu", "attend_any.cu", "attend_merge.cu"
PREFILL = "attend_prefill.cuh"
NORM, ROPE, ELEMENT, COPY = "norm.cu", "rope.cu", "elementwise.cu", "copy.cu"
MOE, MOE_MATMUL, MOE_DENSE = "moe.cu", "moe_matmul.cu", "moe_dense.cu"
MATMUL, PANEL, CAST, GEMV = "matmul.cuh", "panel.cuh", "cast.cu", "dense_gemv.cu"
SAMPLE, CUT, TOP, LAW = "sample.cu", "sample_cut.cu", "sample_top.cu", "sample.cuh"
REPACK, DEQUANT, CODES, EMBED = "repack.cu", "dequant.cu", "dequant.cuh", "embed.cu"

# The file to compile for a header.
UNIT_OF = {PREFILL: "attend_prefill.cu", MATMUL: "matmul.cu", PANEL: "matmul.cu", LAW: "sample.cu", CODES: "dequant.cu"}

# name, file, what is there (and which of several, from 0), what is planted
ATTEND_BUGS = [
    ("decode: no wait for copies", DECODE, "    cu_cp_async_wait<ST - 2>();\n", 0, ""),
    ("decode: waits for a copy too few", DECODE, "cu_cp_async_wait<ST - 2>()", 0, "cu_cp_async_wait<ST - 1>()"),
    ("decode: no barrier between wait and use", DECODE, "    __syncwarp(); /*", 0, "    /*"),
    ("decode: sums over rings in use", DECODE, "    __syncthreads(); /* the rings are free */\n", 0, ""),
    ("decode: sums read before written", DECODE, "    __syncthreads();\n", 0, ""),
    ("decode: next item over sums in use", DECODE,
     "    __syncthreads(); /* before the next item's rings overwrite the sums */\n", 0, ""),
    ("decode: tail mask one too far", DECODE, "at <= s.last[h]", 0, "at <= s.last[h] + 1"),
    ("decode: tail mask one too near", DECODE, "at <= s.last[h]", 0, "at < s.last[h]"),
    ("decode: window one too wide", DECODE, "at >= s.from[h]", 0, "at >= s.from[h] - 1"),
    ("decode: copies behind the end", DECODE, " && t0 + r < t.end", 0, ""),
    ("decode: copies before the window", DECODE, "t0 + r >= t.first && ", 0, ""),
    ("decode: ring one block short", DECODE, "ring + j % ST * STAGE, start(j), s)", 0,
     "ring + j % (ST - 1) * STAGE, start(j), s)"),
    ("decode: sum not scaled down", DECODE, "s.l[h] * shrink + sum", 0, "s.l[h] + sum"),
    ("decode: low half of P lost", DECODE, "s.o[i][0] += s.o[i][2]", 0, "s.o[i][0] += 0.0f"),
    ("decode: large q not brought down", DECODE, "min(max(e, 1), 253)", 0, "min(max(e, 127), 127)"),
    ("decode: K not transposed", DECODE, "cu_ldmatrix_x4_trans(b, V", 0, "cu_ldmatrix_x4(b, V"),
    ("decode: pages looked up one late", DECODE, "now = next, next = find(j + 32)", 0, "next = find(j + 32)"),
    ("any: block overwritten while in use", ANY, "      __syncthreads(); /* before the next block overwrites this one */\n",
     0, ""),
    ("any: block used before it is there", ANY, "      __syncthreads();\n", 0, ""),
    ("any: weights read before written", ANY, "      __syncwarp();\n", 0, ""),
    ("any: tail mask one too far", ANY, "t0 + col <= last[j]", 0, "t0 + col <= last[j] + 1"),
    ("any: head of the wrong row", ANY, "shrink[r & 1], (r >> 1) * 16", 0, "shrink[r & 1], (r & 1) * 16"),
    ("merge: columns read before written", MERGE, "    __syncthreads();\n", 0, ""),
    ("merge: columns overwritten while read", MERGE, "    __syncthreads(); /* the last pass has been read */\n", 0, ""),
    ("merge: unwritten pieces are read", MERGE, "if (!(part.ml[at * 2 + 1] > 0.0f)) continue;", 0, ";"),
    ("merge: last piece forgotten", MERGE, "i < g.n_slots; i += MERGE_WARPS", 0, "i < g.n_slots - 1; i += MERGE_WARPS"),
]
SMALL_BUGS = [
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
]
ROPE_BUGS = [
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
]
MOE_BUGS = [
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
        ("matmul: no wait for copies", MOE_MATMUL, "    cu_cp_async_wait<STAGES - 2>();\n", 0, ""),
        ("matmul: no barrier between rounds", MOE_MATMUL, "    __syncthreads(); /* round i", 0, "    /* round i"),
        ("matmul: sums over rings in use", MOE_MATMUL, "    __syncthreads(); /* the ring is read", 0, "    /* the ring is read"),
        ("matmul: sums read before written", MOE_MATMUL, "    __syncthreads();\n    if (kk == 1) return;", 0, "    if (kk == 1) return;"),
        ("matmul: slice not put aside", MOE_MATMUL, "i == cut && i > 0", 0, "i == cut && i > 99"),
        ("matmul: slices cut elsewhere", MOE_MATMUL, "chunks : weir_mm_slice_begin(chunks, a.slices, 1)", 0, "chunks : (chunks + 1) / a.slices"),
        ("matmul: a row too few", MOE_MATMUL, "if (r >= tile.count) continue;", 0, "if (r >= tile.count - (tile.count > 3)) continue;"),
        ("matmul: rows of the tile before", MOE_MATMUL, "tile.first + row : a.pick", 0, "row : a.pick"),
        ("matmul: answers in sorted order", MOE_MATMUL, "a.sorted_x ? a.pick[tile.first + r] : tile.first + r", 0, "tile.first + r"),
        ("dense: repeated picks written", MOE_DENSE, "j >= n || ", 0, ""),
        ("dense: tail of the columns lost", MOE_DENSE, "c < a.cols; c += 128", 0, "c + 3 < a.cols; c += 128"),
        ("dense: last features repeat", MOE_DENSE, "min(f0 + r, expert.rows - 1)", 0, "min(f0 + r, expert.rows - 2)"),
]
PREFILL_BUGS = [
    ("prefill: no wait for K", PREFILL, "    cu_cp_async_wait<1>();\n    __syncthreads(); /* K", 0, "    __syncthreads(); /* K"),
    ("prefill: no wait for V", PREFILL, "    cu_cp_async_wait<1>();\n    __syncthreads(); /* V", 0, "    __syncthreads(); /* V"),
    ("prefill: no barrier before K", PREFILL, "    __syncthreads(); /* K is there, and everybody has left what `next` held */\n", 0, ""),
    ("prefill: no barrier before V", PREFILL, "    __syncthreads(); /* V is there */\n", 0, ""),
    ("prefill: Q read before written", PREFILL, "  __syncwarp(); /* a warp reads no other's rows of Q */\n", 0, ""),
    ("prefill: next item over blocks in use", PREFILL, "prefill_store<D, MT>(a, t, w, first);\n  __syncthreads();\n", 0,
     "prefill_store<D, MT>(a, t, w, first);\n"),
    ("prefill: mask one too far", PREFILL, "n * 8 + e > hi", 0, "n * 8 + e > hi + 1"),
    ("prefill: window one too wide", PREFILL, "n * 8 + e < lo", 0, "n * 8 + e < lo - 1"),
    ("prefill: block on the diagonal taken for whole", PREFILL, "(p < end ? p : end - 1) - PREFILL_BLOCK + 1", 0,
     "(p < end ? p : end - 1) - PREFILL_BLOCK + 2"),
    ("prefill: sums not scaled down", PREFILL, "        w.l[mt][h] *= fade;\n", 0, ""),
    ("prefill: rows behind the span are read", PREFILL, "WHOLE || (uint32_t)(at + r) < n", 0, "true"),
    ("prefill: negative scale", PREFILL, "a.scale < 0.0f ? -1.0f", 0, "a.scale < 0.0f ? 1.0f"),
    ("prefill: partial results where others lie", PREFILL, "(int64_t)t->slot * WEIR_ATTN_LONG_ROWS + r", 0,
     "(int64_t)t->slot * (WEIR_ATTN_LONG_ROWS / 2) + r"),
]
LINEAR_BUGS = [
    ("linear: no wait for copies", MATMUL, "    cu_cp_async_wait<STAGES - 2>();\n", 0, ""),
    ("linear: no barrier between rounds", MATMUL,
     "    __syncthreads(); /* round i is there for all; round i - 1 is read by none any more: its place is free */\n", 0, ""),
    ("linear: sums over rings in use", MATMUL, "    __syncthreads(); /* the ring is read by none any more */\n", 0, ""),
    ("linear: sums read before written", MATMUL, "    __syncthreads();\n    if (kk == 0) {", 0, "    if (kk == 0) {"),
    ("linear: ticket not set back", MATMUL, "    if (*last) m.ticket[blockIdx.x] = 0; /*", 0, "    /*"),
    ("linear: ticket before the parts are there", MATMUL, "  __syncthreads();\n  int *last =", 0, "  int *last ="),
    ("linear: missing features written", MATMUL, "    if (f >= m.w.rows) continue;\n", 0, ""),
    ("linear: a row of the batch too many", MATMUL, "if (r + 1 < m.n)", 0, "if (r < m.n)"),
    ("linear: tiles beyond the last are read", MATMUL, "o / L::LOW < left", 0, "true"),
    ("linear: mins of the other block", MATMUL, "pair % 2 ? min4 >> 16 : min4", 0, "pair % 2 ? min4 : min4 >> 16"),
    ("linear: mins not taken off", MATMUL, "fmaf(-dmin[i / 2]", 0, "fmaf(dmin[i / 2]"),
    ("linear: panel's place of the round before", MATMUL, "xs + (i + 1) % 2 * L::PANEL", 0, "xs + i % 2 * L::PANEL"),
    ("linear: bias of the wrong feature", MATMUL, "m.bias[f]", 0, "m.bias[f - 8 * i]"),
    ("panel: tail of the columns not zero", PANEL, "cols - c - 128, aligned", 0, "cols - c, aligned"),
    ("panel: lower digits of the sums lost", PANEL, "sum[lane / 8 + 8] = f2h(s - h2f(sh));", 0, "sum[lane / 8 + 8] = 0;"),
    ("panel: swizzle of the next row", PANEL, "(lane >> 1) ^ (row & 7)", 0, "(lane >> 1) ^ (row + 1 & 7)"),
    ("panels: missing rows are read", CAST, "if (row < a.n) v = panel_load", 0, "if (row <= a.n) v = panel_load"),
]
DENSE_BUGS = [
    ("gemv: x read before written", GEMV, "    __syncthreads();\n    /* Runs are", 0, "    /* Runs are"),
    ("gemv: x overwritten while read", GEMV, "    if (at) __syncthreads(); /* the span before has been read */\n", 0, ""),
    ("gemv: sums read before written", GEMV, "  __syncthreads();\n  /* Sums of", 0, "  /* Sums of"),
    ("gemv: tail of the columns", GEMV, "i < left ? value(p[i]", 0, "i <= left ? value(p[i]"),
    ("gemv: last column lost", GEMV, "if (c + 3 < a.cols)", 0, "if (c + 4 < a.cols)"),
    ("gemv: runs of the spans' own number", GEMV, "(warp - at / RUN) & (share - 1)", 0, "warp & (share - 1)"),
    ("gemv: a lane's sum lost", GEMV, "for (int o = 16; o > 0; o >>= 1) acc", 0, "for (int o = 16; o > 1; o >>= 1) acc"),
    ("gemv: missing features written", GEMV, "if (f >= a.rows || j >= a.n) return;", 0, "if (j >= a.n) return;"),
    ("cast: tops read before written", CAST, "  __syncthreads();\n", 0, ""),
    ("cast: padding not zero", CAST, "c < a.cols ? f2bf(a.x[r * a.x_ld + c]) : 0", 0, "f2bf(a.x[r * a.x_ld + min((int)c, a.cols - 1)])"),
    ("cast: scale not taken back", CAST, "(uint32_t)(127 - k) << 23", 0, "(uint32_t)(127 + k) << 23"),
]
SAMPLE_BUGS = [
    ("stat: higher id of equal maxima", SAMPLE, "(b.max == a.max && b.top < a.top)", 0, "(b.max == a.max && b.top > a.top)"),
    ("stat: second of the other half lost", SAMPLE, "low > rest ? low : rest, other", 0, "rest, other"),
    ("stat: equal maximum is no second", SAMPLE, "} else if (x[k] > m.second) {", 0, "} else if (x[k] > m.second && x[k] < m.max) {"),
    ("stat: peaks read before written", SAMPLE, "  __syncthreads();\n  m = peaks[0];", 0, "  m = peaks[0];"),
    ("stat: folds read before written", SAMPLE, "  __syncthreads();\n  if (tid != 0) return;", 0, "  if (tid != 0) return;"),
    ("stat: histogram not cleared", SAMPLE, "h[i] = 0;", 0, ";"),
    ("race: first quad for all", SAMPLE, "p.first + i, &law", 0, "i, &law"),
    ("race: ties at the cut all stay", SAMPLE, "id + j >= law->end_ties", 0, "false"),
    ("race: below the cut stays", SAMPLE, "key < law->min_key || ", 0, ""),
    ("race: tail of the chunk", SAMPLE, "i + j < p.n ? l[i + j]", 0, "i + j <= p.n ? l[i + j]"),
    ("race: wins over the first in use", SAMPLE, "  __syncthreads(); /* wins[0] was read */\n", 0, ""),
    ("race: wins read before written", SAMPLE, "  __syncthreads();\n  if (tid == 0) {\n    for", 0, "  if (tid == 0) {\n    for"),
    ("cut: ties one too many", CUT, "++before == left", 0, "before++ == left"),
    ("cut: list longer than its place", CUT, "if (at < LIST) s->list", 0, "s->list"),
    ("cut: list trusted when it is full", CUT, "!first && s->n_list <= LIST", 0, "!first"),
    ("cut: far ids not counted", CUT, "  if (far != 0) atomicAdd(&s->hist.count[0], far);\n", 0, ""),
    ("cut: state overwritten while read", CUT, "  __syncthreads(); /* everybody has read the state */\n", 0, ""),
    ("cut: buffer overwritten while read", CUT, "    if (l == buf) __syncthreads(); /* before the next chunk comes there */\n", 0, ""),
    ("top: a round gives the same again", TOP, "v < below && v > own", 0, "v <= below && v > own"),
    ("top: lists of the first chunk", TOP, "i / want * WEIR_TOP_MAX + i % want", 0, "i % want"),
    ("top: best read before written", TOP, "  __syncthreads();\n  const int32_t k", 0, "  const int32_t k"),
    ("top: higher id of equal logits", "sample_top.cu", "sample_pack(l[i], p.first + i)", 0, "sample_pack(l[i], ~(p.first + i))"),
    ("last block: not all have written", LAW, "  __syncthreads();\n  if (threadIdx.x == 0) {\n    __threadfence();", 0,
     "  if (threadIdx.x == 0) {\n    __threadfence();"),
    ("best: words overwritten while read", LAW, "> best ? word[i] : best;\n  __syncthreads();\n", 0, "> best ? word[i] : best;\n"),
    ("shaped: edits before the copy", LAW, "buf[i] = l[i];\n  __syncthreads();\n", 0, "buf[i] = l[i];\n"),
    ("exp: a digit of ln 2", LAW, "-2.12194440e-4f", 0, "-2.12194480e-4f"),
]
WEIGHTS_BUGS = [
    ("repack: rows of the tile before", REPACK, "(size_t)(rt0 + rt) * n_ktiles + kt", 0, "(size_t)rt * n_ktiles + kt"),
    ("repack: missing rows are read", REPACK, "row >= a.rows || col >= a.w.cols", 0, "col >= a.w.cols"),
    ("repack: high bits of Q6_K", REPACK, "8 * (s % 2) + 2 * (i / 2) + 4 * (i % 2)", 0, "8 * (s % 2) + 2 * (i % 2) + 4 * (i / 2)"),
    ("repack: high bits of Q5", REPACK, "8 * (s / 2) + 2 * (s % 2) + i / 2 + 4 * (i % 2)", 0, "8 * (s / 2) + 2 * (s % 2) + i / 2 + 5 * (i % 2)"),
    ("repack: halves of Q8_0", REPACK, "<< 16 * (i % 2)", 0, "<< 8 * (i % 2)"),
    ("repack: last byte of K scales", REPACK, "i < 12; i++", 0, "i < 11; i++"),
    ("repack: scales of Q6_K by part", REPACK, "b->scale[kt % 4 * 4 + p]", 0, "b->scale[kt % 4 + p]"),
    ("repack: scales of missing columns", REPACK, "row && col < w.cols ?", 0, "row ?"),
    ("dequant: tile read before written", DEQUANT, "    __syncwarp();\n#pragma", 0, "#pragma"),
    ("dequant: tile overwritten while read", DEQUANT, "    __syncwarp(); /* the next tile overwrites it */\n", 0, ""),
    ("dequant: rows before the first", DEQUANT, "row >= 0 && row < a.rows", 1, "row < a.rows"),
    ("dequant: columns beyond the last", DEQUANT, "col < a.w.cols", 1, "true"),
    ("codes: zero point of odd pairs", CODES, "0xd400u + 16 * ZERO", 0, "0xd400u + 8 * ZERO"),
    ("codes: second high bit of Q5", CODES, "weir_shift(c.high, b + 1)", 0, "weir_shift(c.high, b + 2)"),
    ("codes: upper scales", CODES, "b.y >> 2 & 0x30303030u", 0, "b.y >> 4 & 0x30303030u"),
    ("codes: low of the other row", CODES, "e - s.low[i % 2]", 0, "e - s.low[0]"),
]
EMBED_BUGS = [
    ("embed: ids of the segment before", EMBED, "if (at < 0 || at >= a.w.rows) continue;", 0, "if (at >= a.w.rows) continue;"),
    ("embed: id one past the segment", EMBED, "row < 0 || row >= a.w.rows", 0, "row < 0 || row > a.w.rows"),
    ("embed: row eight further", EMBED, "r >= 8", 0, "r > 8"),
    ("embed: scale lost", EMBED, "(size_t)row * a.w.cols + c) * a.scale", 0, "(size_t)row * a.w.cols + c)"),
    ("embed: columns beyond the last", EMBED, "if (c >= a.w.cols) continue;", 0, ""),
    ("embed: steps of the first part", EMBED, "s * weir_quant<T>::parts / 4", 0, "0"),
]

GROUPS = {
    "attend": ("test_cuda_attend", ATTEND_BUGS),
    "prefill": ("test_cuda_prefill", PREFILL_BUGS),
    "small": ("test_cuda_small", SMALL_BUGS),
    "rope": ("test_cuda_rope", ROPE_BUGS),
    "moe": ("test_cuda_moe", MOE_BUGS),
    "linear": ("test_cuda_linear", LINEAR_BUGS),
    "dense": ("test_cuda_dense", DENSE_BUGS),
    "sample": ("test_cuda_sample", SAMPLE_BUGS),
    "weights": ("test_cuda_weights", WEIGHTS_BUGS),
    "embed": ("test_cuda_embed", EMBED_BUGS),
}

# Bugs that change nothing that a test can see, and why.
SAME = {
    "dequant: tile overwritten while read":
        "a warp has a second tile only of weights of more than 65536 * 4 tiles, 268 million elements",
}

# Mutants of single tokens of one file: pattern, what stands there instead.
TOKENS_OF, TOKENS_TEST = DECODE, "test_cuda_attend"
TOKENS = [
    (r"__syncwarp\(\);", ""),
    (r"__syncthreads\(\);", ""),
    (r"cu_cp_async_wait<ST - 2>\(\)", "cu_cp_async_wait<ST - 1>()"),
    (r"cu_cp_async_commit\(\);", ""),
    (r"cu_cp_async_wait_all\(\);", ""),
    (r"\(lane >> 4\) \* 8", "(lane >> 3 & 1) * 8"),
    (r"\(lane >> 3 & 1\)\)", "(lane >> 4))"),
    (r"j < mine\b", "j <= mine"),
    (r"< t\.end\b", "<= t.end"),
    (r"<= s\.last", "< s.last"),
    (r"r < t\.it\.n_rows", "r <= t.it.n_rows"),
    (r"ldmatrix_x4_trans", "ldmatrix_x4"),
    (r"\* shrink \+ sum", "+ sum"),
    (r"\* DECODE_WARPS\b(?! \*)", "* 3"),
    (r"\(i & 1\) \+ \(i >> 1\) \* 8", "(i >> 1) + (i & 1) * 8"),
    (r"% ST \*", "% (ST - 1) *"),
    (r"/ DECODE_WARPS : 0", "/ DECODE_WARPS + 1 : 0"),
    (r"cu_exp2\(s\.m\[h\] - top\)", "cu_exp2(top - s.m[h])"),
    (r"b \+ 2\)", "b)"),
    (r"x, 2\)\)", "x, 4))"),
    (r"\(j & 31\) == 0", "(j & 15) == 0"),
]
# Of these, those that change nothing: (the line, the token's column in it, what stands there instead): why.
TOKENS_SAME = {
    ("cu_cp_async_wait_all();", 0, ""): "the groups that are still open hold no copies: the loop has waited for all blocks",
    ("if (j < mine) fetch(j);", 4, "j <= mine"):
        "block `mine` begins at or behind the piece's end: zeros to a place that holds no block yet",
}
