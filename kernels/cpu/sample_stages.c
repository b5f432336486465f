/* SPDX-License-Identifier: Apache-2.0 */
/* The stages of the sample op over the ids that are here. Holds nothing; runs on the caller's thread and the
 * device's team. Rows are cut into chunks for the passes over all logits; the best ids and the search of a
 * cut take whole rows, because only few of a batch ask for these. A chunk with edits is shaped on the stack
 * of the thread that reads it, anew for each stage: saving 16 KiB of copying would take memory for whole
 * rows. */
#include "kernels/cpu/sample_stages.h"

#include <string.h>

static const float *chunk_of(const weir_cpu_sample_job *j, int32_t row, int32_t chunk) {
  return j->logits.data + (size_t)row * (size_t)j->logits.ld + (size_t)chunk * WEIR_SAMPLE_CHUNK;
}
static int32_t first_of(const weir_cpu_sample_job *j, int32_t chunk) {
  return j->first + chunk * WEIR_SAMPLE_CHUNK;
}
static int32_t len_of(const weir_cpu_sample_job *j, int32_t chunk) {
  const int32_t left = j->end - first_of(j, chunk);
  return left < WEIR_SAMPLE_CHUNK ? left : WEIR_SAMPLE_CHUNK;
}

static void stat_chunks(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  weir_cpu_sample_job *j = (weir_cpu_sample_job *)ctx;
  (void)rank;
  for (int32_t i = begin; i < end; i++) {
    const int32_t r = i / j->n_chunks, c = i % j->n_chunks;
    j->ops->stat(chunk_of(j, r, c), first_of(j, c), len_of(j, c), &weir_cpu_sample_parts(j, r)[c]);
  }
}
void weir_cpu_sample_stats(weir_dev *dev, weir_cpu_sample_job *j) {
  weir_cpu_for(dev, j->logits.rows * j->n_chunks, WEIR_CPU_TEAM_CHUNKS, stat_chunks, j);
}

/* What a draw reads of a chunk: its logits, or buf[WEIR_SAMPLE_CHUNK] with the shaped ones. */
static const float *drawn_from(const weir_cpu_sample_job *j, int32_t row, int32_t chunk, float *buf) {
  const float *l = chunk_of(j, row, chunk);
  if (!j->row[row].shaped) return l;
  const int32_t first = first_of(j, chunk), n = len_of(j, chunk);
  int32_t n_edits;
  const weir_logit_edit *edit = weir_sample_edits(&j->ask[row], first, n, &n_edits);
  if (n_edits == 0 && !j->ask[row].only_edits) return l;
  weir_sample_shape(buf, l, first, n, edit, n_edits, j->ask[row].only_edits);
  return buf;
}

/* What races of a chunk: of a row that was refused by weights all but its draft, which has raced. */
static const float *raced_from(const weir_cpu_sample_job *j, int32_t row, int32_t chunk, float *buf) {
  const float *l = drawn_from(j, row, chunk, buf);
  const weir_ask *ask = &j->ask[row];
  if (!j->row[row].weighed) return l;
  const int32_t first = first_of(j, chunk), n = len_of(j, chunk);
  for (int32_t i = 0; i < ask->n_draft; i++) {
    const int32_t id = ask->draft[i].id;
    if (id < first || id >= first + n) continue;
    if (l != buf) memcpy(buf, l, sizeof *l * (size_t)n);
    l = buf;
    buf[id - first] = -INFINITY;
  }
  return l;
}

void weir_cpu_sample_best(const weir_cpu_sample_job *j, int32_t r, float *buf, weir_sample_top *best) {
  for (int32_t c = 0; c < j->n_chunks; c++) {
    const weir_sample_stat *part = &weir_cpu_sample_parts(j, r)[c];
    const float *l = drawn_from(j, r, c, buf);
    if (l == buf)
      j->ops->top(l, first_of(j, c), len_of(j, c), best);
    else
      weir_sample_top_add(best, part->top, part->max);
  }
}

/* Chunks whose best would not be among the row's are passed over. */
void weir_cpu_sample_top(const weir_cpu_sample_job *j, int32_t r, weir_sample_top *best) {
  for (int32_t c = 0; c < j->n_chunks; c++) {
    const float max = weir_cpu_sample_parts(j, r)[c].max;
    if (best->n == best->want && !(max > best->logit[best->n - 1])) continue;
    j->ops->top(chunk_of(j, r, c), first_of(j, c), len_of(j, c), best);
  }
}

void weir_cpu_sample_drawn(const weir_cpu_sample_job *j, int32_t r, float *buf, weir_sample_top *best) {
  for (int32_t c = 0; c < j->n_chunks; c++) {
    const float *l = drawn_from(j, r, c, buf);
    if (l != buf && best->n == best->want && !(weir_cpu_sample_parts(j, r)[c].max > best->logit[best->n - 1]))
      continue;
    j->ops->top(l, first_of(j, c), len_of(j, c), best);
  }
}

void weir_cpu_sample_hist(const weir_cpu_sample_job *j, int32_t r, const weir_sample_cut *cut, float *buf,
                          weir_sample_hist *h) {
  memset(h, 0, sizeof *h);
  for (int32_t c = 0; c < j->n_chunks; c++)
    j->ops->hist(drawn_from(j, r, c, buf), len_of(j, c), &j->row[r].law, cut, h);
}

int32_t weir_cpu_sample_end_of_ties(const weir_cpu_sample_job *j, int32_t r, uint32_t key, int32_t ties,
                                    float *buf) {
  for (int32_t c = 0; c < j->n_chunks; c++) {
    const float *l = drawn_from(j, r, c, buf);
    const int32_t n = len_of(j, c), here = j->ops->ties(l, n, key);
    if (here < ties) {
      ties -= here;
      continue;
    }
    for (int32_t v = 0; v < n; v++)
      if (weir_sample_key(l[v]) == key && --ties == 0) return first_of(j, c) + v + 1;
  }
  return j->end;
}

static void race_chunks(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  weir_cpu_sample_job *j = (weir_cpu_sample_job *)ctx;
  (void)rank;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t i = begin; i < end; i++) {
    const int32_t r = i / j->n_chunks, c = i % j->n_chunks;
    if (j->row[r].token < 0)
      j->ops->race(raced_from(j, r, c, buf), first_of(j, c), len_of(j, c), &j->row[r].law, &j->win[i]);
  }
}
void weir_cpu_sample_races(weir_dev *dev, weir_cpu_sample_job *j) {
  weir_cpu_for(dev, j->logits.rows * j->n_chunks, WEIR_CPU_TEAM_CHUNKS, race_chunks, j);
}

static bool weighs(const weir_cpu_sample_job *j, int32_t row) {
  return j->row[row].token < 0 && weir_sample_weighs(&j->ask[row]);
}
static void mass_chunks(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  weir_cpu_sample_job *j = (weir_cpu_sample_job *)ctx;
  (void)rank;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t i = begin; i < end; i++) {
    const int32_t r = i / j->n_chunks, c = i % j->n_chunks;
    if (weighs(j, r))
      j->mass[i] = j->ops->mass(drawn_from(j, r, c, buf), first_of(j, c), len_of(j, c), &j->row[r].law);
  }
}
void weir_cpu_sample_masses(weir_dev *dev, weir_cpu_sample_job *j) {
  weir_cpu_for(dev, j->logits.rows * j->n_chunks, WEIR_CPU_TEAM_CHUNKS, mass_chunks, j);
}

float weir_cpu_sample_weight(const weir_cpu_sample_job *j, int32_t r, int32_t id) {
  const weir_sample_law *law = &j->row[r].law;
  const float raw = weir_cpu_sample_logit(j, r, id);
  const float l = j->row[r].shaped ? weir_sample_shaped(&j->ask[r], id, raw) : raw;
  float w;
  j->ops->weigh(&l, 1, law, &w);
  return weir_sample_stays(law, id, l, w) ? w : 0;
}

void weir_cpu_sample_judge(const weir_cpu_sample_job *j, int32_t r, float probe_w, double sum) {
  const weir_ask *ask = &j->ask[r];
  weir_cpu_sample_row *row = &j->row[r];
  if (weir_sample_ratio_keeps(ask, probe_w, sum)) {
    row->token = ask->probe;
    row->logit = row->probe_logit;
    return;
  }
  row->weighed = true;
  row->law.top = -1;
  row->law.head = (weir_sample_win){INFINITY, INT32_MAX, 0};
  for (int32_t i = 0; i < ask->n_draft; i++) {
    const weir_top *d = &ask->draft[i];
    if (!weir_cpu_sample_has(j, d->id)) continue;
    const weir_sample_win w =
        weir_sample_rest(&row->law, d->id, weir_cpu_sample_weight(j, r, d->id), d->logprob, sum);
    row->law.head = weir_sample_first(row->law.head, w);
  }
}

weir_sample_win weir_cpu_sample_winner(const weir_cpu_sample_job *j, int32_t r) {
  weir_sample_win w = {INFINITY, INT32_MAX, 0};
  for (int32_t c = 0; c < j->n_chunks; c++)
    w = weir_sample_first(w, j->win[(size_t)r * (size_t)j->n_chunks + (size_t)c]);
  return w;
}
