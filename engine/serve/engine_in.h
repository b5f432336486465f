/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's own state, for the files it is made of: engine.c (life, submit, the turn of the loop),
 * engine_jobs.c (admission, ends), engine_steps.c (steps of tiers), engine_life.c (their deaths and returns).
 * Loop thread only, but for `signals`. */
#ifndef WEIR_SERVE_ENGINE_IN_H
#define WEIR_SERVE_ENGINE_IN_H
#include <pthread.h>

#include "sched/plan.h"
#include "sched/queue.h"
#include "serve/engine.h"
#include "serve/auto.h"
#include "serve/goodput.h"
#include "serve/stream.h"

typedef struct weir_engine_job {
  weir_request *req; /* its `owner` is this */
  weir_stream stream;
  weir_job spec; /* prompt, cascade, bias and stop are not to be read: they were copied */
  int64_t submitted_ns, started_ns, first_ns;
  bool active, cancelled, at_eos;
  struct {
    weir_bucket bucket;
    float threshold, open; /* that it came with; of the last decision, as far as the bucket lets */
    int32_t at;            /* of its tenant's tracker in the table */
  } budget;
  uint8_t lost[WEIR_MAX_TIERS]; /* steps of a tier that failed with it, up to the most that are borne */
  struct weir_engine_job *next; /* with the same bits of its id */
  struct {
    float share;  /* that it came with */
    int32_t at;   /* of its tenant's tracker in the table */
    bool open;    /* the decision about the whole request has not been noted yet */
  } route;
  weir_choices choices; /* its request's */
  bool whole;           /* one of them is written */
  weir_gate_spans spans;
  float threshold; /* of the gate, outside of them */
  struct {
    bool on, moved;           /* moved: it has been in another mode */
    weir_auto_mode mode;      /* its own, which follows its floor's */
    weir_cascade_cfg cascade; /* that it came with */
  } auto_;
  bool logged; /* its owner hears of decisions */
} weir_engine_job;

typedef struct weir_engine_tier {
  weir_exec *exec;
  weir_tier_kv kv;
  weir_plan plan;
  weir_plan_limits limits;
  weir_row *rows;     /* [max_tokens] */
  weir_top *top;      /* [max_tokens][WEIR_TOP_MAX], made when somebody wants any */
  weir_result result; /* of the step under way */
  bool in_flight, dead;
  bool hung; /* dead with a step under way that never ended: its executor may still write to plan and rows */
  bool orphans;  /* dead, and jobs that cannot do without it may be there: they end at give_up_ns */
  uint64_t life; /* of the executor, as last seen: whose KV `kv` is the account of. 0 where it has but one */
  int64_t changed_ns, give_up_ns; /* dead, or not, since then */
  int64_t launched_ns;
  int32_t n_rows, n_seqs; /* of the step under way */
  weir_err why_dead;
  weir_tier_stats stats; /* the counters of it */
} weir_engine_tier;

struct weir_engine {
  weir_engine_cfg cfg;
  weir_engine_tier tier[WEIR_MAX_TIERS];
  weir_queue queue;         /* jobs that wait for admission */
  weir_request **active;    /* [n_active <= cfg.max_active], the most urgent first */
  weir_engine_job **leaver; /* [n_leavers] scratch: jobs about to end */
  int32_t n_active, n_leavers, leaver_cap;
  weir_engine_job **bucket; /* [n_buckets] by the low bits of the id; a power of two */
  int32_t n_buckets;
  int32_t *end; /* [n_end] ids that end a text, ascending */
  int32_t n_end;
  int64_t next_id, next_deadline; /* INT64_MAX: none */
  bool some_cancelled;
  int64_t wake_ns;    /* when the next turn has something to do; INT64_MIN: at once */
  double defers;      /* share of late eager requests that needed the large tier */
  weir_goodput speed; /* of late */
  int64_t tokens_by_tier[WEIR_MAX_TIERS], jobs_done[WEIR_END_DEADLINE + 1], last_step_ns;
  int64_t tokens_wanted_up;
  weir_rate_table rates;    /* of tenants */
  weir_route_stats routed;
  weir_budget_stats budget; /* the counters of it */
  int32_t large_waiting;    /* requests that waited for the large tier when the small one's step ended */
  double large_step_ns;     /* of late */
  double load_price;        /* of the last decision */

  int64_t given_up;         /* deferrals that took too long */
  weir_cost cost;           /* of requests that have ended */
  int64_t pinned_jobs, pinned_large_rows;
  int64_t tokens_forced;    /* committed */

  bool large_last; /* the last step was the large tier's */
  weir_auto auto_;
  int64_t auto_busy_ns; /* end of the last step of work that goes on; 0: none does */

  pthread_mutex_t lock; /* of signals */
  pthread_cond_t signal;
  uint64_t signals; /* steps that executors have told to be done */
};

static inline int64_t weir_engine_now(const weir_engine *g) { return weir_now_ns(&g->cfg.clock); }
static inline weir_engine_job *weir_engine_job_of(const weir_request *r) { return r->owner; }

/* ---- engine_jobs.c ---- */
weir_engine_job *weir_engine_find(const weir_engine *, int64_t id);
void weir_engine_job_free(weir_engine *, weir_engine_job *);
/* Tells the owner and forgets the job; a step under way goes on without it. */
void weir_engine_retire(weir_engine *, weir_engine_job *, weir_end, const weir_err *);
/* Puts all jobs into leaver[]; for walks that end some of them. */
weir_status weir_engine_list_jobs(weir_engine *, weir_err *e);
/* All rows of a request's need are in. */
void weir_engine_advance(weir_engine *, weir_engine_job *);
/* Lets cancelled, expired and finished jobs go, admits others, and asks all what they need. True when anybody
 * came or went. */
bool weir_engine_sweep(weir_engine *);

/* Shows what is committed; the error is the text's. */
weir_status weir_engine_show(weir_engine *, weir_engine_job *, bool final, weir_err *e);

/* ---- engine_text.c ---- */
/* The list of answers as tokens behind the job's prompt; nothing without one. */
weir_status weir_engine_make_choices(const weir_engine *, const weir_job *, int32_t max_new, int32_t n_vocab,
                                     weir_choices *out, weir_err *e);
weir_status weir_engine_make_spans(weir_engine_job *, const weir_job *, int32_t max_new, weir_err *e);
/* Brings the text to where the tokens are, and whether it has ended. */
weir_status weir_engine_follow(weir_engine *, weir_engine_job *, weir_err *e);
/* The threshold behind what was written; before the observe of rows. */
void weir_engine_span_set(weir_engine_job *);

/* ---- engine_log.c ---- */
/* Tells the owner of a job how it begins, and of each decision about it. */
void weir_engine_log_begin(const weir_engine *, weir_engine_job *);
void weir_engine_log(const weir_engine *, const weir_engine_job *, weir_did);

/* ---- engine_wait.c ---- */
/* Gives up for requests that have waited for the large tier for longer than they want. True when any did. */
bool weir_engine_give_up(weir_engine *);
/* When the next of them will have; INT64_MAX: never. */
int64_t weir_engine_give_up_at(const weir_engine *);

/* ---- engine_cost.c ---- */
/* The step of the tier has ended well and was not taken apart yet. */
void weir_engine_cost_step(weir_engine *, int32_t t);
/* KV went back from kv_before[t] to what it is now: tokens were taken back. */
void weir_engine_cost_taken_back(weir_engine *, weir_request *, const int32_t *kv_before);
void weir_engine_cost_end(weir_engine *, weir_request *);

/* ---- engine_budget.c ---- */
/* A request with a budget: when it is taken; around the observe of its rows. */
void weir_engine_budget_begin(weir_engine_job *);
void weir_engine_budget_set(weir_engine *, weir_engine_job *);
void weir_engine_budget_note(weir_engine *, weir_engine_job *);
/* Before a step's rows are looked at; after a step of the large tier without prompts. */
void weir_engine_budget_load(weir_engine *);
void weir_engine_budget_step(weir_engine *, int64_t device_ns);
weir_budget_stats weir_engine_budget_stats(const weir_engine *);

/* ---- engine_route.c ---- */
/* A request in mode route: when it is taken; around whatever may decide about it. */
void weir_engine_route_begin(weir_engine *, weir_engine_job *);
void weir_engine_route_set(weir_engine *, weir_engine_job *);
void weir_engine_route_note(weir_engine *, weir_engine_job *);

/* ---- engine_auto.c ---- */
void weir_engine_auto_init(weir_engine *);
/* A request in mode auto: when it is taken (after its budget); before it is asked what it needs; after the
 * observe of its rows; when tokens of it are shown; when it ends. */
void weir_engine_auto_begin(weir_engine *, weir_engine_job *);
void weir_engine_auto_turn(weir_engine *, weir_engine_job *);
void weir_engine_auto_observed(weir_engine *, const weir_engine_job *);
void weir_engine_auto_show(weir_engine *, weir_engine_job *, int32_t n);
void weir_engine_auto_leave(weir_engine *, const weir_engine_job *);
/* It cannot do without the tier in any mode its floor allows. */
bool weir_engine_auto_is_orphan(const weir_engine_job *, int32_t t);
/* After a step of a tier; when a turn is over; when a tier has died (its plan is dropped) or is back. */
void weir_engine_auto_step(weir_engine *, int32_t t, int64_t device_ns);
void weir_engine_auto_idle(weir_engine *);
void weir_engine_auto_tier(weir_engine *, int32_t t, bool up);

/* ---- engine_life.c ---- */
/* The tier has died: who needs it ends with the reason, at once or when dead_wait_ns is over, the others go
 * on without it. No step of it is under way, unless it is hung. */
void weir_engine_bury(weir_engine *, int32_t t, const weir_err *why);
/* The step of the tier, not taken apart yet, has failed with all that are in it. */
void weir_engine_note_lost(weir_engine *, int32_t t);
/* Looks at the lives of executors: buries, revives, and lets go who has waited for a dead one for too long.
 * True when anything changed. */
bool weir_engine_look(weir_engine *);
/* Whether weir_engine_look would find another life than the last time. */
bool weir_engine_life_has_changed(const weir_engine_tier *);

/* ---- engine_steps.c ---- */
/* Takes in the steps that are done. True when there were any. */
bool weir_engine_collect(weir_engine *);
/* Starts what can be started; true when anything was, or somebody ended by it. *st: not WEIR_OK when requests
 * are under way and nothing can be done for any of them, now or later. */
bool weir_engine_launch(weir_engine *, weir_status *st, weir_err *e);
/* Requests that wait for a step of the tier now, and since when the longest; NULL is fine. */
int32_t weir_engine_waiting(const weir_engine *, int32_t t, int64_t *oldest_ns);

#endif
