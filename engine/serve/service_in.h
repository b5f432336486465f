/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the service; private to engine/serve/service*.c. */
#ifndef WEIR_SERVE_SERVICE_IN_H
#define WEIR_SERVE_SERVICE_IN_H
#include <pthread.h>
#include <stdatomic.h>

#include "serve/keyed_hash.h"
#include "serve/service.h"
#include "serve/service_metrics.h"

/* What the preparing thread has to do, in a list of the service. */
typedef struct weir_work {
  struct weir_work *prev, *next;
  struct weir_work_queue *in; /* NULL: in none */
  bool is_call;               /* a weir_call, else a weir_reply */
} weir_work;
typedef struct weir_work_queue {
  weir_work *first, *last;
} weir_work_queue;

/* Copies of a weir_service_text. */
typedef struct weir_source {
  char *text; /* owned; of a conversation: all its messages */
  size_t len;
  int32_t *ids; /* owned */
  int32_t n_ids;
  weir_chat_message *chat; /* [n_chat], owned; texts in `text` */
  int32_t n_chat;
  bool special, bare;
} weir_source;

/* Where a request is. Under the service's lock. */
typedef enum { WEIR_AT_PREPARE, WEIR_AT_PREPARING, WEIR_AT_LOOP, WEIR_AT_END } weir_stage;

struct weir_reply {
  weir_work work; /* first */
  weir_service *of;
  _Atomic int32_t refs; /* the edge's and the service's */
  weir_stage stage;
  _Atomic int32_t cancelled; /* 0, or 1 + weir_cancel_why; for the loop */

  /* what was asked; the loop thread's after the preparing thread's */
  weir_source source;
  int64_t source_bytes; /* of it, as counted */
  weir_tokens prompt;
  weir_job job;
  weir_cascade_cfg cascade;
  weir_mode mode;
  const char **stop; /* [job.n_stop], owned, its texts behind it */
  int32_t *stop_id;  /* [n_stop_ids], owned */
  int32_t n_stop_ids;
  weir_bias *bias; /* owned */
  void *words;     /* owned until the engine has its copy: choices and spans of the job, and their texts */
  int64_t words_bytes;
  float threshold; /* NaN: none, or it moves */
  bool too_long;   /* its prompt does not fit the context */
  int64_t submitted_ns;

  /* the loop's */
  int32_t place; /* in its list */
  int64_t engine_id, accepted_ns, first_ns, last_ns;
  enum { WEIR_CUT_NOT, WEIR_CUT_STOP_ID, WEIR_CUT_MEMORY } cut; /* what follows is not shown */

  /* for readers */
  weir_reply_log log;
  _Atomic int32_t state, n_prompt;
  weir_reply_end end;
};

struct weir_call {
  weir_work work; /* first */
  weir_service *of;
  _Atomic int32_t refs;
  bool detokenize;
  weir_source source;
  _Atomic bool done;
  weir_call_result result;
  weir_tokens ids;
  weir_str *text; /* owned; its bytes in `bytes` */
  weir_buf bytes;
};

/* A preparing thread. */
typedef struct weir_preparer {
  weir_service *of;
  weir_tokenizer *tokenizer; /* borrowed; of this thread alone */
  bool shorts, longs;        /* which texts it takes */
  int32_t shorts_in_a_row;
  pthread_cond_t wake;
  pthread_t thread;
  bool started;
  _Atomic int64_t since_ns; /* when a preparation began; 0: none */
} weir_preparer;

struct weir_service {
  weir_service_cfg cfg;
  char *model;
  weir_service_metrics metrics;
  weir_engine *engine; /* the loop thread's */
  weir_hash_key salt_key;
  weir_chat_words words;
  int32_t n_ctx, n_vocab; /* of all tiers */
  int32_t max_tokens_default, max_tokens_limit;
  float default_threshold;
  int news_fd;

  _Atomic int32_t open, calls;
  _Atomic int64_t reply_bytes;
  _Atomic bool draining, broken;
  _Atomic bool lost[WEIR_MAX_TIERS]; /* dead, and nobody may wait for it */
  bool needs[WEIR_MAX_TIERS];        /* a request that asks for nothing */
  _Atomic int32_t running;
  _Atomic bool busy; /* the loop has work */
  _Atomic int64_t progress_ns,
      preparing_ns; /* when the loop last got on; when a preparation began, 0: none */

  weir_preparer preparer[2]; /* [n_preparers] */
  int32_t n_preparers;
  pthread_t loop;
  bool loop_started;
  pthread_mutex_t lock;
  pthread_cond_t loop_wake;
  /* under the lock */
  weir_work_queue short_work, long_work, inbox;
  bool stop, kick;
  weir_err broken_why;

  pthread_mutex_t stats_lock;
  weir_engine_stats stats;

  weir_reply **at; /* [max_requests] the loop's requests */
  int32_t n_at;
  bool news;           /* since the edge was last told; the loop's */
  int64_t computed_ns; /* in forward passes of the loop's thread so far; the loop's */
  struct weir_service_drift *drift; /* owned; NULL: there is no calibration; the loop's */
};

/* The first wrong field of a request ends its check; `x` is the error to fill. */
#define NEED(cond, param, ...)                                                           \
  do {                                                                                   \
    if (!(cond)) return weir_service_error_set(x, 400, (param), param ": " __VA_ARGS__); \
  } while (0)
static inline bool weir_within(float v, float low, float high) { return v >= low && v <= high; } /* NaN: no */

enum { WEIR_SERVICE_MAX_SETTINGS = 32, WEIR_SERVICE_MAX_WORD_BYTES = 1 << 16 };
enum { WEIR_SERVICE_MAX_CALLS = 64, WEIR_SERVICE_SHORT_BYTES = 16 << 10, WEIR_SERVICE_SHORTS_IN_A_ROW = 16 };

static inline int64_t weir_service_now(const weir_service *s) { return weir_now_ns(&s->cfg.engine.clock); }

/* service.c */
/* How long a client had better wait for a tier that is down. */
uint32_t weir_service_retry_ms(const weir_service *, int32_t tier);
void weir_work_put(weir_work_queue *, weir_work *);
void weir_work_unlink(weir_work *);
void weir_service_tell(weir_service *); /* there is news */
/* The End, once: false when somebody else was first. error may be NULL; outcome too (there was no engine). */
bool weir_reply_finish(weir_reply *, weir_end end, const weir_service_error *, const weir_outcome *,
                       weir_cancel_why why);
/* The same by whoever has set the stage to WEIR_AT_END. */
void weir_reply_finish_claimed(weir_reply *, weir_end end, const weir_service_error *, const weir_outcome *,
                               weir_cancel_why why);
void weir_reply_unref(weir_reply *);
void weir_call_finish(weir_call *);
size_t weir_source_bytes(const weir_source *);
void weir_source_fini(weir_source *);

/* service_check.c */
/* Checks a request and makes a reply of it; no lock, no thread but the edge's. */
weir_status weir_reply_create(weir_service *, const weir_service_request *, weir_reply **out,
                              weir_service_error *);
void weir_reply_free(weir_reply *);
/* Frees what it was asked with. */
void weir_reply_drop_source(weir_reply *);
weir_status weir_source_copy(const weir_service *, const weir_service_text *, weir_source *out,
                             weir_service_error *);

/* service_cascade.c */
weir_status weir_service_check_cascade(const weir_service *, const weir_service_request *, weir_reply *,
                                       weir_service_error *);

/* Copies choices and spans into the job. */
weir_status weir_service_copy_words(const weir_service *, const weir_service_request *, weir_reply *,
                                    weir_service_error *);
void weir_reply_drop_words(weir_reply *);

/* service_prepare.c */
void *weir_service_prepare_main(void *preparer);
/* service_loop.c */
/* Tells the door which tiers are there. */
void weir_service_note_tiers(weir_service *, const weir_engine_stats *);
void *weir_service_loop_main(void *service);

#endif
