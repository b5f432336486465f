/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the models of a cascade on the CPU. Owns device, executors and tokenizer; any one thread. */
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
#include "run/instance.h"

enum { SPARE_PAGES = 64 }; /* beyond full contexts: room for the prefix cache */

typedef struct opened { /* one model file while loading */
  const char *role, *path;
  weir_mfile *file;
  weir_hparams h;
  weir_tokenizer *tokenizer;
} opened;

struct weir_pair {
  weir_dev *dev;
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

static weir_status parse_isa(const char *name, weir_isa *out, weir_err *e) {
  *out = WEIR_ISA_BEST;
  if (!name || strcmp(name, "auto") == 0) return WEIR_OK;
  for (weir_isa i = WEIR_ISA_SCALAR; i < WEIR_ISA_BEST; i++) {
    if (strcmp(name, weir_isa_name(i)) != 0) continue;
    *out = i;
    return WEIR_OK;
  }
  return weir_fail(e, WEIR_EINVAL, "isa \"%s\" is not one of auto, scalar, avx2, avx512-vnni, amx", name);
}

typedef struct report {
  const weir_pair_opts *o;
  const char *role;
} report;

static void forward_report(void *ctx, int64_t done, int64_t total) {
  const report *r = ctx;
  if (r->o->progress) r->o->progress(r->o->progress_ctx, r->role, done, total);
}

static weir_status count_pages(const weir_pair_opts *o, int32_t n_ctx, int64_t *out, weir_err *e) {
  const int64_t one = weir_pages_for(n_ctx), most = INT32_MAX / WEIR_PAGE_TOKENS;
  int64_t n = one * o->max_seqs + SPARE_PAGES;
  if (o->kv_tokens_max > 0 && n > o->kv_tokens_max / WEIR_PAGE_TOKENS)
    n = o->kv_tokens_max / WEIR_PAGE_TOKENS;
  if (n < one) n = one;
  if (o->kv_tokens > 0) n = (o->kv_tokens - 1) / WEIR_PAGE_TOKENS + 1;
  if (n > most)
    return weir_fail(e, WEIR_EINVAL, "KV for %d sequences of %d tokens is too much", o->max_seqs, n_ctx);
  if (n < one)
    return weir_fail(e, WEIR_EINVAL, "KV for %lld tokens does not hold one context of %d",
                     (long long)o->kv_tokens, n_ctx);
  *out = n;
  return WEIR_OK;
}

static weir_status load(weir_pair *p, const opened *m, int32_t tier, const weir_pair_opts *o, int32_t n_ctx,
                        weir_err *e) {
  weir_status st = WEIR_OK;
  weir_instance *instance = NULL;
  char name[192];
  report r = {o, m->role};
  const weir_load_progress progress = {forward_report, &r};
  int64_t n_pages = 0;
  WEIR_TRY(count_pages(o, n_ctx, &n_pages, e));
  const weir_instance_opts opts = {.n_ctx = n_ctx,
                                   .n_pages = (int32_t)n_pages,
                                   .max_tokens = o->max_tokens > 0 ? o->max_tokens : WEIR_PAIR_DEFAULT_TOKENS,
                                   .max_seqs = o->max_seqs,
                                   .n_valid = p->n_vocab,
                                   .kv_dtype = o->kv_dtype,
                                   .progress = &progress};
  WEIR_TRY(weir_instance_create(p->dev, m->file, &m->h, &opts, &instance, e));
  snprintf(name, sizeof name, "%s (%s)", m->role, m->h.name);
  WEIR_TRY(weir_exec_local_create(instance, name, &p->exec[tier], e));
  return WEIR_OK;
out:
  return weir_fail_ctx(e, st, "load the %s model %s", m->role, m->path);
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
  weir_cpu_opts cpu = {.n_threads = o->n_threads};
  WEIR_TRY(parse_isa(o->isa, &cpu.isa, e));
  WEIR_TRY(weir_dev_open_cpu(&cpu, &p->dev, e));
  for (int32_t i = 0; i < n; i++) WEIR_TRY(load(p, &m[i], i, o, n_ctx, e));
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
  for (int32_t i = 0; i < n; i++) close_file(&m[i]);
  weir_pair_close(p);
  return st;
}

void weir_pair_close(weir_pair *p) {
  if (!p) return;
  for (int32_t i = 0; i < p->n_tiers; i++)
    if (p->exec[i]) p->exec[i]->ops->destroy(p->exec[i]);
  weir_tokenizer_destroy(p->tokenizer);
  weir_buf_fini(&p->small_template);
  weir_dev_destroy(p->dev);
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
const char *weir_pair_isa(const weir_pair *p) { return weir_isa_name(weir_cpu_isa(p->dev)); }
int32_t weir_pair_n_threads(const weir_pair *p) { return weir_cpu_n_threads(p->dev); }
