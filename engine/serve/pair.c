/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the models of a cascade on their devices. Owns devices, executors and tokenizer; any one thread.
 * Weights of all models are loaded before the KV of any is made: on a GPU, KV gets what they leave. The ranks
 * of a model that is cut are loaded one after the other, each by a thread that is gone afterwards: on the CPU
 * that thread is pinned to the rank's cores, whose memory the weights then lie in. */
#include "serve/pair.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/comm_nccl.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/open.h"
#include "kv/pages.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "run/exec_local.h"
#include "run/exec_thread.h"
#include "run/instance.h"
#include "run/shard.h"
#include "run/tp.h"
#include "serve/placement.h"

enum { SPARE_PAGES = 64 }; /* beyond full contexts: room for the prefix cache */
/* A step that does not end in this time when all is to end is left behind with its device. */
static const int64_t GRACE_NS = 10000000000;
static const int64_t GATHER_NS = 600000000000;

typedef struct opened { /* one model while loading */
  const char *role, *path;
  weir_mfile *file;
  weir_hparams h;
  weir_tokenizer *tokenizer;
  int32_t n_ranks, n_nodes; /* of all processes together; 1: whole */
  weir_comm_kind comm;
  weir_places at;
  weir_instance *instance[WEIR_MAX_RANKS]; /* [at.n] this process's */
  weir_tp *tp;                             /* NULL: whole */
} opened;

struct weir_pair {
  weir_placement at;
  char devices[384], device[WEIR_MAX_TIERS][192];
  bool cut[WEIR_MAX_TIERS];  /* over ranks */
  bool left[WEIR_MAX_TIERS]; /* executors whose thread is stuck; written when they are destroyed */
  int32_t n_tiers, n_vocab;
  weir_exec *exec[WEIR_MAX_TIERS];
  weir_tokenizer *tokenizer;
  weir_buf small_template; /* of tier 0 when that is not the model the tokenizer is of */
  bool lone_large; /* of a single model: it came as --large */
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

/* ---- weights ---- */

typedef struct report {
  const weir_pair_opts *o;
  const char *role;
  int32_t rank, n_ranks; /* of this process */
} report;

static void forward_report(void *ctx, int64_t done, int64_t total) {
  const report *r = ctx;
  if (r->o->progress) r->o->progress(r->o->progress_ctx, r->role, r->rank * total + done, r->n_ranks * total);
}

static int32_t max_tokens(const weir_pair_opts *o) {
  return o->max_tokens > 0 ? o->max_tokens : WEIR_PAIR_DEFAULT_TOKENS;
}

typedef struct load_job {
  weir_dev *dev;
  const opened *m;
  const weir_instance_opts *opts;
  weir_instance *instance;
  weir_status status;
  weir_err err;
} load_job;

static void *load_on_thread(void *arg) {
  load_job *j = arg;
  j->status = weir_instance_create(j->dev, j->m->file, &j->m->h, j->opts, &j->instance, &j->err);
  return NULL;
}

static weir_status load_rank(weir_pair *p, opened *m, int32_t tier, int32_t rank, weir_instance_opts opts,
                             weir_err *e) {
  weir_shard shard;
  weir_status st = weir_shard_plan(&m->h, m->file, rank, m->n_ranks, &shard, e);
  if (st != WEIR_OK) return st;
  opts.shard = &shard;
  load_job j = {.dev = p->at.rank[tier][rank], .m = m, .opts = &opts};
  pthread_t t;
  const int rc = pthread_create(&t, NULL, load_on_thread, &j);
  if (rc != 0) return weir_fail(e, WEIR_EIO, "start a thread: %s", strerror(rc));
  pthread_join(t, NULL);
  m->instance[rank] = j.instance;
  if (j.status != WEIR_OK && e) *e = j.err;
  return j.status == WEIR_OK ? WEIR_OK : weir_fail_ctx(e, j.status, "rank %d of %d", rank, m->n_ranks);
}

static weir_status load_weights(weir_pair *p, opened *m, int32_t tier, const weir_pair_opts *o, int32_t n_ctx,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  report r = {o, m->role, 0, m->at.n};
  const weir_load_progress progress = {.report = forward_report, .ctx = &r};
  const weir_instance_opts opts = {.n_ctx = n_ctx,
                                   .max_tokens = max_tokens(o),
                                   .max_seqs = o->max_seqs,
                                   .n_valid = p->n_vocab,
                                   .kv_dtype = o->kv_dtype,
                                   .progress = &progress};
  if (m->tp) {
    for (r.rank = 0; r.rank < m->at.n && st == WEIR_OK; r.rank++) st = load_rank(p, m, tier, r.rank, opts, e);
  } else {
    st = weir_instance_create(p->at.dev[tier], m->file, &m->h, &opts, &m->instance[0], e);
  }
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "load the %s model %s", m->role, m->path);
}

/* ---- a model that is cut ---- */

/* Before weights are loaded: workers may come and load at the same time. */
static weir_status open_group(weir_pair *p, opened *m, int32_t tier, const weir_pair_opts *o, int32_t n_ctx,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  char name[192];
  weir_shard shard; /* of the last rank: all can be cut so */
  WEIR_TRY(weir_shard_plan(&m->h, m->file, m->n_ranks - 1, m->n_ranks, &shard, e));
  snprintf(name, sizeof name, "%s (%s)", m->role, m->h.name);
  weir_tp_opts tp = {.name = name,
                     .plan = {.n_nodes = m->n_nodes,
                              .n_local = m->at.n,
                              .comm = m->comm,
                              .n_ctx = n_ctx,
                              .max_tokens = max_tokens(o),
                              .max_seqs = o->max_seqs,
                              .n_valid = p->n_vocab,
                              .kv_dtype = o->kv_dtype},
                     .bound_ns = o->rank_bound_ns,
                     .left = &p->left[tier]};
  if (m->n_nodes > 1) {
    tp.addr = o->nodes.addr;
    tp.token = o->nodes.token;
    tp.version = o->nodes.version;
    tp.host = o->nodes.host;
  }
  WEIR_TRY(weir_tp_fingerprint(m->file, &m->h, &tp.model, e));
  WEIR_TRY(weir_tp_create(&tp, &m->tp, e));
  return WEIR_OK;
out:
  return weir_fail_ctx(e, st, "the %s model %s over %d ranks", m->role, m->path, m->n_ranks);
}

static void log_line(void *ctx, const char *line) {
  (void)ctx;
  weir_log(WEIR_LOG_INFO, "%s", line);
}

/* *room: tokens that every worker has room for, -1: nobody to ask. */
static weir_status gather(opened *m, const weir_pair_opts *o, int64_t *room, weir_err *e) {
  *room = -1;
  if (!m->tp) return WEIR_OK;
  const weir_status st = weir_tp_gather(m->tp, o->nodes.timeout_ns > 0 ? o->nodes.timeout_ns : GATHER_NS,
                                        o->waiting ? o->waiting : log_line, NULL, o->progress_ctx, room, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "the %s model over %d processes", m->role, m->n_nodes);
}

/* ---- the gate ---- */

static weir_status check_gate(const weir_pair_gate *g, const opened *m, weir_err *e) {
  uint64_t print;
  if (g->dim != m->h.dim || g->n_vocab != m->h.n_vocab)
    return weir_fail(e, WEIR_EINVAL,
                     "the gate was fitted for another small model: %s, dimension %d and %d tokens; %s has %d and %d",
                     g->name, g->dim, g->n_vocab, m->path, m->h.dim, m->h.n_vocab);
  const weir_status st = weir_tp_fingerprint(m->file, &m->h, &print, e);
  if (st != WEIR_OK || print == g->fingerprint) return st;
  return weir_fail(e, WEIR_EINVAL,
                   "the gate was fitted for other weights than those of the small model: %s, %016" PRIx64
                   "; %s has %016" PRIx64,
                   g->name, g->fingerprint, m->path, print);
}

/* ---- KV ---- */

/* What a token takes on one rank of a model. */
static weir_status token_bytes_of(const opened *m, int32_t rank, weir_dtype kv, int64_t *out, weir_err *e) {
  weir_shard shard;
  weir_hparams part = m->h;
  if (m->n_ranks > 1) {
    const weir_status st = weir_shard_plan(&m->h, m->file, rank, m->n_ranks, &shard, e);
    if (st != WEIR_OK) return st;
    weir_shard_hparams(&m->h, &shard, &part);
  }
  *out = weir_kvstore_token_bytes(&part, kv);
  return WEIR_OK;
}

/* KV tokens that the place of a rank has room for, so that each rank of each tier there holds as many; -1:
 * not known. On the CPU memory is there when it is touched: too much would show when the kernel ends the
 * process, not now. */
static weir_status room_at(const weir_pair *p, const opened *m, weir_place at, weir_dev *dev,
                           const weir_pair_opts *o, int64_t *out, weir_err *e) {
  size_t free_bytes, total_bytes;
  int64_t token_bytes = 0;
  weir_status st = WEIR_OK;
  *out = -1;
  for (int32_t i = 0; i < p->n_tiers; i++)
    for (int32_t r = 0; r < m[i].at.n; r++) {
      int64_t one;
      if (!weir_place_same(m[i].at.at[r], at)) continue;
      if ((st = token_bytes_of(&m[i], r, o->kv_dtype, &one, e)) != WEIR_OK) return st;
      token_bytes += one;
    }
  if (!at.cuda) {
    const int64_t available = weir_memory_available();
    if (o->nodes.n_local > 1) token_bytes *= o->nodes.n_local; /* the others want as much */
    if (available >= 0 && token_bytes > 0) *out = available / 16 * 15 / token_bytes;
    return WEIR_OK;
  }
  st = weir_dev_memory(dev, &free_bytes, &total_bytes, e);
  if (st != WEIR_OK) return st;
  *out =
      weir_placement_kv_tokens(free_bytes, total_bytes, o->gpu_share > 0 ? o->gpu_share : 0.9, token_bytes);
  return WEIR_OK;
}

/* The least of a tier's ranks, those of other processes too. */
static weir_status room(const weir_pair *p, opened *m, int32_t tier, const weir_pair_opts *o, int64_t *out,
                        weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(gather(&m[tier], o, out, e));
  for (int32_t r = 0; r < m[tier].at.n; r++) {
    int64_t one;
    WEIR_TRY(room_at(p, m, m[tier].at.at[r], p->at.rank[tier][r], o, &one, e));
    if (one >= 0 && (*out < 0 || one < *out)) *out = one;
  }
out:
  return st;
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

/* ---- executors ---- */

static weir_status make_exec(weir_pair *p, opened *m, int32_t tier, int32_t n_pages, weir_err *e) {
  weir_status st = WEIR_OK;
  char name[192];
  if (m->tp) {
    weir_instance *taken[WEIR_MAX_RANKS];
    weir_tp *tp = m->tp;
    memcpy(taken, m->instance, sizeof taken);
    memset(m->instance, 0, sizeof m->instance);
    m->tp = NULL;
    p->cut[tier] = true;
    WEIR_TRY(weir_tp_start(tp, taken, n_pages, &p->exec[tier], e)); /* it has threads of its own */
    return WEIR_OK;
  }
  WEIR_TRY(weir_instance_give_pages(m->instance[0], n_pages, e));
  snprintf(name, sizeof name, "%s (%s)", m->role, m->h.name);
  weir_instance *taken = m->instance[0];
  m->instance[0] = NULL;
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
  for (int32_t i = 0; i < p->n_tiers; i++)
    if (m[i].n_ranks > 1) WEIR_TRY(open_group(p, &m[i], i, o, n_ctx, e));
  for (int32_t i = 0; i < p->n_tiers; i++) WEIR_TRY(load_weights(p, &m[i], i, o, n_ctx, e));
  if (o->gate && o->small_path) WEIR_TRY(weir_instance_set_gate(m[0].instance[0], o->gate->head, e));
  for (int32_t i = 0; i < p->n_tiers; i++) {
    int64_t most = 0;
    WEIR_TRY(room(p, m, i, o, &most, e));
    WEIR_TRY(count_pages(o, p->at.place[i].cuda, n_ctx, most, &n_pages[i], e));
  }
  for (int32_t i = 0; i < p->n_tiers; i++) WEIR_TRY(make_exec(p, &m[i], i, n_pages[i], e));
out:
  return st;
}

/* ---- where everything lies ---- */

/* Which GPUs "cuda" means for one of several processes on this machine. */
static int32_t first_gpu(const weir_pair_opts *o, const char *device, int32_t n) {
  weir_err ignored; /* opening says it better */
  if (o->nodes.n_local <= 1 || strcmp(device, "cuda") != 0) return 0;
  return weir_places_first(o->nodes.local, o->nodes.n_local, n, weir_cuda_count(o->cuda_library, &ignored));
}

/* Ranks, their places, and what they talk over. */
static weir_status place(opened *m, const weir_pair_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  const bool small = !strcmp(m->role, "small");
  const char *device = small ? o->small_device : o->large_device;
  const int32_t tp = small ? o->small_tp : o->large_tp;
  m->n_nodes = !small && o->nodes.n > 1 ? o->nodes.n : 1;
  m->n_ranks = tp > 1 ? tp : 1;
  if (!device) device = "cpu";
  if (m->n_ranks % m->n_nodes != 0)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "%d ranks over %d processes: want as many on each", m->n_ranks,
                       m->n_nodes));
  const int32_t n = m->n_ranks / m->n_nodes;
  WEIR_TRY(weir_places_parse(device, n, small ? 0 : first_gpu(o, device, n), &m->at, e));
  m->comm = weir_places_comm(&m->at, m->n_nodes);
  if (!small && o->comm && strcmp(o->comm, "auto") != 0 && m->n_ranks > 1) {
    if (!weir_comm_kind_parse(o->comm, &m->comm))
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "comm \"%.40s\" is not known", o->comm));
    WEIR_TRY(weir_places_check_comm(&m->at, m->n_nodes, m->comm, e));
  }
  if (m->n_ranks > 1) WEIR_TRY(weir_comm_kind_check(m->comm, e));
  return WEIR_OK;
out:
  return weir_fail_ctx(e, st, "the %s model", m->role);
}

static void describe(weir_pair *p, const opened *m) {
  weir_placement_describe(&p->at, p->devices, sizeof p->devices);
  for (int32_t i = 0; i < p->n_tiers; i++) {
    char *out = p->device[i];
    const size_t bytes = sizeof p->device[i];
    if (m[i].n_nodes > 1)
      snprintf(out, bytes, "%d ranks over %s on %d processes, %d here, each %s", m[i].n_ranks,
               weir_comm_kind_name(m[i].comm), m[i].n_nodes, m[i].at.n, p->at.dev[i]->desc);
    else if (m[i].n_ranks > 1)
      snprintf(out, bytes, "%d ranks over %s, each %s", m[i].n_ranks, weir_comm_kind_name(m[i].comm),
               p->at.dev[i]->desc);
    else
      weir_placement_describe_tier(&p->at, i, out, bytes);
  }
}

static weir_status open_devices(weir_pair *p, const opened *m, const weir_pair_opts *o, weir_err *e) {
  weir_placement_opts at = {.n_tiers = p->n_tiers,
                            .n_threads = o->n_threads,
                            .process = o->nodes.cores_local,
                            .n_processes = o->nodes.cores_n_local,
                            .isa = o->isa,
                            .cuda_library = o->cuda_library,
                            .cuda_no_graphs = o->cuda_no_graphs};
  for (int32_t i = 0; i < p->n_tiers; i++) {
    at.place[i] = m[i].at.at[0];
    if (m[i].n_ranks > 1) at.ranks[i] = &m[i].at;
  }
  const weir_status st = weir_placement_open(&at, &p->at, e);
  if (st == WEIR_OK) describe(p, m);
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
  weir_comm_nccl_library(o->nccl_library);
  for (int32_t i = 0; i < n; i++) WEIR_TRY(place(&m[i], o, e)); /* before anything is read */
  WEIR_TRY(WEIR_NEW(1, &p, e));
  p->n_tiers = n;
  p->lone_large = !o->small_path;

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
  if (o->gate && o->small_path) WEIR_TRY(check_gate(o->gate, &m[0], e));
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
    for (int32_t r = 0; r < m[i].at.n; r++) weir_instance_destroy(m[i].instance[r]);
    weir_tp_destroy(m[i].tp);
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
const char *weir_pair_device(const weir_pair *p, int32_t tier) { return p->device[tier]; }
const char *weir_pair_devices(const weir_pair *p) { return p->devices; }
void weir_pair_configure(const weir_pair *p, weir_engine_cfg *c) {
  c->n_tiers = p->n_tiers;
  c->lone_large = p->lone_large;
  c->tokenizer = p->tokenizer;
  c->overlap_tiers = weir_pair_overlaps(p);
  for (int32_t t = 0; t < p->n_tiers; t++) {
    c->tier[t] = p->exec[t];
    c->tp_stats[t] = p->cut[t] ? weir_exec_tp_stats : NULL;
  }
}
bool weir_pair_overlaps(const weir_pair *p) { return weir_placement_overlaps(&p->at); }
