/* SPDX-License-Identifier: Apache-2.0 */
/* Opens what a cascade needs from model files: devices, instances, executors, one tokenizer; checks that the
 * two models belong together. With one path it is a single model. */
#ifndef WEIR_SERVE_PAIR_H
#define WEIR_SERVE_PAIR_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/policy.h"
#include "kernels/dtype.h"
#include "model/tokenizer.h"
#include "serve/engine.h"
#include "step/step.h"

/* The other processes of a large model that is cut over several: this one leads them. */
typedef struct weir_pair_nodes {
  int32_t n;              /* processes, this one included; 0 and 1: there are no others */
  const char *addr;       /* "host:port", where this one listens for them */
  const char *token;      /* NULL: none */
  const char *host;       /* under which workers reach this machine's ranks; NULL: the host of addr */
  const char *version;    /* of the program; a worker of another one is refused */
  int64_t timeout_ns;     /* how long to wait for them all; 0: 600 s */
  int32_t local, n_local; /* of the processes on this machine, which this is and how many; 0: alone */
  int32_t cores_local, cores_n_local; /* the same of those that divide the cores; 0: all are this one's */
} weir_pair_nodes;

/* A gate that was fitted for one small model, and is refused beside another. */
typedef struct weir_pair_gate {
  const char *name; /* of that model, for messages */
  int32_t n_vocab, dim;
  uint64_t fingerprint;       /* weir_tp_fingerprint */
  const weir_gate_head *head; /* given to the small model; NULL: the gate needs none */
} weir_pair_gate;

typedef struct weir_pair_opts {
  const char *small_path;   /* may be NULL: no small tier */
  const char *large_path;   /* may be NULL: no large tier; not both */
  const char *small_device; /* "cpu", "cuda", "cuda:N"; NULL: the CPU. Models on one device share it; with */
  const char *large_device; /* devices of their own they work at the same time. weir_places_parse */
  int32_t small_tp;         /* ranks that the model is cut over; 0 and 1: it is whole */
  int32_t large_tp;         /* ... of all processes together, a multiple of nodes.n */
  const char *comm;         /* of the large model's ranks: "shm", "tcp", ...; NULL or "auto": as they lie */
  weir_pair_nodes nodes;
  int64_t rank_bound_ns;    /* a rank that is silent or late for so long is given up; 0: 10 s */
  const char *cuda_library; /* weir-cuda.so; NULL: found by itself */
  const char *nccl_library; /* NULL: libnccl.so.2 */
  bool cuda_no_graphs;
  double gpu_share;      /* of a GPU's memory that weir may take, in (0, 1]; 0: 0.9 */
  int32_t n_threads;     /* of the CPU device, of each rank's; 0: one per core, ranks share them out */
  const char *isa;       /* "scalar", "avx2", "avx512-vnni", "amx", NULL or "auto": the best */
  int32_t n_ctx;         /* 0: the smaller of the models' contexts, at most WEIR_PAIR_DEFAULT_CTX */
  int32_t max_seqs;      /* requests under way at once; >= 1 */
  int64_t kv_tokens;     /* tokens that the KV of each tier holds, of all requests together; less than one
                            context is refused, and so is more than the GPU or the machine has room for. 0:
                            max_seqs full contexts and some spare pages, as much of that as fits, ... */
  int64_t kv_tokens_max; /* ... on the CPU at most so many, one context at least. 0: no limit */
  int32_t max_tokens;    /* rows of a step; 0: default */
  weir_dtype kv_dtype;   /* WEIR_F16, WEIR_F32 or, on the CPU, WEIR_Q8_0 */
  /* Called while loading, from this thread or one that it waits for; done of total bytes of weights. May be
   * NULL. */
  void (*progress)(void *ctx, const char *model, int64_t done, int64_t total);
  /* Called while workers are waited for, with a line such as "waiting for node 2 of 4". NULL: weir_log. */
  void (*waiting)(void *ctx, const char *line);
  void *progress_ctx; /* of both */
  const weir_pair_gate *gate; /* NULL: none. Without a small model it is not looked at */
} weir_pair_opts;

enum { WEIR_PAIR_DEFAULT_CTX = 8192, WEIR_PAIR_DEFAULT_TOKENS = 512 };

typedef struct weir_pair weir_pair;

/* Errors name the file. A vocabulary mismatch is refused with the first differing id and both spellings; a
 * difference in context lengths is reconciled to the smaller. */
weir_status weir_pair_open(const weir_pair_opts *, weir_pair **out, weir_err *e);
void weir_pair_close(weir_pair *); /* NULL is fine; engines over it first */

int32_t weir_pair_n_tiers(const weir_pair *);
weir_exec *weir_pair_exec(const weir_pair *, int32_t tier);
weir_tokenizer *weir_pair_tokenizer(const weir_pair *);
/* The chat template a tier's model came with, empty when it has none. Borrowed for the pair's life. */
weir_str weir_pair_template(const weir_pair *, int32_t tier);
int32_t weir_pair_n_vocab(const weir_pair *); /* ids both tiers have */
/* Of the CPU device; "none" and 0 when no tier is on it. */
const char *weir_pair_isa(const weir_pair *);
int32_t weir_pair_n_threads(const weir_pair *);
/* "cpu (avx2), 8 threads", "2 ranks over shm, each cpu (avx2), 4 threads" */
const char *weir_pair_device(const weir_pair *, int32_t tier);
const char *weir_pair_devices(const weir_pair *); /* of all tiers, in one line */
/* The pair's part of an engine's configuration: n_tiers, tier, tokenizer, overlap_tiers, tp_stats. */
void weir_pair_configure(const weir_pair *, weir_engine_cfg *io);
/* Whether the tiers have devices of their own: weir_engine_cfg.overlap_tiers. */
bool weir_pair_overlaps(const weir_pair *);

#endif
