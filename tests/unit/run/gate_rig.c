/* SPDX-License-Identifier: Apache-2.0 */
/* Gate heads of tiny models. Any one thread. */
#include "gate_rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "run/forward.h"

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

static uint32_t next(uint32_t *s) { return *s = *s * 1664525u + 1013904223u; }

weir_gate_head gate_rig_head(const weir_instance *m, uint32_t seed) {
  weir_gate_head h = {.dim = m->h.dim, .bias = -0.3f, .stat_weight = {0.4f, 0, -0.7f}};
  h.weight = malloc((size_t)h.dim * sizeof *h.weight);
  assert_non_null(h.weight);
  for (int32_t j = 0; j < h.dim; j++)
    h.weight[j] = ((float)(next(&seed) >> 8) / (1 << 23) - 1) * 2 / sqrtf((float)h.dim);
  return h;
}

double gate_rig_score(const weir_gate_head *h, const float *hidden, const weir_row *r) {
  double z = (double)h->bias + (double)h->stat_weight[0] * (double)r->entropy +
             (double)h->stat_weight[1] * (double)r->p_max + (double)h->stat_weight[2] * (double)r->margin;
  for (int32_t j = 0; j < h->dim; j++) z += (double)h->weight[j] * (double)hidden[j];
  return 1 / (1 + exp(-z));
}

static int32_t token(int32_t s, int32_t i) { return (i * 37 + s * 101 + i * i) % 280; }

static const int32_t page[2][5] = {{3, 0, 5, 1, 9}, {4, 7}};

weir_batch gate_rig_prompts(weir_batch_builder *b, const weir_ask *like) {
  int32_t tok[2][GATE_LONG];
  for (int32_t s = 0; s < 2; s++)
    for (int32_t i = 0; i < GATE_LONG; i++) tok[s][i] = token(s, i);
  weir_batch_builder_clear(b);
  const int32_t first = weir_batch_add(b, &(weir_batch_seq){tok[0], 0, GATE_LONG, page[0], 5});
  const int32_t second = weir_batch_add(b, &(weir_batch_seq){tok[1], 0, GATE_SHORT, page[1], 2});
  for (int32_t i = 0; i < GATE_LONG; i++) {
    weir_ask *a = weir_batch_ask(b, first + i);
    *a = *like;
    a->pos = i + 1;
  }
  weir_ask *a = weir_batch_ask(b, second + GATE_SHORT - 1);
  *a = *like;
  a->pos = GATE_SHORT;
  return weir_batch_get(b);
}

weir_batch gate_rig_decode(weir_batch_builder *b, const weir_ask *like) {
  static const int32_t n[2] = {GATE_LONG, GATE_SHORT};
  weir_batch_builder_clear(b);
  for (int32_t s = 0; s < 2; s++) {
    int32_t tok[GATE_LONG + 1];
    for (int32_t i = 0; i <= n[s]; i++) tok[i] = token(s, i);
    const int32_t row = weir_batch_add(b, &(weir_batch_seq){tok, n[s], n[s] + 1, page[s], n[s] / 16 + 1});
    weir_ask *a = weir_batch_ask(b, row);
    *a = *like;
    a->pos = n[s] + 1;
  }
  return weir_batch_get(b);
}

double gate_rig_step(weir_instance *m, const weir_batch *b, const weir_gate_head *h, weir_row *rows) {
  const size_t dim = (size_t)m->h.dim, n = (size_t)b->n_out;
  weir_row *with = malloc(n * sizeof *with);
  float *hidden = malloc(n * dim * sizeof *hidden), *again = malloc(n * dim * sizeof *again);
  weir_err e;
  double worst = 0;
  assert_true(with && hidden && again);
  memset(rows, 0xee, n * sizeof *rows);
  must(weir_forward_hidden(m, b, with, hidden, &e), &e);
  must(weir_forward(m, b, rows, NULL, &e), &e);
  must(weir_forward_hidden(m, b, NULL, again, &e), &e);
  assert_memory_equal(with, rows, n * sizeof *rows);
  assert_memory_equal(hidden, again, n * dim * sizeof *hidden);
  for (size_t i = 0; i < n; i++) {
    const double want = gate_rig_score(h, hidden + i * dim, &rows[i]),
                 off = fabs((double)rows[i].gate - want);
    if (!(off <= worst)) worst = off;
  }
  free(with);
  free(hidden);
  free(again);
  return worst;
}
