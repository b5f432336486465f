/* SPDX-License-Identifier: Apache-2.0 */
/* Whole models on a device against the CPU: logits of the same tokens fed one by one and in chunks, and
 * greedy text. The reference is the CPU device with all weights turned into F32 before it sees them and KV in
 * F32, so that nothing of it is rounded: the device is not excused by roundings of the CPU's own. One thread.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/quant.h"
#include "kv/pages.h"
#include "run/forward.h"
#include "run/instance.h"
#include "serve/placement.h"
#include "step/batch.h"

static const weir_option table[] = {
    {.name = "device",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .def = "cuda",
     .arg = "DEV",
     .env = "",
     .help = "Device that is checked: cuda, cuda:N or cpu."},
    {.name = "cuda-library",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "weir-cuda.so, where it is not beside the program."},
    {.name = "rows",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "160",
     .min = 1,
     .max = 512,
     .env = "",
     .help = "Tokens of the prompt."},
    {.name = "tokens",
     .letter = 'n',
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "64",
     .min = 0,
     .max = 4096,
     .env = "",
     .help = "Tokens of greedy text."},
    {.name = "help",
     .letter = 'h',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "Other",
     .env = "",
     .help = "This text."},
};

/* How far the worst row's logits may be away, of its largest one. Up to 8 rows activations are rounded to 11
 * bits at most, and so is KV; up to 64 they are to 8 before BF16 weights; beyond, quantised weights and their
 * activations both to 8, which sends a row of a tiny mixture to another expert now and then. On the emulator
 * the worst of the tiny models came to 0.0042, 0.022 and 0.14. */
enum { FEW = 64, N_CHUNKS = 4, MAX_CHUNK = 512 };
static const int32_t chunks[N_CHUNKS] = {1, 8, FEW, MAX_CHUNK};
static double bound(int32_t rows) { return rows <= 8 ? 0.01 : rows <= FEW ? 0.05 : 0.3; }

typedef struct side {
  weir_dev *dev;
  weir_instance *inst;
  weir_batch_builder b;
} side;

typedef struct check {
  side cpu, gpu;
  int32_t n_vocab, n_ctx, n_prompt, n_text;
  int32_t *tok, *page; /* [n_ctx], [pages of it] */
  float *want, *got;   /* [n_prompt, n_vocab] */
} check;

/* ---- the reference: a CPU device that is only ever given F32 ---- */

static const weir_dev_ops *cpu_ops;

static void float_parts_free(weir_host_mat *part, int32_t n) {
  for (int32_t i = 0; i < n; i++) free((void *)(uintptr_t)part[i].data);
  free(part);
}

static weir_status float_prepare(weir_dev *dev, const weir_host_mat *part, int32_t n, weir_weight *w,
                                 weir_err *e) {
  weir_status st = WEIR_OK;
  weir_host_mat *f = NULL;
  WEIR_TRY(WEIR_NEW((size_t)n, &f, e));
  for (int32_t i = 0; i < n; i++) {
    const size_t rows = (size_t)part[i].rows, cols = (size_t)part[i].cols;
    size_t row_bytes, elems = 0;
    float *x = NULL;
    if (!weir_mul_size(rows, cols, &elems))
      WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "a weight of %d x %d overflows", part[i].rows, part[i].cols));
    WEIR_TRY(WEIR_NEW(elems, &x, e));
    f[i] = (weir_host_mat){x, WEIR_F32, part[i].rows, part[i].cols};
    WEIR_TRY(weir_dtype_row_bytes(part[i].dtype, part[i].cols, &row_bytes, e));
    for (size_t r = 0; r < rows; r++)
      WEIR_TRY(weir_dequantize_row(part[i].dtype, (const char *)part[i].data + r * row_bytes, x + r * cols,
                                   part[i].cols, e));
  }
  WEIR_TRY(cpu_ops->weight_prepare(dev, f, n, w, e));
out:
  if (f) float_parts_free(f, n);
  return st;
}

static weir_status open_reference(weir_dev **out, weir_err *e) {
  static weir_dev_ops ops;
  const weir_status st = weir_dev_open_cpu(&(weir_cpu_opts){.isa = WEIR_ISA_BEST}, out, e);
  if (st != WEIR_OK) return st;
  cpu_ops = (*out)->ops;
  ops = *cpu_ops;
  ops.weight_prepare = float_prepare;
  (*out)->ops = &ops;
  return WEIR_OK;
}

/* ---- one model ---- */

static weir_status side_open(side *s, const weir_mfile *f, const weir_hparams *h, int32_t n_ctx,
                             weir_dtype kv, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t n_pages = weir_pages_for(n_ctx);
  const weir_instance_opts o = {
      .n_ctx = n_ctx, .n_pages = n_pages, .max_tokens = MAX_CHUNK, .max_seqs = 1, .kv_dtype = kv};
  WEIR_TRY(weir_instance_create(s->dev, f, h, &o, &s->inst, e));
  WEIR_TRY(weir_batch_builder_init(&s->b, MAX_CHUNK, 1, n_pages, 1, e));
out:
  return st;
}

static void side_close(side *s) {
  weir_instance_destroy(s->inst);
  weir_batch_builder_fini(&s->b);
  s->inst = NULL;
}

/* Rows [from, to); all of them are asked for when there are logits to write, else the last one. */
static weir_status feed(const check *x, side *s, int32_t from, int32_t to, float *logits, weir_row *row,
                        weir_err *e) {
  weir_batch_builder_clear(&s->b);
  const int32_t first =
      weir_batch_add(&s->b, &(weir_batch_seq){x->tok, from, to, x->page, weir_pages_for(to)});
  for (int32_t i = logits ? from : to - 1; i < to; i++)
    *weir_batch_ask(&s->b, first + i - from) = (weir_ask){.top_p = 1, .pos = i + 1, .probe = -1};
  const weir_batch batch = weir_batch_get(&s->b);
  return logits ? weir_forward_logits(s->inst, &batch, logits, e)
                : weir_forward(s->inst, &batch, row, NULL, e);
}

static weir_status prompt_in_chunks(const check *x, side *s, int32_t chunk, float *logits, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t at = 0; at < x->n_prompt; at += chunk) {
    const int32_t to = at + chunk < x->n_prompt ? at + chunk : x->n_prompt;
    WEIR_TRY(feed(x, s, at, to, logits + (size_t)at * (size_t)x->n_vocab, NULL, e));
  }
out:
  return st;
}

/* The worst row; infinite where there is a NaN. */
static double worst_row(const check *x) {
  double worst = 0;
  for (int32_t r = 0; r < x->n_prompt; r++) {
    const float *a = x->got + (size_t)r * (size_t)x->n_vocab, *b = x->want + (size_t)r * (size_t)x->n_vocab;
    double far = 0, size = 0;
    for (int32_t v = 0; v < x->n_vocab; v++) {
      const double d = fabs((double)a[v] - (double)b[v]);
      if (isnan(d)) return INFINITY;
      far = fmax(far, d);
      size = fmax(size, fabs((double)b[v]));
    }
    worst = fmax(worst, size > 0 ? far / size : far > 0 ? INFINITY : 0);
  }
  return worst;
}

/* Where the two largest logits are further apart than both can be wrong, the arg-max, and -1 elsewhere. */
static int32_t clear_choice(const float *logits, int32_t n, double most, int32_t *top) {
  double first = -INFINITY, second = -INFINITY, size = 0;
  for (int32_t v = 0; v < n; v++) {
    const double l = (double)logits[v];
    size = fmax(size, fabs(l));
    if (l > first) {
      second = first;
      first = l;
      *top = v;
    } else if (l > second) {
      second = l;
    }
  }
  return first - second > 2 * most * size ? *top : -1;
}

/* Greedy text behind the prompt: the device draws, the CPU's logits say whether that could be otherwise. The
 * CPU's choice is what both go on with. */
static weir_status text(check *x, int32_t *compared, int32_t *differ, weir_err *e) {
  weir_status st = WEIR_OK;
  float *logits = NULL;
  *compared = *differ = 0;
  WEIR_TRY(WEIR_NEW((size_t)x->n_vocab, &logits, e));
  for (int32_t i = 0; i < x->n_text && x->n_prompt + i < x->n_ctx; i++) {
    const int32_t at = x->n_prompt + i - 1;
    weir_row row;
    int32_t top = 0;
    WEIR_TRY(feed(x, &x->cpu, at, at + 1, logits, NULL, e));
    WEIR_TRY(feed(x, &x->gpu, at, at + 1, NULL, &row, e));
    const int32_t choice = clear_choice(logits, x->n_vocab, bound(1), &top);
    if (choice >= 0) {
      *compared += 1;
      *differ += row.token != choice;
    }
    x->tok[at + 1] = top;
  }
out:
  free(logits);
  return st;
}

static weir_status say(json_t *o, weir_err *e) {
  char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
  if (line) puts(line);
  free(line);
  json_decref(o);
  (void)fflush(stdout);
  return line ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "a result cannot be written as JSON");
}

static const char *base(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static weir_status compare(check *x, const char *path, bool *ok, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(prompt_in_chunks(x, &x->cpu, FEW, x->want, e));
  for (int32_t i = N_CHUNKS - 1; i >= 0; i--) { /* one by one last: its KV is what the text goes on from */
    if (i > 0 && chunks[i - 1] >= x->n_prompt) continue; /* the next shorter ones are as long */
    const int32_t rows = chunks[i] < x->n_prompt ? chunks[i] : x->n_prompt;
    WEIR_TRY(prompt_in_chunks(x, &x->gpu, rows, x->got, e));
    const double err = worst_row(x);
    const bool good = err <= bound(rows);
    *ok = *ok && good;
    WEIR_TRY(say(
        json_pack("{s:s, s:s, s:i, s:o, s:f, s:b}", "what", "logits", "model", base(path), "rows", rows,
                  "err", isfinite(err) ? json_real(err) : json_null(), "bound", bound(rows), "ok", (int)good),
        e));
  }
  int32_t compared, differ;
  WEIR_TRY(text(x, &compared, &differ, e));
  *ok = *ok && differ == 0;
  WEIR_TRY(say(json_pack("{s:s, s:s, s:i, s:i, s:i, s:b}", "what", "text", "model", base(path), "tokens",
                         x->n_text, "compared", compared, "differ", differ, "ok", (int)(differ == 0)),
               e));
out:
  return st;
}

static weir_status check_model(check *x, const char *path, const weir_config *c, bool *ok, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mfile *f = NULL;
  weir_hparams *h = NULL;
  size_t n = 0;
  WEIR_TRY(WEIR_NEW(1, &h, e));
  WEIR_TRY(weir_mfile_open(path, &f, e));
  WEIR_TRY(weir_hparams_read(f, h, e));
  x->n_vocab = h->n_vocab;
  x->n_prompt = (int32_t)weir_config_int(c, "rows");
  x->n_text = (int32_t)weir_config_int(c, "tokens");
  x->n_ctx = x->n_prompt + x->n_text;
  if (x->n_ctx > h->n_ctx) x->n_ctx = h->n_ctx;
  if (x->n_prompt > x->n_ctx / 8 * 7) x->n_prompt = x->n_ctx / 8 * 7;
  if (x->n_ctx - x->n_prompt < x->n_text) x->n_text = x->n_ctx - x->n_prompt;
  if (x->n_prompt < 1)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "%s: a context of %d is too short", path, h->n_ctx));
  WEIR_TRY(side_open(&x->cpu, f, h, x->n_ctx, WEIR_F32, e));
  WEIR_TRY(side_open(&x->gpu, f, h, x->n_ctx, WEIR_F16, e));
  WEIR_TRY(WEIR_NEW((size_t)x->n_ctx + 1, &x->tok, e));
  WEIR_TRY(WEIR_NEW((size_t)weir_pages_for(x->n_ctx), &x->page, e));
  if (!weir_mul_size((size_t)x->n_prompt, (size_t)x->n_vocab, &n))
    WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "%s: logits overflow", path));
  WEIR_TRY(WEIR_NEW(n, &x->want, e));
  WEIR_TRY(WEIR_NEW(n, &x->got, e));
  uint32_t seed = 7;
  for (int32_t i = 0; i < x->n_prompt; i++) {
    seed = seed * 1664525u + 1013904223u;
    x->tok[i] = (int32_t)((seed >> 8) % (uint32_t)x->n_vocab);
  }
  for (int32_t i = 0; i < weir_pages_for(x->n_ctx); i++) x->page[i] = i;
  WEIR_TRY(compare(x, path, ok, e));
out:
  side_close(&x->cpu);
  side_close(&x->gpu);
  free(x->tok);
  free(x->page);
  free(x->want);
  free(x->got);
  x->tok = x->page = NULL;
  x->want = x->got = NULL;
  weir_mfile_close(f);
  free(h);
  return st == WEIR_OK || strstr(e->msg, path) ? st : weir_fail_ctx(e, st, "%s", path);
}

int main(int argc, char **argv) {
  static const bool left[WEIR_MAX_TIERS];
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  weir_config *c = NULL;
  weir_placement at = {0};
  check x = {0};
  int32_t n = 0;
  bool ok = true;
  WEIR_TRY(weir_config_create(table, sizeof table / sizeof *table, 1, &c, e));
  WEIR_TRY(weir_config_read_args(c, argc - 1, argv + 1, e));
  const char *const *path = weir_config_operands(c, &n);
  if (weir_config_bool(c, "help") || n == 0) {
    weir_buf help = {0};
    WEIR_TRY(weir_config_help(c, 100, &help, e));
    printf(
        "check_model [options] MODEL...: logits and greedy text on a device against the CPU in F32.\n"
        "Exit status 1 when a row is out of bounds.\n\n%s",
        help.data);
    weir_buf_fini(&help);
    goto out;
  }
  weir_placement_opts o = {.n_tiers = 1, .cuda_library = weir_config_string(c, "cuda-library")};
  WEIR_TRY(weir_place_parse(weir_config_string(c, "device"), &o.place[0], e));
  WEIR_TRY(weir_placement_open(&o, &at, e));
  x.gpu.dev = at.dev[0];
  WEIR_TRY(open_reference(&x.cpu.dev, e));
  for (int32_t i = 0; i < n; i++) WEIR_TRY(check_model(&x, path[i], c, &ok, e));
out:
  if (st != WEIR_OK) fprintf(stderr, "check_model: %s\n", err.msg);
  weir_dev_destroy(x.cpu.dev);
  weir_placement_close(&at, left);
  weir_config_destroy(c);
  return st == WEIR_OK && ok ? 0 : 1;
}
