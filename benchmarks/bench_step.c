/* SPDX-License-Identifier: Apache-2.0 */
/* Times whole steps of one model: prefill, decode of one and of many sequences, catch-up of a few tokens.
 * Goes through the executor, so sampling and batch checks are in the figures. Figures are the best of the
 * repeats: the machine's noise only ever adds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/mem.h"
#include "kv/pages.h"
#include "serve/pair.h"
#include "step/batch.h"

static const weir_option table[] = {
    {.name = "model",
     .letter = 'm',
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "GGUF file."},
    {.name = "threads",
     .letter = 't',
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "0",
     .min = 0,
     .max = 1024,
     .env = "",
     .help = "Threads; 0: one per core."},
    {.name = "isa",
     .type = WEIR_OPT_ENUM,
     .commands = 1,
     .group = "What",
     .def = "auto",
     .choices = "auto|scalar|avx2|avx512-vnni|amx",
     .env = "",
     .help = "Instruction set."},
    {.name = "kv",
     .type = WEIR_OPT_ENUM,
     .commands = 1,
     .group = "What",
     .def = "f16",
     .choices = "f16|f32",
     .env = "",
     .help = "Type of the KV cache."},
    {.name = "prefill",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "How much",
     .def = "512",
     .min = 0,
     .max = 65536,
     .env = "",
     .help = "Tokens of the prompt; 0 leaves it out."},
    {.name = "decode",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "How much",
     .def = "64",
     .min = 0,
     .max = 65536,
     .env = "",
     .help = "Tokens decoded by each sequence, from an empty context; 0 leaves it out."},
    {.name = "batch",
     .type = WEIR_OPT_FLOATS,
     .commands = 1,
     .group = "How much",
     .def = "1,8,16,32",
     .min = 1,
     .max = 256,
     .arg = "N,N,...",
     .env = "",
     .help = "Numbers of sequences decoded together."},
    {.name = "catch-up",
     .type = WEIR_OPT_FLOATS,
     .commands = 1,
     .group = "How much",
     .def = "1,2,4,8,16,32",
     .min = 1,
     .max = 512,
     .arg = "N,N,...",
     .env = "",
     .help = "Rows fed at once behind 256 tokens of context, the last one's answer wanted."},
    {.name = "repeats",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "How much",
     .def = "3",
     .min = 1,
     .max = 1000,
     .env = "",
     .help = "The best of so many is printed."},
    {.name = "help",
     .letter = 'h',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "Other",
     .env = "",
     .help = "This text."},
};

typedef struct bench {
  weir_exec *exec;
  weir_batch_builder b;
  weir_row *rows;
  weir_clock clock;
  int32_t *tok;  /* [n_ctx] random ids */
  int32_t *page; /* [n_pages] the identity */
} bench;

/* Adds rows [from, to) of sequence s, wanting the last one's answer. */
static void add(bench *x, int32_t s, int32_t from, int32_t to) {
  const int32_t per_seq = weir_pages_for(x->exec->info.n_ctx);
  const int32_t row =
      weir_batch_add(&x->b, &(weir_batch_seq){x->tok, from, to, x->page + s * per_seq, weir_pages_for(to)});
  *weir_batch_ask(&x->b, row + to - from - 1) = (weir_ask){.top_p = 1, .pos = to, .probe = -1};
}

static weir_status step(bench *x, int64_t *ns, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_batch batch = weir_batch_get(&x->b);
  weir_result r = {.row = x->rows}, *done;
  const int64_t start = weir_now_ns(&x->clock);
  WEIR_TRY(x->exec->ops->submit(x->exec, &batch, &r, e));
  WEIR_TRY(x->exec->ops->wait(x->exec, &done, e));
  if (done->status != WEIR_OK) {
    *e = done->err;
    st = done->status;
  }
  *ns += weir_now_ns(&x->clock) - start;
  weir_batch_builder_clear(&x->b);
out:
  return st;
}

static weir_status run(bench *x, const weir_config *c, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t repeats = weir_config_int(c, "repeats");
  const int32_t prefill = (int32_t)weir_config_int(c, "prefill"),
                decode = (int32_t)weir_config_int(c, "decode");
  int32_t n;
  if (prefill > 0) {
    int64_t best = INT64_MAX;
    for (int64_t i = 0; i < repeats; i++) {
      int64_t ns = 0;
      for (int32_t at = 0; at < prefill; at += x->b.max_tokens) {
        add(x, 0, at, at + x->b.max_tokens < prefill ? at + x->b.max_tokens : prefill);
        WEIR_TRY(step(x, &ns, e));
      }
      if (ns < best) best = ns;
    }
    printf("prefill %5d             %10.1f tok/s %12.1f us\n", prefill, prefill * 1e9 / (double)best,
           (double)best / 1e3);
  }
  const double *batch = weir_config_floats(c, "batch", &n);
  for (int32_t k = 0; decode > 0 && k < n; k++) {
    const int32_t seqs = (int32_t)batch[k];
    int64_t best = INT64_MAX;
    for (int64_t i = 0; i < repeats; i++) {
      int64_t ns = 0;
      for (int32_t at = 0; at < decode; at++) {
        for (int32_t s = 0; s < seqs; s++) add(x, s, at, at + 1);
        WEIR_TRY(step(x, &ns, e));
      }
      if (ns < best) best = ns;
    }
    printf("decode  %5d x %3d seqs  %10.1f tok/s %12.1f us/step\n", decode, seqs,
           1e9 * decode * seqs / (double)best, (double)best / 1e3 / decode);
  }
  const double *rows = weir_config_floats(c, "catch-up", &n);
  enum { CONTEXT = 256, STEPS = 20 };
  int64_t ignored = 0;
  for (int32_t at = 0; n > 0 && at < CONTEXT; at += x->b.max_tokens) {
    add(x, 0, at, at + x->b.max_tokens < CONTEXT ? at + x->b.max_tokens : CONTEXT);
    WEIR_TRY(step(x, &ignored, e));
  }
  for (int32_t k = 0; k < n; k++) {
    const int32_t m = (int32_t)rows[k];
    int64_t best = INT64_MAX;
    for (int64_t i = 0; i < repeats * STEPS; i++) {
      int64_t ns = 0;
      add(x, 0, CONTEXT, CONTEXT + m);
      WEIR_TRY(step(x, &ns, e));
      if (ns < best) best = ns;
    }
    printf("catch-up %4d rows        %10.1f tok/s %12.1f us/step\n", m, m * 1e9 / (double)best,
           (double)best / 1e3);
  }
out:
  return st;
}

static weir_status bench_open(bench *x, weir_pair *p, weir_err *e) {
  weir_status st = WEIR_OK;
  *x = (bench){.exec = weir_pair_exec(p, 0), .clock = weir_clock_system()};
  const weir_exec_info *info = &x->exec->info;
  WEIR_TRY(weir_batch_builder_init(&x->b, info->max_tokens, info->max_seqs, info->n_pages, 1, e));
  WEIR_TRY(WEIR_NEW((size_t)info->max_tokens, &x->rows, e));
  WEIR_TRY(WEIR_NEW((size_t)info->n_ctx, &x->tok, e));
  WEIR_TRY(WEIR_NEW((size_t)info->n_pages, &x->page, e));
  uint32_t seed = 1;
  for (int32_t i = 0; i < info->n_ctx; i++) {
    seed = seed * 1664525u + 1013904223u;
    x->tok[i] = (int32_t)((seed >> 8) % (uint32_t)weir_pair_n_vocab(p));
  }
  for (int32_t i = 0; i < info->n_pages; i++) x->page[i] = i;
out:
  return st;
}

static void bench_close(bench *x) {
  weir_batch_builder_fini(&x->b);
  free(x->rows);
  free(x->tok);
  free(x->page);
}

static int32_t largest(const weir_config *c, const char *name) {
  int32_t n, most = 1;
  const double *v = weir_config_floats(c, name, &n);
  for (int32_t i = 0; i < n; i++)
    if ((int32_t)v[i] > most) most = (int32_t)v[i];
  return most;
}

int main(int argc, char **argv) {
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  weir_config *c = NULL;
  weir_pair *p = NULL;
  bench x = {0};
  WEIR_TRY(weir_config_create(table, sizeof table / sizeof *table, 1, &c, e));
  WEIR_TRY(weir_config_read_args(c, argc - 1, argv + 1, e));
  if (weir_config_bool(c, "help") || !weir_config_string(c, "model")) {
    weir_buf help = {0};
    WEIR_TRY(weir_config_help(c, 100, &help, e));
    printf("bench_step -m FILE [options]: times prefill, decode and catch-up steps of one model.\n\n%s",
           help.data);
    weir_buf_fini(&help);
    goto out;
  }
  const int32_t prefill = (int32_t)weir_config_int(c, "prefill"),
                decode = (int32_t)weir_config_int(c, "decode");
  int32_t ctx = 256 + largest(c, "catch-up");
  if (prefill > ctx) ctx = prefill;
  if (decode > ctx) ctx = decode;
  const weir_pair_opts o = {
      .small_path = weir_config_string(c, "model"),
      .n_threads = (int32_t)weir_config_int(c, "threads"),
      .isa = weir_config_string(c, "isa"),
      .n_ctx = ctx,
      .max_seqs = largest(c, "batch"),
      .max_tokens = 512,
      .kv_dtype = strcmp(weir_config_string(c, "kv"), "f32") == 0 ? WEIR_F32 : WEIR_F16};
  WEIR_TRY(weir_pair_open(&o, &p, e));
  WEIR_TRY(bench_open(&x, p, e));
  printf("%s, %s, %d threads, %lld bytes of weights\n", x.exec->info.name, weir_pair_isa(p),
         weir_pair_n_threads(p), (long long)x.exec->info.weight_bytes);
  WEIR_TRY(run(&x, c, e));
out:
  if (st != WEIR_OK) fprintf(stderr, "bench_step: %s\n", err.msg);
  bench_close(&x);
  weir_pair_close(p);
  weir_config_destroy(c);
  return st == WEIR_OK ? 0 : 1;
}
