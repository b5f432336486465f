/* SPDX-License-Identifier: Apache-2.0 */
/* Times whole steps of one model: prefill, decode of one and of many sequences, catch-up of a few tokens.
 * Goes through the executor, so sampling and batch checks are in the figures, and with --tp the ranks' talk.
 * Figures are the best of the repeats: the machine's noise only ever adds. The model is a file's, or has a
 * published shape and made-up weights (synth.h). */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kv/pages.h"
#include "programs/gate_file.h"
#include "run/exec_local.h"
#include "run/tp.h"
#include "serve/pair.h"
#include "serve/placement.h"
#include "step/batch.h"
#include "synth.h"

static const weir_option table[] = {
    {.name = "model",
     .letter = 'm',
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "GGUF file."},
    {.name = "gate-file",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "With the gate head of this file, fitted for --model: what it adds to a step."},
    {.name = "shape",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "NAME",
     .env = "",
     .help = "Instead of a file, made-up weights in the shape of: qwen3-0.6b, qwen2.5-1.5b, llama-3.1-8b, "
             "qwen3-32b, llama-3-70b, llama-1.1b, llama-134m."},
    {.name = "type",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .def = "Q8_0",
     .arg = "TYPE",
     .env = "",
     .help = "Type of made-up weights: F16, BF16, Q8_0, Q4_0, Q4_K, ..."},
    {.name = "layers",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "0",
     .min = 0,
     .max = WEIR_MAX_LAYERS,
     .env = "",
     .help = "Layers of a shape, so many at most; 0: all."},
    {.name = "device",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .def = "cpu",
     .arg = "DEV",
     .env = "",
     .help = "cpu, cuda or cuda:N; with --tp a list as of --large-device."},
    {.name = "tp",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "1",
     .min = 1,
     .max = WEIR_MAX_RANKS,
     .env = "",
     .help = "Cut the model over so many ranks, threads of this process, and say what part of the steps' "
             "time rank 0 spends in communication (waiting included; of GPUs: with the calls)."},
    {.name = "comm",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .def = "auto",
     .arg = "KIND",
     .env = "",
     .help = "What ranks talk over: auto, shm, tcp, nccl or local."},
    {.name = "cuda-library",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "weir-cuda.so, where it is not beside the program."},
    {.name = "cuda-graphs",
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "What",
     .def = "true",
     .env = "",
     .help = "Record steps and play them again."},
    {.name = "threads",
     .letter = 't',
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "0",
     .min = 0,
     .max = 1024,
     .env = "",
     .help = "Threads, of each rank; 0: one per core, which ranks share out."},
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
     .choices = "f16|f32|q8_0",
     .env = "",
     .help = "Type of the KV cache."},
    {.name = "prefill",
     .type = WEIR_OPT_FLOATS,
     .commands = 1,
     .group = "How much",
     .def = "512",
     .min = 0,
     .max = 65536,
     .arg = "N,N,...",
     .env = "",
     .help = "Tokens of the prompt; 0 leaves it out."},
    {.name = "step-tokens",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "How much",
     .def = "512",
     .min = 1,
     .max = 65536,
     .env = "",
     .help = "Rows of one step: longer prompts are fed in so many chunks."},
    {.name = "decode",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "How much",
     .def = "64",
     .min = 0,
     .max = 65536,
     .env = "",
     .help = "Tokens decoded by each sequence; 0 leaves it out."},
    {.name = "context",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "How much",
     .def = "0",
     .min = 0,
     .max = 1048576,
     .env = "",
     .help = "Tokens before the first decoded one. Their KV is whatever is there, which changes no time."},
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
     .min = 0,
     .max = 512,
     .arg = "N,N,...",
     .env = "",
     .help = "Rows fed at once behind 256 tokens of context, the last one's answer wanted; 0 leaves it out."},
    {.name = "repeats",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "How much",
     .def = "3",
     .min = 1,
     .max = 1000,
     .env = "",
     .help = "The best of so many is printed."},
    {.name = "json",
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "Other",
     .def = "false",
     .env = "",
     .help = "A JSON object a line instead of text."},
    {.name = "help",
     .letter = 'h',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "Other",
     .env = "",
     .help = "This text."},
};

enum { CATCH_UP_CONTEXT = 256 };

/* What is measured: a file's model, or a shape with the devices opened for it. */
typedef struct subject {
  weir_pair *pair;
  weir_placement at;
  weir_exec *own; /* of a shape; of a file it is the pair's */
  weir_exec *exec;
  int32_t n_vocab;
  const char *name, *type; /* as asked for; type is "" of a file */
  const char *device;
  int32_t tp;
  bool left[WEIR_MAX_TIERS];
  char devices[192]; /* of ranks of a shape */
} subject;

typedef struct bench {
  const subject *s;
  weir_exec *exec;
  weir_batch_builder b;
  weir_row *rows;
  weir_clock clock;
  int32_t stride; /* pages from one sequence's first to the next one's */
  bool json;
  int64_t step_ns, comm_ns; /* since the last figure: of all steps, and of rank 0's communication in them */
  int32_t *tok;             /* [n_ctx] random ids */
  int32_t *page;            /* [n_pages] the identity */
} bench;

/* Adds rows [from, to) of sequence s, wanting the last one's answer. */
static void add(bench *x, int32_t s, int32_t from, int32_t to) {
  const int32_t row =
      weir_batch_add(&x->b, &(weir_batch_seq){x->tok, from, to, x->page + s * x->stride, weir_pages_for(to)});
  *weir_batch_ask(&x->b, row + to - from - 1) = (weir_ask){.top_p = 1, .pos = to, .probe = -1};
}

static int64_t comm_ns(const bench *x) { return x->s->tp > 1 ? weir_exec_tp_stats(x->exec).comm.ns : 0; }

static weir_status step(bench *x, int64_t *ns, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t comm_before = comm_ns(x);
  const weir_batch batch = weir_batch_get(&x->b);
  weir_result r = {.row = x->rows}, *done;
  const int64_t start = weir_now_ns(&x->clock);
  WEIR_TRY(x->exec->ops->submit(x->exec, &batch, &r, e));
  WEIR_TRY(x->exec->ops->wait(x->exec, &done, e));
  if (done->status != WEIR_OK) {
    *e = done->err;
    st = done->status;
  }
  const int64_t took = weir_now_ns(&x->clock) - start;
  *ns += took;
  x->step_ns += took;
  x->comm_ns += comm_ns(x) - comm_before;
  weir_batch_builder_clear(&x->b);
out:
  return st;
}

/* `us` is of a step, of prefill of the whole prompt; tok_s counts rows fed. The share of communication is of
 * all steps behind the figure, not of the best. */
static weir_status report(bench *x, const char *what, int32_t rows, int32_t seqs, int32_t context, double us,
                          weir_err *e) {
  const double tok_s = 1e6 * rows * seqs / us,
               comm = x->step_ns > 0 ? (double)x->comm_ns / (double)x->step_ns : 0;
  x->step_ns = x->comm_ns = 0;
  if (!x->json) {
    printf("%-8s %5d x %3d seqs  context %6d %10.1f tok/s %12.1f us", what, rows, seqs, context, tok_s, us);
    if (x->s->tp > 1) printf("  communication %4.1f %%", 100 * comm);
    putchar('\n');
    return WEIR_OK;
  }
  const weir_exec_info *info = &x->exec->info;
  json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:I, s:I, s:i, s:f}", "what", what,
                        "model", x->s->name, "type", x->s->type, "device", x->s->device, "rows", rows, "seqs",
                        seqs, "context", context, "us", us, "tok_s", tok_s, "weight_bytes",
                        (json_int_t)info->weight_bytes, "kv_bytes_per_token",
                        (json_int_t)info->kv_bytes_per_token, "tp", x->s->tp, "comm_share", comm);
  char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
  if (line) puts(line);
  free(line);
  json_decref(o);
  (void)fflush(stdout); /* what is known stays known when a time limit ends the program */
  return line ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "\"%s\" cannot be written as JSON", x->s->name);
}

static weir_status feed(bench *x, int32_t n, int64_t *ns, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t at = 0; at < n; at += x->b.max_tokens) {
    add(x, 0, at, at + x->b.max_tokens < n ? at + x->b.max_tokens : n);
    WEIR_TRY(step(x, ns, e));
  }
out:
  return st;
}

static weir_status prefill(bench *x, int32_t n, int64_t repeats, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t best = INT64_MAX;
  for (int64_t i = 0; i < repeats; i++) {
    int64_t ns = 0;
    WEIR_TRY(feed(x, n, &ns, e));
    if (ns < best) best = ns;
  }
  WEIR_TRY(report(x, "prefill", n, 1, 0, (double)best / 1e3, e));
out:
  return st;
}

static weir_status decode(bench *x, int32_t context, int32_t n, int32_t seqs, int64_t repeats, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t best = INT64_MAX;
  for (int64_t i = 0; i < repeats; i++) {
    int64_t ns = 0;
    for (int32_t at = context; at < context + n; at++) {
      for (int32_t s = 0; s < seqs; s++) add(x, s, at, at + 1);
      WEIR_TRY(step(x, &ns, e));
    }
    if (ns < best) best = ns;
  }
  WEIR_TRY(report(x, "decode", 1, seqs, context, (double)best / 1e3 / n, e));
out:
  return st;
}

static weir_status catch_up(bench *x, int32_t rows, int64_t repeats, weir_err *e) {
  enum { STEPS = 20 };
  weir_status st = WEIR_OK;
  int64_t best = INT64_MAX;
  for (int64_t i = 0; i < repeats * STEPS; i++) {
    int64_t ns = 0;
    add(x, 0, CATCH_UP_CONTEXT, CATCH_UP_CONTEXT + rows);
    WEIR_TRY(step(x, &ns, e));
    if (ns < best) best = ns;
  }
  WEIR_TRY(report(x, "catch-up", rows, 1, CATCH_UP_CONTEXT, (double)best / 1e3, e));
out:
  return st;
}

static int32_t largest(const weir_config *c, const char *name) {
  int32_t n, most = 0;
  const double *v = weir_config_floats(c, name, &n);
  for (int32_t i = 0; i < n; i++)
    if ((int32_t)v[i] > most) most = (int32_t)v[i];
  return most;
}

static weir_status run(bench *x, const weir_config *c, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t repeats = weir_config_int(c, "repeats");
  const int32_t n_decode = (int32_t)weir_config_int(c, "decode");
  const int32_t context = (int32_t)weir_config_int(c, "context");
  int64_t ignored = 0;
  int32_t n;
  const double *v = weir_config_floats(c, "prefill", &n);
  for (int32_t k = 0; k < n; k++)
    if (v[k] >= 1) WEIR_TRY(prefill(x, (int32_t)v[k], repeats, e));
  v = weir_config_floats(c, "batch", &n);
  for (int32_t k = 0; n_decode > 0 && k < n; k++)
    WEIR_TRY(decode(x, context, n_decode, (int32_t)v[k], repeats, e));
  if (largest(c, "catch-up") > 0) WEIR_TRY(feed(x, CATCH_UP_CONTEXT, &ignored, e));
  v = weir_config_floats(c, "catch-up", &n);
  for (int32_t k = 0; k < n; k++)
    if (v[k] >= 1) WEIR_TRY(catch_up(x, (int32_t)v[k], repeats, e));
out:
  return st;
}

/* Room of a run: tokens of the longest sequence, and pages of all. */
typedef struct room {
  int32_t n_ctx, stride, n_pages, max_seqs, max_tokens;
} room;

static room room_for(const weir_config *c) {
  const int32_t decoded = (int32_t)(weir_config_int(c, "context") + weir_config_int(c, "decode"));
  const int32_t caught = largest(c, "catch-up") > 0 ? CATCH_UP_CONTEXT + largest(c, "catch-up") : 1;
  room r = {.n_ctx = decoded, .stride = weir_pages_for(decoded), .max_seqs = largest(c, "batch")};
  if (largest(c, "prefill") > r.n_ctx) r.n_ctx = largest(c, "prefill");
  if (caught > r.n_ctx) r.n_ctx = caught;
  r.n_pages = weir_pages_for(r.n_ctx);
  if (r.max_seqs * r.stride > r.n_pages) r.n_pages = r.max_seqs * r.stride;
  r.max_tokens = (int32_t)weir_config_int(c, "step-tokens");
  if (r.max_seqs > r.max_tokens) r.max_tokens = r.max_seqs;
  if (largest(c, "catch-up") > r.max_tokens) r.max_tokens = largest(c, "catch-up");
  return r;
}

static weir_dtype kv_type(const weir_config *c) {
  const char *name = weir_config_string(c, "kv");
  return strcmp(name, "f32") == 0 ? WEIR_F32 : strcmp(name, "q8_0") == 0 ? WEIR_Q8_0 : WEIR_F16;
}

static weir_status open_file(subject *s, const weir_config *c, const room *r, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *gate_file = weir_config_string(c, "gate-file");
  weir_gate_file f = {0};
  if (gate_file) WEIR_TRY(weir_gate_file_read(gate_file, &f, e));
  const weir_pair_gate gate = {.name = f.small.name,
                               .n_vocab = f.small.n_vocab,
                               .dim = f.small.dim,
                               .fingerprint = f.small.fingerprint,
                               .head = &f.head};
  if (gate_file && f.kind != WEIR_GATE_HEAD)
    WEIR_TRY(
        weir_fail(e, WEIR_EINVAL, "%s holds no gate head: another gate adds nothing to a step", gate_file));
  const weir_pair_opts o = {.small_path = weir_config_string(c, "model"),
                            .gate = gate_file ? &gate : NULL,
                            .small_device = weir_config_string(c, "device"),
                            .small_tp = s->tp,
                            .comm = weir_config_string(c, "comm"),
                            .cuda_library = weir_config_string(c, "cuda-library"),
                            .cuda_no_graphs = !weir_config_bool(c, "cuda-graphs"),
                            .n_threads = (int32_t)weir_config_int(c, "threads"),
                            .isa = weir_config_string(c, "isa"),
                            .n_ctx = r->n_ctx,
                            .max_seqs = r->max_seqs,
                            .kv_tokens = (int64_t)r->n_pages * WEIR_PAGE_TOKENS,
                            .max_tokens = r->max_tokens,
                            .kv_dtype = kv_type(c)};
  WEIR_TRY(weir_pair_open(&o, &s->pair, e));
  s->exec = weir_pair_exec(s->pair, 0);
  s->n_vocab = weir_pair_n_vocab(s->pair);
  s->name = o.small_path;
  s->type = "";
  s->device = weir_pair_device(s->pair, 0);
out:
  weir_gate_file_fini(&f);
  return st;
}

static weir_status type_named(const char *name, weir_dtype *out, weir_err *e) {
  for (int32_t t = 0; t < WEIR_DTYPE_COUNT; t++)
    if (!strcmp(weir_dtype_get((weir_dtype)t)->name, name)) {
      *out = (weir_dtype)t;
      return WEIR_OK;
    }
  return weir_fail(e, WEIR_EINVAL, "type \"%s\" is not one of %s", name, weir_dtype_names());
}

/* The shape's ranks and the executor over them; made-up weights have no fingerprint. */
static weir_status open_ranks(subject *s, const weir_config *c, const room *r, weir_dtype type,
                              const weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_instance *m[WEIR_MAX_RANKS] = {0};
  weir_tp *tp = NULL;
  const int32_t block = weir_dtype_get(type)->block_elems;
  const char *comm = weir_config_string(c, "comm");
  weir_tp_opts o = {.name = s->name,
                    .plan = {.n_nodes = 1,
                             .n_local = s->tp,
                             .comm = weir_places_comm(&s->at.ranks[0], 1),
                             .n_ctx = r->n_ctx,
                             .max_tokens = r->max_tokens,
                             .max_seqs = r->max_seqs,
                             .kv_dtype = kv_type(c)},
                    .left = &s->left[0]};
  if (strcmp(comm, "auto") != 0 && !weir_comm_kind_parse(comm, &o.plan.comm))
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "--comm %s is not known", comm));
  WEIR_TRY(weir_places_check_comm(&s->at.ranks[0], 1, o.plan.comm, e));
  for (int32_t i = 0; i < s->tp; i++) {
    weir_shard shard;
    WEIR_TRY(weir_shard_cut(h, (weir_shard_blocks){block, block}, i, s->tp, &shard, e));
    const weir_instance_opts io = {.n_ctx = r->n_ctx,
                                   .max_tokens = r->max_tokens,
                                   .max_seqs = r->max_seqs,
                                   .kv_dtype = kv_type(c),
                                   .shard = &shard};
    WEIR_TRY(weir_instance_create_from(s->at.rank[0][i], weir_synth_weights, &type, h, &io, &m[i], e));
  }
  WEIR_TRY(weir_tp_create(&o, &tp, e));
  weir_instance *taken[WEIR_MAX_RANKS];
  memcpy(taken, m, sizeof taken);
  memset(m, 0, sizeof m);
  weir_tp *const started = tp;
  tp = NULL;
  WEIR_TRY(weir_tp_start(started, taken, r->n_pages, &s->own, e));
out:
  weir_tp_destroy(tp);
  for (int32_t i = 0; i < WEIR_MAX_RANKS; i++) weir_instance_destroy(m[i]);
  return st;
}

static weir_status open_whole(subject *s, const weir_config *c, const room *r, weir_dtype type,
                              const weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_instance *m = NULL;
  const weir_instance_opts o = {.n_ctx = r->n_ctx,
                                .n_pages = r->n_pages,
                                .max_tokens = r->max_tokens,
                                .max_seqs = r->max_seqs,
                                .kv_dtype = kv_type(c)};
  WEIR_TRY(weir_instance_create_from(s->at.dev[0], weir_synth_weights, &type, h, &o, &m, e));
  WEIR_TRY(weir_exec_local_create(m, s->name, &s->own, e));
out:
  return st;
}

static weir_status open_shape(subject *s, const weir_config *c, const room *r, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hparams *h = NULL;
  weir_places *places = NULL;
  weir_dtype type = WEIR_F32;
  weir_placement_opts at = {.n_tiers = 1,
                            .n_threads = (int32_t)weir_config_int(c, "threads"),
                            .isa = weir_config_string(c, "isa"),
                            .cuda_library = weir_config_string(c, "cuda-library"),
                            .cuda_no_graphs = !weir_config_bool(c, "cuda-graphs")};
  s->name = weir_config_string(c, "shape");
  WEIR_TRY(WEIR_NEW(1, &h, e));
  WEIR_TRY(WEIR_NEW(1, &places, e));
  WEIR_TRY(type_named(weir_config_string(c, "type"), &type, e));
  s->type = weir_dtype_get(type)->name;
  WEIR_TRY(weir_synth_shape(s->name, (int32_t)weir_config_int(c, "layers"), r->n_ctx, h, e));
  WEIR_TRY(weir_places_parse(weir_config_string(c, "device"), s->tp, 0, places, e));
  at.place[0] = places->at[0];
  if (s->tp > 1) at.ranks[0] = places;
  WEIR_TRY(weir_placement_open(&at, &s->at, e));
  weir_placement_describe(&s->at, s->devices, sizeof s->devices);
  s->device = s->tp > 1 ? s->devices : s->at.dev[0]->desc;
  WEIR_TRY(s->tp > 1 ? open_ranks(s, c, r, type, h, e) : open_whole(s, c, r, type, h, e));
  s->exec = s->own;
  s->n_vocab = h->n_vocab;
out:
  free(places);
  free(h);
  return st;
}

static void subject_close(subject *s) {
  if (s->own) s->own->ops->destroy(s->own);
  weir_pair_close(s->pair);
  weir_placement_close(&s->at, s->left);
}

/* Writes all of the KV: memory that was never written is one page of zeros to the CPU, read from its cache.
 */
static weir_status touch_kv(bench *x, weir_err *e) {
  int64_t unused = 0;
  for (int32_t i = 1; i < x->exec->info.n_pages; i++)
    weir_batch_add_copies(&x->b, (const int32_t[]){0, i}, 1);
  add(x, 0, 0, 1);
  return step(x, &unused, e);
}

static weir_status bench_open(bench *x, const subject *s, const room *r, weir_err *e) {
  weir_status st = WEIR_OK;
  *x = (bench){.s = s, .exec = s->exec, .stride = r->stride, .clock = weir_clock_system()};
  const weir_exec_info *info = &x->exec->info;
  if (info->n_ctx < r->n_ctx || info->n_pages < r->n_pages)
    return weir_fail(e, WEIR_EINVAL, "%s has room for %d tokens of context and %d KV pages; wanted %d and %d",
                     s->name, info->n_ctx, info->n_pages, r->n_ctx, r->n_pages);
  WEIR_TRY(weir_batch_builder_init(&x->b, info->max_tokens, info->max_seqs, info->n_pages, info->n_pages, e));
  WEIR_TRY(WEIR_NEW((size_t)info->max_tokens, &x->rows, e));
  WEIR_TRY(WEIR_NEW((size_t)info->n_ctx, &x->tok, e));
  WEIR_TRY(WEIR_NEW((size_t)info->n_pages, &x->page, e));
  uint32_t seed = 1;
  for (int32_t i = 0; i < info->n_ctx; i++) {
    seed = seed * 1664525u + 1013904223u;
    x->tok[i] = (int32_t)((seed >> 8) % (uint32_t)s->n_vocab);
  }
  for (int32_t i = 0; i < info->n_pages; i++) x->page[i] = i;
  WEIR_TRY(touch_kv(x, e));
out:
  return st;
}

static void bench_close(bench *x) {
  weir_batch_builder_fini(&x->b);
  free(x->rows);
  free(x->tok);
  free(x->page);
}

int main(int argc, char **argv) {
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  weir_config *c = NULL;
  subject s = {0};
  bench x = {0};
  WEIR_TRY(weir_config_create(table, sizeof table / sizeof *table, 1, &c, e));
  WEIR_TRY(weir_config_read_args(c, argc - 1, argv + 1, e));
  const char *model = weir_config_string(c, "model"), *shape = weir_config_string(c, "shape");
  if (weir_config_bool(c, "help") || (!model && !shape)) {
    weir_buf help = {0};
    WEIR_TRY(weir_config_help(c, 100, &help, e));
    printf(
        "bench_step -m FILE [options], bench_step --shape NAME [options]: times prefill, decode and\n"
        "catch-up steps of one model.\n\n%s",
        help.data);
    weir_buf_fini(&help);
    goto out;
  }
  if (model && shape) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "--model and --shape exclude each other"));
  if (shape && weir_config_string(c, "gate-file"))
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "--gate-file is of a --model, not of a shape"));
  const room r = room_for(c);
  s.tp = (int32_t)weir_config_int(c, "tp");
  WEIR_TRY(model ? open_file(&s, c, &r, e) : open_shape(&s, c, &r, e));
  WEIR_TRY(bench_open(&x, &s, &r, e));
  x.json = weir_config_bool(c, "json");
  if (!x.json)
    printf("%s on %s, %lld bytes of weights\n", s.exec->info.name, s.device,
           (long long)s.exec->info.weight_bytes);
  WEIR_TRY(run(&x, c, e));
out:
  if (st != WEIR_OK) fprintf(stderr, "bench_step: %s\n", err.msg);
  bench_close(&x);
  subject_close(&s);
  weir_config_destroy(c);
  return st == WEIR_OK ? 0 : 1;
}
