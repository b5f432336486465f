/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the models of a cascade on their devices. Owns devices, executors and tokenizer; any one thread.
 * Weights of all models are loaded before the KV of any is made: on a GPU, KV gets what they leave. */
#include "serve/pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kv/pages.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "run/exec_local.h"
#include "run/exec_thread.h"
#include "run/instance.h"
#include "serve/placement.h"

enum { SPARE_PAGES = 64 }; /* beyond full contexts: room for the prefix cache */
/* A step that does not end in this time when all is to end is left behind with its device. */
static const int64_t GRACE_NS = 10000000000;

typedef struct opened { /* one model while loading */
  const char *role, *path;
  weir_mfile *file;
  weir_hparams h;
  weir_tokenizer *tokenizer;
  weir_instance *instance;
} opened;

struct weir_pair {
  weir_placement at;
  char devices[384];
  bool left[WEIR_MAX_TIERS]; /* executors whose thread is stuck; written when they are destroyed */
  int32_t n_tiers, n_vocab;
  weir_exec *exec[WEIR_MAX_TIERS];
  weir_tokenizer *tokenizer;
  weir_buf small_template; /* of tier 0 when that is not the model the tokenizer is of */
};

static weir_status open_file(opened *o, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_mfile_open(o->path, &o->file, e));
  WEIR_TRY(weir_hparams_read(o->file, &o->h, e));
  WEIR_TRY(weir_tokenizer_create(o->file, &o->tokenizer, e));
  return WEIR_OK;
out:
  if (e && strstr(e->msg, o->path)) return weir_fail_ctx(e, st, "open the %s model", o->role);
  return weir_fail_ctx(e, st, "open the %s model: %s", o->role, o->path);
}

static void close_file(opened *o) {
  weir_tokenizer_destroy(o->tokenizer);
  weir_mfile_close(o->file);
  o->tokenizer = NULL;
  o->file = NULL;
}

typedef struct report {
  const weir_pair_opts *o;
  const char *role;
} report;

static void forward_report(void *ctx, int64_t done, int64_t total) {
  const report *r = ctx;
  if (r->o->progress) r->o->progress(r->o->progress_ctx, r->role, done, total);
}

static weir_status load_weights(weir_pair *p, opened *m, int32_t tier, const weir_pair_opts *o, int32_t n_ctx,
                                weir_err *e) {
  report r = {o, m->role};
  const weir_load_progress progress = {forward_report, &r};
  const weir_instance_opts opts = {.n_ctx = n_ctx,
                                   .max_tokens = o->max_tokens > 0 ? o->max_tokens : WEIR_PAIR_DEFAULT_TOKENS,
                                   .max_seqs = o->max_seqs,
                                   .n_valid = p->n_vocab,
                                   .kv_dtype = o->kv_dtype,
                                   .progress = &progress};
  const weir_status st = weir_instance_create(p->at.dev[tier], m->file, &m->h, &opts, &m->instance, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "load the %s model %s", m->role, m->path);
}

/* KV tokens that a tier's device has room for, so that each tier there holds as many; -1: not known. On the
 * CPU memory is there when it is touched: too much would show when the kernel ends the process, not now. */
static weir_status room(const weir_pair *p, const opened *m, int32_t tier, const weir_pair_opts *o,
                        int64_t *out, weir_err *e) {
  size_t free_bytes, total_bytes;
  int64_t token_bytes = 0;
  *out = -1;
  for (int32_t i = 0; i < p->n_tiers; i++)
    if (p->at.dev[i] == p->at.dev[tier]) token_bytes += weir_kvstore_token_bytes(&m[i].h, o->kv_dtype);
  if (!p->at.place[tier].cuda) {
    const int64_t available = weir_memory_available();
    if (available >= 0 && token_bytes > 0) *out = available / 16 * 15 / token_bytes;
    return WEIR_OK;
  }
  const weir_status st = weir_dev_memory(p->at.dev[tier], &free_bytes, &total_bytes, e);
  if (st != WEIR_OK) return st;
  *out =
      weir_placement_kv_tokens(free_bytes, total_bytes, o->gpu_share > 0 ? o->gpu_share : 0.9, token_bytes);
  return WEIR_OK;
}

/* `most`: tokens there is room for, -1: not known. */
static weir_status count_pages(const weir_pair_opts *o, bool cuda, int32_t n_ctx, int64_t most, int32_t *out,
                               weir_err *e) {
  const int64_t one = weir_pages_for(n_ctx);
  int64_t n = one * o->max_seqs + SPARE_PAGES;
  if (!cuda && o->kv_tokens_max > 0 && n > o->kv_tokens_max / WEIR_PAGE_TOKENS)
    n = o->kv_tokens_max / WEIR_PAGE_TOKENS;
  if (most >= 0 && n > most / WEIR_PAGE_TOKENS) n = most / WEIR_PAGE_TOKENS;
  if (n < one) n = one;
  if (o->kv_tokens > 0) n = (o->kv_tokens - 1) / WEIR_PAGE_TOKENS + 1;
  if (n > INT32_MAX / WEIR_PAGE_TOKENS)
    return weir_fail(e, WEIR_EINVAL, "KV for %d sequences of %d tokens is too much", o->max_seqs, n_ctx);
  if (n < one)
    return weir_fail(e, WEIR_EINVAL, "KV for %lld tokens does not hold one context of %d",
                     (long long)o->kv_tokens, n_ctx);
  if (most >= 0 && n * WEIR_PAGE_TOKENS > most)
    return weir_fail(e, WEIR_ENOMEM,
                     "the %s has room for the KV of %lld tokens beside the weights, and %lld are wanted: a "
                     "smaller context%s would do",
                     cuda ? "GPU" : "machine", (long long)most, (long long)n * WEIR_PAGE_TOKENS,
                     cuda ? ", fewer KV tokens or a larger share of its memory" : " or fewer KV tokens");
  *out = (int32_t)n;
  return WEIR_OK;
}

static weir_status make_exec(weir_pair *p, opened *m, int32_t tier, int32_t n_pages, weir_err *e) {
  weir_status st = WEIR_OK;
  char name[192];
  WEIR_TRY(weir_instance_give_pages(m->instance, n_pages, e));
  snprintf(name, sizeof name, "%s (%s)", m->role, m->h.name);
  weir_instance *taken = m->instance;
  m->instance = NULL;
  WEIR_TRY(weir_exec_local_create(taken, name, &p->exec[tier], e));
  if (weir_placement_overlaps(&p->at)) {
    weir_exec *inner = p->exec[tier];
    p->exec[tier] = NULL;
    WEIR_TRY(weir_exec_thread_create(inner, GRACE_NS, &p->left[tier], &p->exec[tier], e));
  }
  return WEIR_OK;
out:
  return weir_fail_ctx(e, st, "the %s model %s", m->role, m->path);
}

/* Weights of all, then KV of all. Tiers of one device are asked for room before either takes any. */
static weir_status load(weir_pair *p, opened *m, const weir_pair_opts *o, int32_t n_ctx, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n_pages[WEIR_MAX_TIERS];
  for (int32_t i = 0; i < p->n_tiers; i++) WEIR_TRY(load_weights(p, &m[i], i, o, n_ctx, e));
  for (int32_t i = 0; i < p->n_tiers; i++) {
    int64_t most = 0;
    WEIR_TRY(room(p, m, i, o, &most, e));
    WEIR_TRY(count_pages(o, p->at.place[i].cuda, n_ctx, most, &n_pages[i], e));
  }
  for (int32_t i = 0; i < p->n_tiers; i++) WEIR_TRY(make_exec(p, &m[i], i, n_pages[i], e));
out:
  return st;
}

static weir_status open_devices(weir_pair *p, const opened *m, const weir_pair_opts *o, weir_err *e) {
  weir_placement_opts at = {.n_tiers = p->n_tiers,
                            .n_threads = o->n_threads,
                            .isa = o->isa,
                            .cuda_library = o->cuda_library,
                            .cuda_no_graphs = o->cuda_no_graphs};
  for (int32_t i = 0; i < p->n_tiers; i++) {
    const char *name = i == 0 && o->small_path ? o->small_device : o->large_device;
    const weir_status st = weir_place_parse(name ? name : "cpu", &at.place[i], e);
    if (st != WEIR_OK) return weir_fail_ctx(e, st, "the %s model", m[i].role);
  }
  const weir_status st = weir_placement_open(&at, &p->at, e);
  if (st == WEIR_OK) weir_placement_describe(&p->at, p->devices, sizeof p->devices);
  return st;
}

weir_status weir_pair_open(const weir_pair_opts *o, weir_pair **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_pair *p = NULL;
  opened m[2] = {0};
  int32_t n = 0;
  *out = NULL;
  if (!o->small_path && !o->large_path) return weir_fail(e, WEIR_EINVAL, "no model is named");
  if (o->max_seqs < 1 || o->n_ctx < 0)
    return weir_fail(e, WEIR_EINVAL, "max_seqs %d and ctx %d must be positive", o->max_seqs, o->n_ctx);
  if (o->small_path) m[n++] = (opened){.role = "small", .path = o->small_path};
  if (o->large_path) m[n++] = (opened){.role = "large", .path = o->large_path};
  WEIR_TRY(WEIR_NEW(1, &p, e));
  p->n_tiers = n;

  int32_t n_ctx = o->n_ctx > 0 ? o->n_ctx : WEIR_PAIR_DEFAULT_CTX;
  for (int32_t i = 0; i < n; i++) {
    WEIR_TRY(open_file(&m[i], e));
    if (o->n_ctx > m[i].h.n_ctx)
      weir_log(WEIR_LOG_WARN, "the %s model has a context of %d tokens: using that, not %d", m[i].role,
               m[i].h.n_ctx, o->n_ctx);
    if (m[i].h.n_ctx < n_ctx) n_ctx = m[i].h.n_ctx;
  }
  p->n_vocab = weir_tokenizer_n_vocab(m[0].tokenizer);
  if (n == 2) {
    st = weir_tokenizer_same(m[0].tokenizer, m[1].tokenizer, &p->n_vocab, e);
    if (st != WEIR_OK) {
      weir_fail_ctx(e, st, "%s and %s do not share a vocabulary", m[0].path, m[1].path);
      goto out;
    }
  }
  WEIR_TRY(open_devices(p, m, o, e));
  WEIR_TRY(load(p, m, o, n_ctx, e));
  /* The large model's: it has the say on end-of-text and templates. */
  if (n == 2) {
    const weir_str s = weir_tokenizer_template(m[0].tokenizer);
    WEIR_TRY(weir_buf_put(&p->small_template, s.data, s.len, e));
  }
  p->tokenizer = m[n - 1].tokenizer;
  m[n - 1].tokenizer = NULL;
  *out = p;
  p = NULL;
out:
  for (int32_t i = 0; i < n; i++) {
    weir_instance_destroy(m[i].instance);
    close_file(&m[i]);
  }
  weir_pair_close(p);
  return st;
}

void weir_pair_close(weir_pair *p) {
  if (!p) return;
  for (int32_t i = 0; i < p->n_tiers; i++)
    if (p->exec[i]) p->exec[i]->ops->destroy(p->exec[i]);
  weir_tokenizer_destroy(p->tokenizer);
  weir_buf_fini(&p->small_template);
  weir_placement_close(&p->at, p->left);
  free(p);
}

int32_t weir_pair_n_tiers(const weir_pair *p) { return p->n_tiers; }
weir_exec *weir_pair_exec(const weir_pair *p, int32_t tier) { return p->exec[tier]; }
weir_tokenizer *weir_pair_tokenizer(const weir_pair *p) { return p->tokenizer; }
weir_str weir_pair_template(const weir_pair *p, int32_t tier) {
  if (tier == p->n_tiers - 1) return weir_tokenizer_template(p->tokenizer);
  return (weir_str){p->small_template.data, p->small_template.len};
}
int32_t weir_pair_n_vocab(const weir_pair *p) { return p->n_vocab; }
const char *weir_pair_isa(const weir_pair *p) {
  const weir_dev *cpu = weir_placement_cpu(&p->at);
  return cpu ? weir_isa_name(weir_cpu_isa(cpu)) : "none";
}
int32_t weir_pair_n_threads(const weir_pair *p) {
  const weir_dev *cpu = weir_placement_cpu(&p->at);
  return cpu ? weir_cpu_n_threads(cpu) : 0;
}
const char *weir_pair_device(const weir_pair *p, int32_t tier) { return p->at.dev[tier]->desc; }
const char *weir_pair_devices(const weir_pair *p) { return p->devices; }
bool weir_pair_overlaps(const weir_pair *p) { return weir_placement_overlaps(&p->at); }
