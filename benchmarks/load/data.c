/* SPDX-License-Identifier: Apache-2.0 */
/* Where prompts come from. Made-up text is drawn anew from (seed, item, turn) each time, so nothing is kept.
 * The load's thread. */
#include "load/data.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/data_lines.h"
#include "programs/tasks.h"

/* Of hash_ids in Mooncake's traces (Qin et al. 2024, "Mooncake: a KVCache-centric disaggregated architecture
 * for LLM serving"). */
enum { TRACE_BLOCK_TOKENS = 512 };

struct weir_data {
  weir_data_cfg cfg;
  weir_lines lines;
  weir_tasks tasks;
  int64_t n, *order; /* owned; order is NULL unless shuffled */
  double words_per_token;
  weir_buf text, found; /* owned: of the last item; scratch */
};

static const char *const words[] = {
    "the",   "of",    "and",   "water", "house",  "small", "light", "river", "stone", "green",  "under",
    "over",  "there", "where", "when",  "could",  "would", "after", "again", "never", "always", "little",
    "great", "old",   "young", "tree",  "bird",   "horse", "road",  "ship",  "wind",  "rain",   "snow",
    "fire",  "night", "day",   "white", "black",  "red",   "blue",  "hand",  "eye",   "head",   "heart",
    "voice", "word",  "story", "name",  "time",   "year",  "place", "world", "king",  "child",  "woman",
    "man",   "dog",   "door",  "table", "bread",  "gold",  "glass", "long",  "short", "fast",   "slow",
    "went",  "came",  "said",  "made",  "found",  "gave",  "took",  "saw",   "heard", "knew",   "with",
    "from",  "into",  "upon",  "about", "before", "every", "many"};
enum { N_WORDS = sizeof words / sizeof *words };

static weir_status put_words(weir_rand *r, double n, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int64_t i = 0, k = (int64_t)(n + 0.5) > 0 ? (int64_t)(n + 0.5) : 1; i < k && st == WEIR_OK; i++)
    st = weir_buf_printf(out, e, "%s%s", out->len ? " " : "", words[weir_rand_below(r, N_WORDS)]);
  return st;
}

weir_status weir_data_words(int32_t n, uint64_t seed, weir_buf *out, weir_err *e) {
  weir_rand r;
  weir_rand_init(&r, seed, 2);
  weir_buf_truncate(out, 0);
  return put_words(&r, n, out, e);
}

/* ---- opening ---- */

static weir_status shuffle(weir_data *d, weir_err *e) {
  weir_rand r;
  d->order = malloc((size_t)d->n * sizeof *d->order);
  if (!d->order) return weir_fail(e, WEIR_ENOMEM, "cannot shuffle %lld items", (long long)d->n);
  weir_rand_init(&r, d->cfg.seed, 3);
  for (int64_t i = 0; i < d->n; i++) { /* Fisher and Yates, inside out */
    const int64_t j = (int64_t)weir_rand_below(&r, (uint64_t)i + 1);
    d->order[i] = d->order[j];
    d->order[j] = i;
  }
  return WEIR_OK;
}

weir_status weir_data_open(const weir_data_cfg *cfg, weir_data **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_data *d = NULL;
  WEIR_TRY(WEIR_NEW(1, &d, e));
  d->cfg = *cfg;
  d->words_per_token = 1;
  if ((cfg->prompts != NULL) + (cfg->tasks != NULL) + (cfg->trace != NULL) > 1) {
    st = weir_fail(e, WEIR_EINVAL, "--prompts, --tasks and --trace: only one of them");
    goto out;
  }
  if (cfg->tasks) {
    WEIR_TRY(weir_tasks_read(cfg->tasks, 0, &d->tasks, e));
    d->n = d->tasks.n;
  } else if (cfg->prompts || cfg->trace) {
    WEIR_TRY(weir_lines_read(cfg->prompts ? cfg->prompts : cfg->trace, cfg->trace != NULL, &d->lines, e));
    d->n = d->lines.n;
  }
  if (cfg->shuffle && d->n > 0 && !cfg->trace) WEIR_TRY(shuffle(d, e));
  *out = d;
out:
  if (st != WEIR_OK) weir_data_close(d);
  return st;
}

void weir_data_close(weir_data *d) {
  if (!d) return;
  weir_lines_fini(&d->lines);
  weir_tasks_fini(&d->tasks);
  weir_buf_fini(&d->text);
  weir_buf_fini(&d->found);
  free(d->order);
  free(d);
}

/* ---- items ---- */

static uint64_t stream_of(int64_t index, int32_t turn) {
  return 1000 + (uint64_t)index * WEIR_DATA_MAX_TURNS + (uint64_t)turn;
}

/* A beginning that other prompts have too, then words of its own. */
static weir_status make_up(weir_data *d, int64_t index, int32_t turn, weir_item *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_data_cfg *c = &d->cfg;
  weir_rand r, common;
  weir_rand_init(&r, c->seed, stream_of(index, turn));
  const double n = weir_lengths_draw(&c->input, &r) * d->words_per_token;
  out->max_tokens = weir_lengths_draw(&c->output, &r);
  const double shared = turn == 0 ? n * c->shared_prefix : 0;
  weir_buf_truncate(&d->text, 0);
  if (shared >= 1) {
    weir_rand_init(&common, c->seed, 4 + (weir_rand_below(&r, (uint64_t)c->n_prefixes) << 40));
    WEIR_TRY(put_words(&common, shared, &d->text, e));
  }
  if (n - shared >= 0.5) WEIR_TRY(put_words(&r, n - shared, &d->text, e));
  out->prompt = d->text.data;
  out->more = turn + 1 < c->turns;
out:
  return st;
}

static weir_status make_up_line(weir_data *d, const weir_line *l, int64_t index, weir_item *out,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  weir_rand r;
  int32_t left = l->input_length;
  weir_buf_truncate(&d->text, 0);
  for (size_t i = 0; i < json_array_size(l->hash_ids) && left > 0; i++) {
    const int32_t n = left < TRACE_BLOCK_TOKENS ? left : TRACE_BLOCK_TOKENS;
    weir_rand_init(&r, d->cfg.seed, 5 + ((uint64_t)json_integer_value(json_array_get(l->hash_ids, i)) << 8));
    WEIR_TRY(put_words(&r, n * d->words_per_token, &d->text, e));
    left -= n;
  }
  weir_rand_init(&r, d->cfg.seed, stream_of(index, 0));
  if (left > 0) WEIR_TRY(put_words(&r, left * d->words_per_token, &d->text, e));
  out->prompt = d->text.data;
out:
  return st;
}

weir_status weir_data_get(weir_data *d, int64_t index, int32_t turn, weir_item *out, weir_err *e) {
  *out = (weir_item){.max_tokens = d->cfg.max_tokens, .task = -1};
  if (d->n == 0) return make_up(d, index, turn, out, e);
  int64_t i = index % d->n;
  if (d->order) i = d->order[i];
  if (d->cfg.tasks) {
    out->prompt = d->tasks.task[i].prompt;
    out->task = (int32_t)i;
    return WEIR_OK;
  }
  const weir_line *l = &d->lines.line[i];
  if (l->max_tokens > 0) out->max_tokens = l->max_tokens;
  if (l->prompt) {
    out->prompt = l->prompt;
  } else if (l->messages) {
    out->messages = l->messages;
  } else if (l->turns) {
    out->prompt = json_string_value(json_array_get(l->turns, (size_t)turn));
    out->more = (size_t)turn + 1 < json_array_size(l->turns);
  } else {
    return make_up_line(d, l, index, out, e);
  }
  return WEIR_OK;
}

void weir_data_set_words_per_token(weir_data *d, double x) {
  if (x > 0.01 && x < 100) d->words_per_token = x;
}

bool weir_data_has_chats(const weir_data *d) {
  for (int64_t i = 0; i < d->lines.n; i++)
    if (d->lines.line[i].messages || d->lines.line[i].turns) return true;
  return d->n == 0 && d->cfg.turns > 1;
}

bool weir_data_made_up(const weir_data *d) {
  return d->n == 0 || (d->lines.n > 0 && d->lines.line[0].input_length > 0 && !d->lines.line[0].prompt);
}

const double *weir_data_arrivals(const weir_data *d, int64_t *n) {
  *n = d->lines.at_s ? d->lines.n : 0;
  return d->lines.at_s;
}

int64_t weir_data_count(const weir_data *d) { return d->n; }

weir_status weir_data_right(weir_data *d, int32_t task, const char *text, size_t len, bool *right,
                            weir_err *e) {
  const weir_status st = weir_task_find(&d->tasks, task, text, len, &d->found, e);
  *right = st == WEIR_OK && !strcmp(d->found.data, d->tasks.task[task].answer);
  return st;
}
