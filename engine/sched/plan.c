/* SPDX-License-Identifier: Apache-2.0 */
/* Step planning and preemption: arithmetic on integers. Owns the batch under construction; loop thread only.
 * A build is linear in the number of active requests, plus a look back over them for each preemption. */
#include "sched/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sched/draft.h"
#include "sched/shape.h"

enum {
  SHORT_ROWS = 32,      /* feeds of at most so many rows go before prompts: decode, catch-up, windows */
  PATIENCE = 8,         /* passed over for so many steps, a request goes before all */
  HEADROOM_TOKENS = 32, /* that a request may write before it needs pages it was not admitted for */
  STEP_EDITS = 1 << 20  /* edits of logits in one step (12 MiB), unless one request alone needs more */
};

typedef struct builder {
  weir_plan *p;
  int32_t tier;
  weir_request *const *req; /* [n], the most urgent first */
  int32_t n;
  weir_tier_kv *kv;
  const weir_plan_limits *limits;
  bool mixed;     /* short feeds wait as well as long ones may */
  int32_t n_long; /* rows of long feeds so far */
  bool full;      /* no room for anybody else */
} builder;

weir_status weir_plan_init(weir_plan *p, int32_t max_tokens, int32_t max_seqs, int32_t n_pages, weir_err *e) {
  weir_status st = WEIR_OK;
  *p = (weir_plan){.max_seqs = max_seqs};
  WEIR_TRY(WEIR_NEW((size_t)max_seqs, &p->item, e));
  WEIR_TRY(WEIR_NEW((size_t)max_tokens * WEIR_TOP_MAX, &p->law, e));
  /* A shared page is copied at most once for each sequence that writes to it. */
  WEIR_TRY(weir_batch_builder_init(&p->batch, max_tokens, max_seqs, n_pages, n_pages, e));
out:
  if (st != WEIR_OK) weir_plan_fini(p, NULL);
  return st;
}

void weir_plan_fini(weir_plan *p, weir_pages *pages) {
  free(p->item);
  free(p->law);
  weir_batch_builder_fini(&p->batch);
  weir_copies_fini(&p->copies, pages);
  weir_edit_arena_fini(&p->edits);
  *p = (weir_plan){0};
}

static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t max32(int32_t a, int32_t b) { return a > b ? a : b; }

/* ---- pages ---- */

/* Pages for its text so far and a little more. */
static int32_t pages_wanted(const weir_request *r) {
  const int32_t most = r->n_prompt + r->max_new, with_room = r->view.n + HEADROOM_TOKENS;
  return weir_pages_for(with_room < most ? with_room : most);
}

static int32_t spoken_for(weir_request *const *req, int32_t n, int32_t tier) {
  int32_t sum = 0;
  for (int32_t i = 0; i < n; i++) sum += max32(0, req[i]->claim[tier] - req[i]->seq[tier].n_pages);
  return sum;
}

static int32_t available(const weir_tier_kv *kv) {
  return weir_pages_free(kv->pages) + (kv->prefix ? weir_prefix_idle(kv->prefix) : 0);
}

/* Pages of the pool that starting takes: not those of the prefix cache that others hold anyway. */
static int32_t cost_of_start(const weir_request *r, const weir_tier_kv *kv) {
  int32_t held = 0;
  if (kv->prefix) weir_prefix_peek(kv->prefix, r->salt, r->tok, r->view.n, &held);
  const int32_t total = weir_pages_total(kv->pages);
  return min32(max32(1, pages_wanted(r) - held), max32(1, total));
}

bool weir_plan_claim(weir_request *r, int32_t tier, weir_request *const *req, int32_t n,
                     const weir_tier_kv *kv, bool force) {
  const int32_t cost = cost_of_start(r, kv);
  if (!force && cost > available(kv) - spoken_for(req, n, tier)) return false;
  r->claim[tier] = cost;
  return true;
}

/* Takes the pages of the least urgent request that holds any, is less urgent than `r` and not part of the
 * step. What of them the prefix cache knows stays there as long as there is room. */
static bool preempt_for(builder *b, const weir_request *r) {
  for (int32_t i = b->n - 1; i >= 0 && b->req[i] != r; i--) {
    weir_request *v = b->req[i];
    if (v->seq[b->tier].n_pages == 0 || v->place[b->tier] >= 0) continue;
    b->p->spoken_for -= max32(0, v->claim[b->tier] - v->seq[b->tier].n_pages);
    weir_plan_publish(v, b->tier, b->kv);
    weir_request_drop_kv(v, b->tier, b->kv->pages);
    b->p->preempted++;
    return true;
  }
  return false;
}

/* Pages that preempt_for could give in the end. */
static int32_t takeable(const builder *b, const weir_request *r) {
  int32_t sum = 0;
  for (int32_t i = b->n - 1; i >= 0 && b->req[i] != r; i--)
    if (b->req[i]->place[b->tier] < 0)
      sum += max32(b->req[i]->claim[b->tier], b->req[i]->seq[b->tier].n_pages);
  return sum;
}

static bool others_hold_pages(const builder *b, const weir_request *r) {
  for (int32_t i = 0; i < b->n; i++)
    if (b->req[i] != r && b->req[i]->seq[b->tier].n_pages > 0) return true;
  return false;
}

/* Whether `r`, which holds no pages on the tier, may start; takes pages from less urgent ones where that
 * helps. */
static bool may_start(builder *b, weir_request *r) {
  weir_plan *p = b->p;
  if (p->blocker && weir_more_urgent(&p->blocker->node, &r->node)) return false;
  const int32_t own = r->claim[b->tier]; /* in spoken_for since it was admitted */
  const int32_t cost = cost_of_start(r, b->kv);
  int32_t room = available(b->kv) - (p->spoken_for - own);
  if (cost > room && others_hold_pages(b, r)) { /* alone it goes on whatever the estimate says */
    if (cost > room + takeable(b, r)) {
      p->blocker = r;
      return false;
    }
    while (cost > room && preempt_for(b, r)) room = available(b->kv) - (p->spoken_for - own);
  }
  p->spoken_for += cost - own;
  r->claim[b->tier] = cost;
  return true;
}

/* Starts a request on a tier from what the prefix cache knows of tok[0 .. limit]. */
static weir_status match_prefix(builder *b, weir_request *r, int32_t limit, weir_err *e) {
  const int32_t t = b->tier;
  weir_tier_kv *kv = b->kv;
  int32_t covered = 0;
  if (!kv->prefix || r->view.kv_len[t] > 0 || r->seq[t].n_pages > 0) return WEIR_OK;
  const weir_status st = weir_seq_match(&r->seq[t], kv->prefix, r->salt, r->tok, limit, &covered, e);
  if (st != WEIR_OK) return st;
  if (r->seq[t].n_pages > 0) { /* from here on the claim counts pages it shares */
    const int32_t wanted = pages_wanted(r);
    b->p->spoken_for += max32(0, wanted - r->seq[t].n_pages) - r->claim[t];
    r->claim[t] = wanted;
  }
  r->view.kv_len[t] = covered;
  r->published[t] = covered / WEIR_PAGE_TOKENS;
  if (r->waiting && r->need.tier == t) r->need.from = r->fed_to = covered;
  if (r->met[t]) return WEIR_OK; /* what it finds after a preemption may be its own */
  r->met[t] = true;
  r->counts.prefix_hit[t] += covered;
  kv->hit_tokens += covered;
  kv->lookup_tokens += limit + 1;
  return WEIR_OK;
}

/* ---- pinned requests ---- */

/* Last of all guards, and it asks the request itself: whatever policy, controller or router say, a pinned
 * request gets no pages, no rows and no place in a step of a higher tier. */
static bool pin_forbids(builder *b, const weir_request *r, weir_err *e) {
  if (!r->pinned || b->tier == 0) return false;
  b->p->pin_refused++;
  weir_fail(e, WEIR_EINVAL, "request %lld is pinned to the small tier, and a step of a larger one was asked for",
            (long long)r->id);
  return true;
}

int32_t weir_plan_pinned_rows(const weir_plan *p, int32_t tier) {
  int32_t n = 0;
  for (int32_t i = 0; i < p->n_items && tier > 0; i++)
    if (p->item[i].req && p->item[i].req->pinned) n += p->item[i].to - p->item[i].from;
  return n;
}

/* ---- one request ---- */

/* Whether the edits of so many rows from `first` on are more than this step should hold. */
static bool edits_fit(const weir_plan *p, const weir_request *r, int32_t to, int32_t n_rows) {
  if (!weir_shape_wanted(r) || p->n_items == 0) return true;
  const int64_t most = weir_shape_most(r, to - 1);
  return (int64_t)p->edits.n_taken + most * n_rows <= STEP_EDITS;
}

static void count_rows(weir_plan *p, const weir_request *r, int32_t from, int32_t to) {
  const weir_need *q = &r->need;
  const int32_t prompt = max32(0, min32(to, r->n_prompt) - from);
  const int32_t rest = to - from - prompt;
  int32_t judged = 0;
  if (r->cfg.keep[q->tier] != WEIR_KEEP_ALL && q->tier > 0) /* row p judges token p + 1 */
    judged = max32(0, min32(to, q->to - 1) - max32(from + prompt, q->judge_from - 1));
  const int32_t decode = rest > 0 && to == q->to;
  p->rows.prompt += prompt;
  p->rows.judged += judged;
  p->rows.decode += decode;
  p->rows.catchup += rest - judged - decode;
  weir_plan_item *it = &p->item[r->place[q->tier]];
  it->use[WEIR_ROW_PROMPT] = prompt;
  it->use[WEIR_ROW_CATCHUP] = rest - judged - decode;
  it->use[WEIR_ROW_JUDGED] = judged;
  it->use[WEIR_ROW_DECODE] = decode;
  it->answers = it->n_out;
}

/* Rows before it are of the prompt and only looked at: nothing is drawn from them. */
static int32_t first_drawn(const weir_request *r) { return max32(r->need.out_from, r->n_prompt - 1); }

/* The edits of one request's rows: listed before anything of the step is touched, since that may fail. */
typedef struct shaped {
  weir_draw_shape row[SHORT_ROWS];
} shaped;

static weir_status shape(builder *b, weir_request *r, int32_t to, shaped *out, weir_err *e) {
  const int32_t first = max32(r->fed_to, first_drawn(r));
  for (int32_t k = 0; weir_shape_wanted(r) && k < to - first; k++) {
    const weir_status st = weir_shape_row(r, b->tier, first + k, &b->p->edits, &out->row[k], e);
    if (st != WEIR_OK) return st;
  }
  return WEIR_OK;
}

static void add_rows(builder *b, weir_request *r, int32_t to, const shaped *x) {
  weir_plan *p = b->p;
  const weir_need *q = &r->need;
  const int32_t from = r->fed_to, first = max32(from, q->out_from); /* position of its first wanted row */
  const int32_t drawn = max32(from, first_drawn(r));
  const weir_seq *s = &r->seq[b->tier];
  weir_plan_item *it = &p->item[p->n_items];
  *it = (weir_plan_item){.req = r, .from = from, .to = to, .first_out = p->batch.n_out};
  const int32_t n_pages = weir_pages_for(to);
  const int32_t row = weir_batch_add(&p->batch, &(weir_batch_seq){r->tok, from, to, s->page, n_pages});
  for (int32_t pos = first; pos < to; pos++) {
    weir_ask *a = weir_batch_ask(&p->batch, row + pos - from);
    *a = r->draw;
    const weir_draw_shape none = {0}, *how = weir_shape_wanted(r) && pos >= drawn ? &x->row[pos - drawn] : &none;
    a->edit = how->edit;
    a->n_edits = how->n;
    a->only_edits = how->only;
    a->n_top = pos >= drawn ? r->n_top : 0;
    if (r->fusion && b->tier == 0 && pos == q->to - 1) a->n_top = p->n_top = WEIR_TOP_MAX;
    weir_cascade_ask(&r->cascade, &r->view, q, pos, a);
    if (a->probe >= 0 && r->receipt[pos + 1].why == WEIR_WHY_FORCED) a->keep = WEIR_KEEP_ALL;
    if (pos + 1 >= r->n_prompt && a->probe >= 0) a->probe_q = r->stat[pos + 1 - r->n_prompt].logprob;
    weir_drafts_ask(r, b->tier, pos, a, p->law + (size_t)(p->batch.n_out - 1) * WEIR_TOP_MAX);
    it->n_out++;
  }
  if (it->n_out > 0 && r->n_top > p->n_top) p->n_top = r->n_top;
  r->place[b->tier] = p->n_items++;
  r->passed[b->tier] = 0;
  if (r->since_ns < p->oldest_ns) p->oldest_ns = r->since_ns;
  count_rows(p, r, from, to);
}

/* Makes positions [from, to) of the request writable, from less urgent ones' pages if need be. */
static weir_status make_room(builder *b, weir_request *r, int32_t from, int32_t to, bool may_preempt,
                             weir_err *e) {
  weir_plan *p = b->p;
  weir_status st;
  const int32_t copies_before = p->copies.n, pages_before = r->seq[b->tier].n_pages;
  do {
    st = weir_seq_prepare(&r->seq[b->tier], b->kv->pages, b->kv->prefix, from, to, &p->copies, e);
  } while (st == WEIR_ENOMEM && may_preempt && preempt_for(b, r));
  if (st != WEIR_OK) return st;
  const int32_t left = max32(0, r->claim[b->tier] - pages_before);
  p->spoken_for -= min32(left, r->seq[b->tier].n_pages - pages_before);
  if (p->copies.n > copies_before)
    weir_batch_add_copies(&p->batch, p->copies.src_dst + 2 * copies_before, p->copies.n - copies_before);
  return WEIR_OK;
}

/* Gives `r` its share of the step; nothing when it must wait. */
static weir_status place(builder *b, weir_request *r, bool is_long, weir_err *e) {
  weir_plan *p = b->p;
  shaped x;
  if (pin_forbids(b, r, e)) return WEIR_EINVAL;
  if (r->seq[b->tier].n_pages == 0 && !may_start(b, r)) return WEIR_OK;
  weir_status st = match_prefix(b, r, r->need.out_from, e);
  if (st != WEIR_OK) return st;
  int32_t left = b->limits->tokens - p->batch.n_tokens;
  if (is_long && b->mixed) left = min32(left, b->limits->prompt_chunk - b->n_long);
  int32_t to = r->fed_to + min32(r->need.to - r->fed_to, left);
  /* A shaper's edits are listed before the batch is touched, SHORT_ROWS at a time; wider windows are fed in
   * two steps. */
  if (weir_shape_wanted(r)) to = min32(to, max32(r->fed_to, first_drawn(r)) + SHORT_ROWS);
  const int32_t n_pages = weir_pages_for(to);
  b->full = left < 1 || !weir_batch_fits(&p->batch, to - r->fed_to, n_pages, n_pages) ||
            !edits_fit(p, r, to, max32(0, to - max32(r->fed_to, first_drawn(r))));
  if (b->full) return WEIR_OK;
  WEIR_TRY(shape(b, r, to, &x, e));
  WEIR_TRY(make_room(b, r, r->fed_to, to, true, e));
  if (is_long) b->n_long += to - r->fed_to;
  add_rows(b, r, to, &x);
out:
  return st;
}

/* ---- ahead of a need ---- */

bool weir_plan_may_go_ahead(const weir_request *r, int32_t tier) {
  return r->ahead && tier > 0 && !r->pinned && !r->cascade.pinned && r->cfg.n_tiers > tier && r->cascade.hi >= tier &&
         !(r->waiting && r->need.tier == tier) && r->place[tier] < 0 &&
         r->view.kv_len[tier] < r->n_prompt - 1;
}

/* Feeds a part of a prompt nobody has asked for: with room that is there and from nobody's pages. */
static weir_status place_ahead(builder *b, weir_request *r, weir_err *e) {
  weir_plan *p = b->p;
  const int32_t t = b->tier, end = r->n_prompt - 1; /* the last token is left for the need's first row */
  if (r->seq[t].n_pages == 0) {
    const int32_t cost = cost_of_start(r, b->kv);
    if (p->blocker || cost > available(b->kv) - p->spoken_for) return WEIR_OK;
    r->claim[t] = cost;
    p->spoken_for += cost;
  }
  weir_status st = match_prefix(b, r, end, e);
  const int32_t from = r->view.kv_len[t];
  if (st != WEIR_OK || from >= end) return st;
  const int32_t left = min32(b->limits->tokens - p->batch.n_tokens, b->limits->ahead - p->rows.ahead);
  const int32_t to = from + min32(end - from, left), n_pages = weir_pages_for(to);
  b->full = left < 1 || !weir_batch_fits(&p->batch, to - from, n_pages, n_pages);
  if (b->full) return WEIR_OK;
  st = make_room(b, r, from, to, false, e);
  if (st != WEIR_OK) return st == WEIR_ENOMEM ? WEIR_OK : st;
  weir_plan_item *it = &p->item[p->n_items];
  *it = (weir_plan_item){.req = r, .from = from, .to = to, .first_out = p->batch.n_out, .ahead = true};
  weir_batch_add(&p->batch, &(weir_batch_seq){r->tok, from, to, r->seq[t].page, n_pages});
  it->use[WEIR_ROW_PROMPT] = to - from;
  r->place[t] = p->n_items++;
  p->rows.prompt += to - from;
  p->rows.ahead += to - from;
  return WEIR_OK;
}

/* ---- the step ---- */

enum { OVERDUE, SHORT, LONG, ANY };

static bool is_short(const weir_request *r) { return r->need.to - r->fed_to <= SHORT_ROWS; }

static bool takes_part(const builder *b, const weir_request *r, int32_t pass) {
  if (!r->waiting || r->need.tier != b->tier || r->place[b->tier] >= 0) return false;
  const bool overdue = r->passed[b->tier] >= PATIENCE;
  return pass == ANY || (pass == OVERDUE ? overdue : !overdue && is_short(r) == (pass == SHORT));
}

static void begin(builder *b) {
  weir_plan *p = b->p;
  p->n_items = 0;
  p->rows = (weir_plan_rows){0};
  p->n_top = 0;
  p->oldest_ns = INT64_MAX;
  p->blocker = NULL;
  p->spoken_for = spoken_for(b->req, b->n, b->tier);
  weir_batch_builder_clear(&p->batch);
  weir_edit_arena_reset(&p->edits);
  weir_copies_release(&p->copies, b->kv->pages);
}

weir_status weir_plan_build(weir_plan *p, int32_t tier, weir_request *const *req, int32_t n, weir_tier_kv *kv,
                            const weir_plan_limits *limits, weir_request **culprit, weir_err *e) {
  builder b = {.p = p, .tier = tier, .req = req, .n = n, .kv = kv, .limits = limits};
  weir_request *starved = NULL;
  weir_err why = {0}, starved_why = {0};
  *culprit = NULL;
  begin(&b);
  for (int32_t i = 0; i < n && !b.mixed; i++) b.mixed = takes_part(&b, req[i], ANY) && is_short(req[i]);
  for (int32_t pass = OVERDUE; pass < ANY; pass++) {
    for (int32_t i = 0; i < n && !b.full && p->n_items < p->max_seqs; i++) {
      weir_request *r = req[i];
      if (!takes_part(&b, r, pass)) continue;
      const weir_status st = place(&b, r, !is_short(r), &why);
      if (st == WEIR_OK) continue;
      if (st != WEIR_ENOMEM && !*culprit) { /* it ends; the step goes on without it */
        *culprit = r;
        if (e) *e = why;
      } else if (!starved || weir_more_urgent(&r->node, &starved->node)) { /* it waits for others to finish */
        starved = r;
        starved_why = why;
      }
    }
    /* Long feeds have had their share, or one was too large: others may still fit. */
    b.full = b.full && p->batch.n_tokens >= limits->tokens;
  }
  for (int32_t i = 0; i < n && limits->ahead > 0 && !b.full && p->n_items < p->max_seqs; i++) {
    if (!weir_plan_may_go_ahead(req[i], tier)) continue;
    if (place_ahead(&b, req[i], &why) != WEIR_OK) break; /* nobody has asked for it */
  }
  for (int32_t i = 0; i < n && p->n_items > 0; i++)
    if (req[i]->waiting && req[i]->need.tier == tier && req[i]->place[tier] < 0) req[i]->passed[tier]++;
  p->under_way = p->n_items > 0;
  if (*culprit) return WEIR_EINVAL;
  if (p->n_items > 0 || !starved) return WEIR_OK;
  /* Nobody could be placed. If others hold pages on this tier they will finish and give them back; a request
   * that finds the pool empty of everybody else never can. */
  if (others_hold_pages(&b, starved)) return WEIR_OK;
  *culprit = starved;
  return weir_fail(e, WEIR_ENOMEM, "request %lld does not fit the KV pages of its tier: %s",
                   (long long)starved->id, starved_why.msg);
}

static void take_rows(const weir_plan *p, const weir_plan_item *it, const weir_row *rows,
                      const weir_top *top) {
  weir_request *r = it->req;
  for (int32_t k = 0; k < it->n_out; k++) {
    const int32_t at = it->to - it->n_out + k - r->need.out_from, from = it->first_out + k;
    r->row[at] = rows[from];
    for (int32_t i = 0; i < r->n_top; i++)
      r->row_top[(int64_t)at * r->n_top + i] = top[(int64_t)from * WEIR_TOP_MAX + i];
  }
  if (r->drafts && it->to == r->need.to && it->n_out > 0)
    weir_drafts_note(r, r->need.tier, it->to,
                     p->law + (size_t)(it->first_out + it->n_out - 1) * WEIR_TOP_MAX);
  if (r->fusion && r->need.tier == 0 && it->to == r->need.to && it->n_out > 0) /* its last row */
    memcpy(r->fusion->top, top + (int64_t)(it->first_out + it->n_out - 1) * WEIR_TOP_MAX,
           sizeof r->fusion->top);
}

void weir_plan_finish(weir_plan *p, int32_t tier, const weir_row *rows, const weir_top *top,
                      const weir_tier_kv *kv) {
  for (int32_t i = 0; i < p->n_items; i++) {
    const weir_plan_item *it = &p->item[i];
    weir_request *r = it->req;
    if (!r) continue;
    take_rows(p, it, rows, top);
    r->place[tier] = -1;
    /* A need that arose while its prompt was being fed ahead finds it fed. */
    if (!it->ahead)
      r->fed_to = it->to;
    else if (r->waiting && r->need.tier == tier && r->fed_to < it->to) /* but its own rows are still to come */
      r->fed_to = it->to < r->need.out_from ? it->to : r->need.out_from;
    r->view.kv_len[tier] = it->to;
    r->counts.steps[tier]++;
    r->counts.fed[tier] += it->to - it->from;
    weir_plan_publish(r, tier, kv);
  }
  weir_copies_release(&p->copies, kv->pages);
  p->under_way = false;
}

void weir_plan_drop(weir_plan *p, int32_t tier, const weir_tier_kv *kv) {
  for (int32_t i = 0; i < p->n_items; i++)
    if (p->item[i].req) p->item[i].req->place[tier] = -1;
  p->n_items = 0;
  p->under_way = false;
  weir_copies_release(&p->copies, kv->pages);
}

void weir_plan_forget(weir_plan *p, int32_t tier, weir_request *r) {
  if (r->place[tier] >= 0) p->item[r->place[tier]].req = NULL;
  r->place[tier] = -1;
}

void weir_plan_give_up(weir_plan *p, int32_t tier, const weir_request *r) {
  if (r->place[tier] < 0) return;
  weir_plan_item *it = &p->item[r->place[tier]];
  it->ahead = true; /* like a prompt that nobody has asked for */
  it->n_out = 0;
}

void weir_plan_publish(weir_request *r, int32_t tier, const weir_tier_kv *kv) {
  const weir_view *v = &r->view;
  const int32_t sure = v->kv_len[tier] < v->committed ? v->kv_len[tier] : v->committed;
  const int32_t n_full = sure / WEIR_PAGE_TOKENS;
  if (!kv->prefix || n_full <= r->published[tier]) return;
  weir_prefix_insert(kv->prefix, r->salt, r->tok, r->seq[tier].page, n_full);
  r->published[tier] = n_full;
}
