/* SPDX-License-Identifier: Apache-2.0 */
/* The data of `weir calibrate`: tasks or prompts, divided at random into parts that a request is in one of.
 * Owns what it reads. Main thread. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "programs/calibrate_in.h"

/* One prompt a line; empty lines are left out. */
static weir_status read_lines(weir_calibrating *x, const char *path, const weir_buf *text, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t limit = weir_config_int(x->c, "limit");
  for (size_t at = 0; at < text->len;) {
    const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
    size_t len = end ? (size_t)(end - line) : text->len - at;
    at += len + 1;
    if (len > 0 && line[len - 1] == '\r') len--;
    if (len == 0) continue;
    if (x->prompts.n >= WEIR_MAX_PROMPTS || (limit > 0 && x->prompts.n >= limit)) break;
    WEIR_TRY(weir_texts_add(&x->prompts, line, len, true, e));
  }
  if (x->prompts.n == 0) st = weir_fail(e, WEIR_EFORMAT, "%s has no prompts", path);
out:
  return st;
}

static weir_status read_file(weir_calibrating *x, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf text = {0};
  WEIR_TRY(weir_read_file(path, &text, e));
  size_t i = 0;
  while (i < text.len && strchr(" \t\r\n", text.data[i])) i++;
  x->has_tasks = i < text.len && text.data[i] == '{';
  if (x->has_tasks)
    WEIR_TRY(weir_tasks_read(path, (int32_t)weir_config_int(x->c, "limit"), &x->tasks, e));
  else
    WEIR_TRY(read_lines(x, path, &text, e));
  x->n_data = x->has_tasks ? x->tasks.n : x->prompts.n;
out:
  weir_buf_fini(&text);
  return st;
}

/* splitmix64 */
static uint64_t next(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static weir_status part_init(weir_cal_part *p, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  p->n = n;
  if (n == 0) return WEIR_OK;
  WEIR_TRY(weir_answers_init(&p->answers, n, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &p->item, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &p->large, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &p->n_large, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &p->right, e));
out:
  return st;
}

/* A random order (Fisher, Yates), cut: exchangeable parts. A map needs data of its own. */
static weir_status divide(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t *order = NULL;
  uint64_t state = (uint64_t)weir_config_int(x->c, "seed") ^ 0x63616c6962726174u; /* not the draws' noise */
  const int32_t n = x->n_data;
  WEIR_TRY(WEIR_NEW((size_t)n, &order, e));
  for (int32_t i = 0; i < n; i++) order[i] = i;
  for (int32_t i = n - 1; i > 0; i--) {
    const int32_t k = (int32_t)(next(&state) % ((uint64_t)i + 1)), swap = order[i];
    order[i] = order[k];
    order[k] = swap;
  }
  const int32_t fit = weir_gate_is_fitted(x->gate.kind) ? n / 3 : 0;
  const int32_t size[WEIR_N_PARTS] = {
      [WEIR_PART_CALIBRATE] = (n - fit + 1) / 2, [WEIR_PART_CONFIRM] = (n - fit) / 2, [WEIR_PART_FIT] = fit};
  for (int32_t p = 0, at = 0; p < WEIR_N_PARTS; at += size[p++]) {
    WEIR_TRY(part_init(&x->part[p], size[p], e));
    x->part[p].first_text = at;
    for (int32_t i = 0; i < size[p]; i++) x->part[p].item[i] = order[at + i];
  }
out:
  free(order);
  return st;
}

weir_status weir_cal_read(weir_calibrating *x, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(read_file(x, path, e));
  if (x->n_data < 4)
    return weir_fail(e, WEIR_EINVAL, "%s has %d requests: half of them choose, half confirm, want at least 4",
                     path, x->n_data);
  st = divide(x, e);
out:
  return st;
}

weir_status weir_cal_encode(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tokenizer *tok = weir_pair_tokenizer(x->models.pair);
  const bool special = weir_config_bool(x->c, "special");
  for (int32_t p = 0; p < WEIR_N_PARTS; p++)
    for (int32_t i = 0; i < x->part[p].n; i++) {
      const int32_t item = x->part[p].item[i];
      const char *text = x->has_tasks ? x->tasks.task[item].prompt : x->prompts.text[item].data;
      const size_t len = x->has_tasks ? strlen(text) : x->prompts.text[item].len;
      WEIR_TRY(weir_encode_prompt(tok, text, len, special, &x->part[p].answers.one[i].prompt, e));
    }
out:
  return st;
}

void weir_cal_data_fini(weir_calibrating *x) {
  for (int32_t p = 0; p < WEIR_N_PARTS; p++) {
    weir_cal_part *a = &x->part[p];
    weir_answers_fini(&a->answers);
    for (int32_t i = 0; i < a->n && a->large; i++) free(a->large[i]);
    free(a->large);
    free(a->n_large);
    free(a->right);
    free(a->item);
  }
  weir_tasks_fini(&x->tasks);
  weir_texts_fini(&x->prompts);
}
