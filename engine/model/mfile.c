/* SPDX-License-Identifier: Apache-2.0 */
/* Model files of either kind behind one face. Owns the open file; calls the readers of the two kinds; any
 * thread, read-only once open. */
#include "model/mfile.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/gguf_index.h"
#include "model/mfile_in.h"

weir_status weir_mfile_parse_gguf(const void *data, size_t len, weir_mfile **out, weir_err *e) {
  weir_gguf *g;
  *out = NULL;
  weir_status st = weir_gguf_parse(data, len, &g, e);
  if (st != WEIR_OK) return st;
  st = WEIR_NEW(1, out, e);
  if (st == WEIR_OK)
    (*out)->gguf = g;
  else
    weir_gguf_close(g);
  return st;
}

void weir_mfile_close(weir_mfile *m) {
  if (!m) return;
  weir_gguf_close(m->gguf);
  for (int32_t i = 0; i < m->n_parts; i++) weir_gguf_close(m->part[i]);
  free(m->part);
  weir_hf_weights_close(m->weights);
  weir_hf_close(m->hf);
  free(m);
}

const weir_gguf *weir_mfile_gguf(const weir_mfile *m) { return m->gguf; }
const weir_hf *weir_mfile_hf(const weir_mfile *m) { return m->hf; }

static void info_of(const weir_gguf_tensor *t, weir_tensor_info *out) {
  *out = (weir_tensor_info){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .bytes = t->bytes};
  memcpy(out->dim, t->dim, sizeof out->dim);
}

int64_t weir_mfile_n_tensors(const weir_mfile *m) {
  return m->gguf ? weir_gguf_n_tensors(m->gguf) : weir_hf_weights_n(m->weights);
}
void weir_mfile_tensor_at(const weir_mfile *m, int64_t i, weir_tensor_info *out) {
  if (m->gguf)
    info_of(weir_gguf_tensor_at(m->gguf, i), out);
  else
    *out = weir_hf_weights_at(m->weights, (int32_t)i)->info;
}

/* ---- look-up ---- */

typedef struct stored {
  weir_tensor_info info;
  const uint8_t *data;
  const weir_convert *convert; /* NULL: as it is */
} stored;

static bool find_whole(const weir_mfile *m, const char *name, stored *out) {
  if (m->gguf) {
    const weir_gguf_tensor *t = weir_gguf_find(m->gguf, name);
    if (!t) return false;
    *out = (stored){.data = t->data};
    info_of(t, &out->info);
    return true;
  }
  const weir_hf_tensor *t = weir_hf_weights_find(m->weights, name);
  if (!t) return false;
  *out = (stored){t->info, t->data, t->convert.method == WEIR_QUANT_NONE ? NULL : &t->convert};
  return true;
}

/* One of `parts` equal runs of rows of matrix `i` of a stack of matrices. */
static bool cut(stored *s, int32_t i, int32_t part, int32_t parts) {
  weir_tensor_info *t = &s->info;
  if (s->convert || t->n_dims != 3 || i >= t->dim[2] || t->dim[1] % parts != 0) return false;
  t->bytes = t->bytes / (size_t)t->dim[2] / (size_t)parts; /* exact: rows are whole blocks */
  s->data += ((size_t)i * (size_t)parts + (size_t)part) * t->bytes;
  t->dim[1] /= parts;
  t->dim[2] = 1;
  t->n_dims = 2;
  return true;
}

static bool find(const weir_mfile *m, const char *name, stored *out) {
  weir_expert_name x;
  if (find_whole(m, name, out)) return true;
  if (!weir_expert_name_parse(name, &x)) return false;
  if (find_whole(m, x.stack, out)) return cut(out, x.expert, 0, 1);
  return *x.fused && find_whole(m, x.fused, out) && cut(out, x.expert, x.is_up, 2);
}

bool weir_mfile_find(const weir_mfile *m, const char *name, weir_tensor_info *out) {
  stored s;
  if (!find(m, name, &s)) return false;
  if (out) *out = s.info;
  return true;
}

/* ---- reading ---- */

static bool is_mapped(const weir_mfile *m) { return m->gguf ? m->gguf->mapped : *weir_hf_path(m->hf) != 0; }

/* Of file pages only, which come back from the file; what was handed in as memory would come back as zeros.
 * The first and last page may hold other tensors' bytes too: those come back likewise. */
static void drop_pages(const weir_mfile *m, const uint8_t *data, size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (uintptr_t)data % page;
  if (is_mapped(m) && bytes > 0)
    (void)madvise((void *)(uintptr_t)(data - before), bytes + before, MADV_DONTNEED);
}

static void drop_stored(const weir_mfile *m, const weir_st_tensor *t) {
  if (t) drop_pages(m, t->data, t->bytes);
}

/* What loads of the type want; safetensors files promise nothing. */
static size_t alignment_of(weir_dtype t) { return t == WEIR_F32 ? 4 : 2; }

static void drop_converted(const weir_mfile *m, const weir_convert *c) {
  drop_stored(m, c->weight);
  drop_stored(m, c->scale);
  drop_stored(m, c->zero);
  drop_stored(m, c->g_idx);
}

static weir_status check_part(const stored *s, const char *name, weir_tensor_part p, weir_err *e) {
  const weir_tensor_info *t = &s->info;
  const int64_t rows = t->dim[1], cols = t->dim[0], block = weir_dtype_get(t->dtype)->block_elems;
  if (t->dim[2] != 1 || t->dim[3] != 1 || p.row < 0 || p.n_rows < 1 || p.n_rows > rows - p.row || p.col < 0 ||
      p.n_cols < 1 || p.n_cols > cols - p.col)
    return weir_fail(e, WEIR_EINVAL, "tensor %s is [%lld, %lld]: rows %lld + %lld, columns %lld + %lld", name,
                     (long long)rows, (long long)cols, (long long)p.row, (long long)p.n_rows,
                     (long long)p.col, (long long)p.n_cols);
  if (p.col % block != 0 || p.n_cols % block != 0)
    return weir_fail(e, WEIR_EINVAL, "tensor %s: columns %lld + %lld cut blocks of %lld", name,
                     (long long)p.col, (long long)p.n_cols, (long long)block);
  return WEIR_OK;
}

/* The part in memory of its own: converted, or its rows' columns copied together. */
static weir_status copy_part(const weir_mfile *m, const char *name, const stored *s, weir_tensor_part p,
                             size_t row_bytes, weir_tensor *out, weir_err *e) {
  const weir_dtype_info *type = weir_dtype_get(s->info.dtype);
  const size_t run = out->info.bytes / (size_t)p.n_rows;
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_calloc_aligned(out->info.bytes, 1, name, &out->own, e));
  if (s->convert) {
    weir_convert_run(s->convert, (weir_convert_part){p.row, p.n_rows, p.col, p.n_cols}, out->own);
    drop_converted(m, s->convert);
    goto out;
  }
  const uint8_t *from = s->data + (size_t)p.row * row_bytes;
  const size_t skip = (size_t)(p.col / type->block_elems) * (size_t)type->block_bytes;
  for (int64_t r = 0; r < p.n_rows; r++)
    memcpy((uint8_t *)out->own + (size_t)r * run, from + (size_t)r * row_bytes + skip, run);
  drop_pages(m, from, (size_t)p.n_rows * row_bytes);
out:
  return st;
}

static weir_status read_part(const weir_mfile *m, const char *name, const stored *s, weir_tensor_part p,
                             weir_tensor *out, weir_err *e) {
  const int64_t cols = s->info.dim[0];
  weir_status st = WEIR_OK;
  size_t row_bytes = 0, run = 0;
  WEIR_TRY(check_part(s, name, p, e));
  WEIR_TRY(weir_dtype_row_bytes(s->info.dtype, cols, &row_bytes, e));
  WEIR_TRY(weir_dtype_row_bytes(s->info.dtype, p.n_cols, &run, e));
  out->info = s->info;
  out->info.dim[0] = p.n_cols;
  out->info.dim[1] = p.n_rows;
  if (!weir_mul_size((size_t)p.n_rows, run, &out->info.bytes))
    WEIR_TRY(weir_fail(e, WEIR_EFORMAT, "tensor %s: its size in bytes overflows", name));
  if (!s->convert && p.n_cols == cols && (uintptr_t)s->data % alignment_of(s->info.dtype) == 0) {
    out->data = s->data + (size_t)p.row * row_bytes;
    return WEIR_OK;
  }
  WEIR_TRY(copy_part(m, name, s, p, row_bytes, out, e));
  out->data = out->own;
out:
  if (st != WEIR_OK) weir_tensor_release(out);
  return st;
}

weir_status weir_mfile_read_part(const weir_mfile *m, const char *name, weir_tensor_part p, weir_tensor *out,
                                 weir_err *e) {
  stored s;
  *out = (weir_tensor){0};
  if (!find(m, name, &s)) return weir_fail(e, WEIR_EFORMAT, "tensor %s is missing", name);
  return read_part(m, name, &s, p, out, e);
}

weir_status weir_mfile_read(const weir_mfile *m, const char *name, weir_tensor *out, weir_err *e) {
  stored s;
  *out = (weir_tensor){0};
  if (!find(m, name, &s)) return weir_fail(e, WEIR_EFORMAT, "tensor %s is missing", name);
  const weir_tensor_info info = s.info;
  s.info.dim[1] *= s.info.dim[2] * s.info.dim[3]; /* a stack of matrices is a taller one */
  s.info.dim[2] = s.info.dim[3] = 1;
  const weir_tensor_part all = {0, s.info.dim[1], 0, s.info.dim[0]};
  const weir_status st = read_part(m, name, &s, all, out, e);
  if (st == WEIR_OK) out->info = info;
  return st;
}

void weir_tensor_release(weir_tensor *t) {
  free(t->own);
  *t = (weir_tensor){0};
}

void weir_mfile_let_go(const weir_mfile *m, weir_tensor *t) {
  if (t->data && !t->own) drop_pages(m, t->data, t->info.bytes);
  weir_tensor_release(t);
}
