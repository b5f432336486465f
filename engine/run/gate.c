/* SPDX-License-Identifier: Apache-2.0 */
/* The gate head of an instance: its weight on the device, scores from the device to the rows. The product is
 * a linear of one output over the hidden states that the LM head reads; what else goes into a score is added
 * on the host, when the row is there. The thread that owns the instance's device. */
#include "run/gate.h"

#include <stdlib.h>

#include "base/mem.h"

void weir_instance_drop_gate(weir_instance *m) {
  weir_instance_gate *g = &m->gate;
  if (g->dot.data || g->weight.rows > 0) weir_dev_forget(m->dev, m->owner); /* records name both */
  weir_weight_release(&g->weight);
  if (g->dot.data) weir_dev_release(m->dev, g->dot.data);
  free(g->host);
  *g = (weir_instance_gate){0};
}

weir_status weir_instance_set_gate(weir_instance *m, const weir_gate_head *h, weir_err *e) {
  weir_instance_gate *g = &m->gate;
  weir_status st = WEIR_OK;
  const char *wrong = h ? weir_gate_head_error(h) : NULL;
  if (wrong) return weir_fail(e, WEIR_EINVAL, "%s", wrong);
  if (h && h->dim != m->h.dim)
    return weir_fail(e, WEIR_EINVAL, "the gate head reads %d numbers, the model's hidden states have %d",
                     h->dim, m->h.dim);
  weir_instance_drop_gate(m);
  if (!h) return WEIR_OK;
  const weir_host_mat part = {.data = h->weight, .dtype = WEIR_F32, .rows = 1, .cols = h->dim};
  weir_dev_forget(m->dev, m->owner);
  WEIR_TRY(WEIR_NEW((size_t)m->max_tokens, &g->host, e));
  g->dot = (weir_mat){.rows = m->max_tokens, .cols = 1, .ld = 1};
  WEIR_TRY(weir_dev_alloc(m->dev, (size_t)m->max_tokens * sizeof(float), (void **)&g->dot.data, e));
  WEIR_TRY(weir_weight_prepare(m->dev, &part, 1, &g->weight, e));
  WEIR_TRY(weir_dev_sync(m->dev, e)); /* the weights are the caller's */
  g->head = *h;
  g->head.weight = NULL;
  return WEIR_OK;
out:
  weir_instance_drop_gate(m);
  return st;
}

bool weir_instance_has_gate(const weir_instance *m) { return m->gate.weight.rows > 0; }

weir_status weir_gate_dots(const weir_instance *m, weir_mat hidden, int32_t first, weir_err *e) {
  weir_mat dot = m->gate.dot;
  if (!weir_instance_has_gate(m)) return WEIR_OK;
  dot.data += first;
  dot.rows = hidden.rows;
  return weir_op_linear(m->dev, dot, hidden, &m->gate.weight, NULL, e);
}

weir_status weir_gate_fetch(const weir_instance *m, int32_t n, weir_err *e) {
  if (!weir_instance_has_gate(m) || n == 0) return WEIR_OK;
  return weir_dev_download(m->dev, m->gate.host, m->gate.dot.data, (size_t)n * sizeof(float), e);
}

void weir_gate_fill(const weir_instance *m, weir_row *rows, int32_t n) {
  const bool has = weir_instance_has_gate(m);
  for (int32_t i = 0; i < n; i++)
    rows[i].gate = has ? weir_gate_head_score(&m->gate.head, m->gate.host[i], &rows[i]) : 0;
}
