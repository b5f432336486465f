/* SPDX-License-Identifier: Apache-2.0 */
/* Writes and reads traces. Owns the file while a call lasts; any thread. */
#include "calibrate/trace_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "traces are written as they lie in memory, and that is little-endian"
#endif
_Static_assert(sizeof(weir_trace_row) == 14 * 4, "a row of a file is 14 numbers of 4 bytes");

static const char magic[8] = {'W', 'E', 'I', 'R', 'T', 'R', 'C', '1'};

typedef struct head {
  char magic[8];
  int32_t n, dim, n_threads, batch;
  float temperature;
  int32_t zero;
  uint64_t seed;
  char name[4][WEIR_TRACE_NAME_BYTES];
  int32_t cost_n, cost_rows[WEIR_COST_POINTS], cost_zero;
  double cost_ns[2][WEIR_COST_POINTS], cost_all[2][WEIR_COST_POINTS], flops[2], head_flops[2],
      weight_bytes[2], kv_bytes[2];
} head;
_Static_assert(sizeof(head) == 8 + 6 * 4 + 8 + 4 * 256 + 18 * 4 + 8 * 8 * 9, "no padding in a file's head");

typedef struct text_head {
  int32_t n_prompt, n, part, right, prompts, hidden, zero[2];
} text_head;

/* ---- out ---- */

static void put(FILE *f, const void *p, size_t size, size_t n, bool *fine) {
  if (n > 0 && *fine) *fine = fwrite(p, size, n, f) == n;
}

static bool write_all(FILE *f, const weir_trace *t, const weir_trace_meta *m) {
  bool fine = true;
  head h = {.n = t->n,
            .dim = t->dim,
            .n_threads = m->n_threads,
            .batch = m->batch,
            .temperature = t->temperature,
            .seed = t->seed,
            .cost_n = m->cost.n};
  memcpy(h.magic, magic, sizeof magic);
  memcpy(h.name[0], m->small, sizeof m->small);
  memcpy(h.name[1], m->large, sizeof m->large);
  memcpy(h.name[2], m->data, sizeof m->data);
  memcpy(h.name[3], m->device, sizeof m->device);
  memcpy(h.cost_rows, m->cost.rows, sizeof h.cost_rows);
  memcpy(h.cost_ns, m->cost.ns, sizeof h.cost_ns);
  memcpy(h.cost_all, m->cost.ns_all, sizeof h.cost_all);
  memcpy(h.flops, m->cost.flops, sizeof h.flops);
  memcpy(h.head_flops, m->cost.head_flops, sizeof h.head_flops);
  memcpy(h.weight_bytes, m->cost.weight_bytes, sizeof h.weight_bytes);
  memcpy(h.kv_bytes, m->cost.kv_bytes, sizeof h.kv_bytes);
  put(f, &h, sizeof h, 1, &fine);
  for (int32_t i = 0; i < t->n; i++) {
    const weir_trace_text *x = &t->text[i];
    const text_head b = {.n_prompt = x->n_prompt,
                         .n = x->n,
                         .part = x->part,
                         .right = x->right,
                         .prompts = x->prompt_entropy != NULL,
                         .hidden = x->hidden != NULL};
    put(f, &b, sizeof b, 1, &fine);
    put(f, x->row, sizeof *x->row, (size_t)x->n, &fine);
    if (x->prompt_entropy) put(f, x->prompt_entropy, sizeof(float), (size_t)x->n_prompt - 1, &fine);
    if (x->hidden) put(f, x->hidden, sizeof(float), (size_t)x->n * (size_t)t->dim, &fine);
  }
  return fine;
}

weir_status weir_trace_write(const char *path, const weir_trace *t, const weir_trace_meta *m, weir_err *e) {
  char part[4096 + 8];
  if ((size_t)snprintf(part, sizeof part, "%s.part", path) >= sizeof part)
    return weir_fail(e, WEIR_EINVAL, "%.60s...: the path is too long", path);
  FILE *f = fopen(part, "wb");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", part, strerror(errno));
  errno = 0;
  const bool wrote = write_all(f, t, m);
  if (fclose(f) == 0 && wrote && rename(part, path) == 0) return WEIR_OK;
  weir_fail(e, WEIR_EIO, "%s: %s", path, errno ? strerror(errno) : "cannot write");
  remove(part);
  return WEIR_EIO;
}

/* ---- in ---- */

static weir_status get(FILE *f, const char *path, void *p, size_t size, size_t n, weir_err *e) {
  if (n == 0 || fread(p, size, n, f) == n) return WEIR_OK;
  return weir_fail(e, WEIR_EFORMAT, "%s: %s", path, ferror(f) ? strerror(errno) : "the trace ends too early");
}

static bool finite_all(const double *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!isfinite(x[i]) || x[i] < 0) return false;
  return true;
}

static weir_status read_head(FILE *f, const char *path, head *h, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(get(f, path, h, sizeof *h, 1, e));
  if (memcmp(h->magic, magic, sizeof magic) != 0)
    return weir_fail(e, WEIR_EFORMAT, "%s is not a trace of weir", path);
  if (h->n < 1 || h->n > WEIR_TRACE_MAX_TEXTS || h->dim < 0 || h->dim > WEIR_TRACE_MAX_DIM)
    return weir_fail(e, WEIR_EFORMAT, "%s: %d texts with hidden states of %d numbers", path, h->n, h->dim);
  if (!isfinite(h->temperature) || h->temperature < 0 || h->n_threads < 0 || h->batch < 1)
    return weir_fail(e, WEIR_EFORMAT, "%s: temperature, threads or batch are out of range", path);
  for (int i = 0; i < 4; i++)
    if (h->name[i][WEIR_TRACE_NAME_BYTES - 1])
      return weir_fail(e, WEIR_EFORMAT, "%s: a name has no end", path);
  if (h->cost_n < 0 || h->cost_n > WEIR_COST_POINTS)
    return weir_fail(e, WEIR_EFORMAT, "%s: costs at %d sizes, want %d at most", path, h->cost_n,
                     WEIR_COST_POINTS);
  for (int32_t i = 0; i < h->cost_n; i++)
    if (h->cost_rows[i] < 1 || (i > 0 && h->cost_rows[i] <= h->cost_rows[i - 1]))
      return weir_fail(e, WEIR_EFORMAT, "%s: sizes of costs do not ascend from 1", path);
  if (!finite_all(&h->cost_ns[0][0], 2 * WEIR_COST_POINTS) ||
      !finite_all(&h->cost_all[0][0], 2 * WEIR_COST_POINTS) || !finite_all(h->flops, 2) ||
      !finite_all(h->head_flops, 2) || !finite_all(h->weight_bytes, 2) || !finite_all(h->kv_bytes, 2))
    return weir_fail(e, WEIR_EFORMAT, "%s: a cost is not a number >= 0", path);
out:
  return st;
}

static const char *row_error(const weir_trace_row *r) {
  const float x[] = {r->q_entropy, r->q_max, r->q_margin, r->q_logprob, r->q_of_p,
                     r->p_entropy, r->p_max, r->p_margin, r->p_logprob, r->p_of_q};
  for (size_t i = 0; i < sizeof x / sizeof *x; i++) {
    const bool log = i == 3 || i == 4 || i == 8 || i == 9; /* -inf: a masked id, never drawn */
    if (isnan(x[i]) || x[i] == INFINITY || (x[i] == -INFINITY && !log)) return "a number is not finite";
    if (!log && x[i] < 0) return "an entropy or a probability is below 0";
    if (log && x[i] > 1e-3F) return "a log-probability is above 0";
  }
  if (isinf(r->q_gate)) return "a gate's score is not finite";
  if (r->q_token < 0 || r->p_token < 0) return "a token is below 0";
  if (r->q_ends != 0 && r->q_ends != 1) return "a flag is neither 0 nor 1";
  return NULL;
}

static weir_status read_text(FILE *f, const char *path, int32_t i, int32_t dim, weir_trace_text *x,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  text_head b;
  WEIR_TRY(get(f, path, &b, sizeof b, 1, e));
  if ((b.prompts | b.hidden) & ~1 || b.part < 0 || b.part >= WEIR_N_PARTS)
    return weir_fail(e, WEIR_EFORMAT, "%s: text %d: a flag or its part is out of range", path, i + 1);
  if (b.right < -1 || b.right > 1 || (b.hidden && (dim == 0 || b.n == 0)) || (b.prompts && b.n_prompt < 2))
    return weir_fail(e, WEIR_EFORMAT, "%s: text %d: its head does not fit the file's", path, i + 1);
  st = weir_trace_text_init(x, b.n_prompt, b.n, b.prompts, b.hidden ? dim : 0, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, WEIR_EFORMAT, "%s: text %d", path, i + 1);
  x->part = b.part;
  x->right = b.right;
  WEIR_TRY(get(f, path, x->row, sizeof *x->row, (size_t)x->n, e));
  for (int32_t k = 0; k < x->n; k++) {
    const char *why = row_error(&x->row[k]);
    if (why) return weir_fail(e, WEIR_EFORMAT, "%s: text %d, row %d: %s", path, i + 1, k + 1, why);
  }
  if (b.prompts) WEIR_TRY(get(f, path, x->prompt_entropy, sizeof(float), (size_t)x->n_prompt - 1, e));
  for (int32_t k = 0; b.prompts && k < x->n_prompt - 1; k++)
    if (!isfinite(x->prompt_entropy[k]) || x->prompt_entropy[k] < 0)
      return weir_fail(e, WEIR_EFORMAT, "%s: text %d: an entropy of its prompt is out of range", path, i + 1);
  if (b.hidden) WEIR_TRY(get(f, path, x->hidden, sizeof(float), (size_t)x->n * (size_t)dim, e));
  for (int64_t k = 0; b.hidden && k < (int64_t)x->n * dim; k++)
    if (!isfinite(x->hidden[k]))
      return weir_fail(e, WEIR_EFORMAT, "%s: text %d: a hidden state is not finite", path, i + 1);
out:
  return st;
}

static weir_status read_all(FILE *f, const char *path, weir_trace *t, weir_trace_meta *m, weir_err *e) {
  weir_status st = WEIR_OK;
  head h;
  WEIR_TRY(read_head(f, path, &h, e));
  WEIR_TRY(weir_trace_init(t, h.n, e));
  t->dim = h.dim;
  t->temperature = h.temperature;
  t->seed = h.seed;
  for (int32_t i = 0; i < h.n; i++) WEIR_TRY(read_text(f, path, i, h.dim, &t->text[i], e));
  if (fgetc(f) != EOF) return weir_fail(e, WEIR_EFORMAT, "%s: something follows the last text", path);
  *m = (weir_trace_meta){.n_threads = h.n_threads, .batch = h.batch, .cost = {.n = h.cost_n}};
  memcpy(m->small, h.name[0], sizeof m->small);
  memcpy(m->large, h.name[1], sizeof m->large);
  memcpy(m->data, h.name[2], sizeof m->data);
  memcpy(m->device, h.name[3], sizeof m->device);
  memcpy(m->cost.rows, h.cost_rows, sizeof h.cost_rows);
  memcpy(m->cost.ns, h.cost_ns, sizeof h.cost_ns);
  memcpy(m->cost.ns_all, h.cost_all, sizeof h.cost_all);
  memcpy(m->cost.flops, h.flops, sizeof h.flops);
  memcpy(m->cost.head_flops, h.head_flops, sizeof h.head_flops);
  memcpy(m->cost.weight_bytes, h.weight_bytes, sizeof h.weight_bytes);
  memcpy(m->cost.kv_bytes, h.kv_bytes, sizeof h.kv_bytes);
out:
  return st;
}

weir_status weir_trace_read(const char *path, weir_trace *t, weir_trace_meta *m, weir_err *e) {
  *t = (weir_trace){0};
  FILE *f = fopen(path, "rb");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  const weir_status st = read_all(f, path, t, m, e);
  fclose(f);
  if (st != WEIR_OK) weir_trace_fini(t);
  return st;
}
