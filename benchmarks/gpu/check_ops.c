/* SPDX-License-Identifier: Apache-2.0 */
/* Operations of a device at the sizes of real models: against double precision on sampled rows, with the
 * bounds that tests/cuda states, and their times. A line of JSON each; exit status 1 when one is out of
 * bounds. One thread. */
#include "check_ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/mem.h"
#include "serve/placement.h"

static const weir_option table[] = {
    {.name = "device",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .def = "cuda",
     .arg = "DEV",
     .env = "",
     .help = "cuda, cuda:N or cpu."},
    {.name = "cuda-library",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "weir-cuda.so, where it is not beside the program."},
    {.name = "only",
     .type = WEIR_OPT_ENUM,
     .commands = 1,
     .group = "What",
     .def = "all",
     .choices = "all|linear|attend|small",
     .env = "",
     .help = "One kind of operation."},
    {.name = "small",
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "What",
     .def = "false",
     .env = "",
     .help = "Tiny sizes: for emulators and sanitizers."},
    {.name = "repeats",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "9",
     .min = 1,
     .max = 1000,
     .env = "",
     .help = "The median of so many times is reported."},
    {.name = "help",
     .letter = 'h',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "Other",
     .env = "",
     .help = "This text."},
};

float ops_unit(ops_check *c) {
  c->seed = c->seed * 6364136223846793005u + 1442695040888963407u;
  return (float)(int32_t)(c->seed >> 32) * 0x1p-31f;
}

float ops_normal(ops_check *c) { /* twelve uniform ones: variance 1/3 each, times 1/4 */
  float s = 0;
  for (int i = 0; i < 12; i++) s += ops_unit(c);
  return 0.5f * s;
}

weir_status ops_place(ops_check *c, const void *host, size_t bytes, void **out, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_dev_alloc(c->dev, bytes, out, e));
  if (host) {
    WEIR_TRY(weir_dev_upload(c->dev, *out, host, bytes, e));
    WEIR_TRY(weir_dev_sync(c->dev, e));
  }
out:
  return st;
}

weir_status ops_mat(ops_check *c, int32_t rows, int32_t cols, float scale, float **host, weir_mat *out,
                    weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n = (size_t)rows * (size_t)cols;
  *out = (weir_mat){.rows = rows, .cols = cols, .ld = cols};
  if (host) {
    WEIR_TRY(WEIR_NEW(n, host, e));
    for (size_t i = 0; i < n; i++) (*host)[i] = scale * ops_normal(c);
  }
  WEIR_TRY(ops_place(c, host ? *host : NULL, n * sizeof(float), (void **)&out->data, e));
out:
  return st;
}

int32_t ops_copies(const ops_check *c, size_t bytes) {
  enum { ROUND = 256 << 20, MOST = 32 }; /* L2 of the largest GPUs: 126 MB */
  const size_t n = bytes ? ROUND / bytes + 1 : 1;
  return c->small ? 2 : n > MOST ? MOST : (int32_t)n;
}

static int ascending(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

weir_status ops_time(ops_check *c, weir_enqueue_fn fn, void *ctx, int32_t calls, bool plain, double *us,
                     weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_clock clock = weir_clock_system();
  const uint32_t owner = weir_dev_new_owner(c->dev);
  const int32_t warm = c->small ? 0 : 3, repeats = c->small ? 1 : c->repeats;
  int64_t *ns = NULL;
  WEIR_TRY(WEIR_NEW((size_t)repeats, &ns, e));
  for (int32_t i = -warm; i < repeats; i++) {
    const int64_t start = weir_now_ns(&clock);
    if (plain)
      WEIR_TRY(fn(ctx, e));
    else
      WEIR_TRY(weir_dev_replay(c->dev, weir_replay_key(owner, 1), fn, ctx, e));
    WEIR_TRY(weir_dev_sync(c->dev, e));
    if (i >= 0) ns[i] = weir_now_ns(&clock) - start;
  }
  qsort(ns, (size_t)repeats, sizeof *ns, ascending);
  *us = 1e-3 * (double)ns[repeats / 2] / calls;
out:
  weir_dev_forget(c->dev, owner);
  free(ns);
  return st;
}

void ops_report(ops_check *c, const ops_result *r) {
  const bool good = r->err <= r->bound; /* not so of NaN */
  c->ok = c->ok && good;
  printf("{\"name\":\"%s\",\"us\":%.3f,\"bytes\":%.0f,\"flops\":%.0f,\"err\":", r->name, r->us, r->bytes,
         r->flops);
  if (isfinite(r->err))
    printf("%.3g", r->err);
  else
    printf("null");
  printf(",\"bound\":%g,\"ok\":%s}\n", r->bound, good ? "true" : "false");
  (void)fflush(stdout);
}

static weir_status run(ops_check *c, const char *only, weir_err *e) {
  static const struct {
    const char *name;
    weir_status (*check)(ops_check *, weir_err *);
  } kinds[] = {{"linear", check_linear}, {"attend", check_attend}, {"small", check_small}};
  const weir_dev_limits lim = {.max_tokens = 2048,
                               .max_cols = 14336,
                               .max_heads = 64,
                               .max_head_dim = 128,
                               .max_kv_len = 4096,
                               .max_rows_out = 128,
                               .max_vocab = 151936};
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_dev_reserve(c->dev, &lim, e));
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (!strcmp(only, "all") || !strcmp(only, kinds[i].name)) WEIR_TRY(kinds[i].check(c, e));
out:
  return st;
}

int main(int argc, char **argv) {
  static const bool left[WEIR_MAX_TIERS];
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  weir_config *c = NULL;
  weir_placement at = {0};
  ops_check x = {.seed = 1, .ok = true};
  WEIR_TRY(weir_config_create(table, sizeof table / sizeof *table, 1, &c, e));
  WEIR_TRY(weir_config_read_args(c, argc - 1, argv + 1, e));
  if (weir_config_bool(c, "help")) {
    weir_buf help = {0};
    WEIR_TRY(weir_config_help(c, 100, &help, e));
    printf("check_ops [options]: operations of a device, checked and timed.\n\n%s", help.data);
    weir_buf_fini(&help);
    goto out;
  }
  weir_placement_opts o = {.n_tiers = 1, .cuda_library = weir_config_string(c, "cuda-library")};
  WEIR_TRY(weir_place_parse(weir_config_string(c, "device"), &o.place[0], e));
  WEIR_TRY(weir_placement_open(&o, &at, e));
  x.dev = at.dev[0];
  x.on_cpu = !o.place[0].cuda;
  x.small = weir_config_bool(c, "small");
  x.repeats = (int32_t)weir_config_int(c, "repeats");
  WEIR_TRY(run(&x, weir_config_string(c, "only"), e));
out:
  if (st != WEIR_OK) fprintf(stderr, "check_ops: %s\n", err.msg);
  weir_placement_close(&at, left);
  weir_config_destroy(c);
  return st == WEIR_OK && x.ok ? 0 : 1;
}
