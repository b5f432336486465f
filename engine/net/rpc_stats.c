/* SPDX-License-Identifier: Apache-2.0 */
/* Stats: the registry as protobuf. Two visits: one counts, one fills; what is made between them waits for the
 * next time. The core's thread. */
#include "net/rpc_stats.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "proto/frame.h"

void rpc_health_fill(rpc_health *out, const weir_service_health *h) {
  Weir__V1__HealthReply *r = &out->reply;
  weir__v1__health_reply__init(r);
  r->live = h->live;
  r->ready = h->ready;
  r->reason = (char *)h->reason;
  r->running = (uint32_t)h->running;
  r->waiting = (uint32_t)h->waiting;
  r->queue_limit = (uint32_t)h->limit;
  r->tier = out->at;
  r->n_tier = (size_t)h->n_tiers;
  for (int32_t t = 0; t < h->n_tiers; t++) {
    const weir_tier_health *from = &h->tier[t];
    Weir__V1__TierHealth *to = out->at[t] = &out->tier[t];
    weir__v1__tier_health__init(to);
    to->name = (char *)from->name;
    to->up = from->up;
    to->for_ms = (uint64_t)(from->for_ns / 1000000);
    to->reason = (char *)from->why;
    to->deaths = (uint64_t)from->deaths;
    to->comes_back = from->comes_back;
  }
}

typedef struct filler {
  size_t n_families, n_samples, n_labels, n_buckets; /* room */
  size_t at_family, at_sample, at_label, at_bucket;  /* used */
  const char *last;                                  /* family */
  Weir__V1__Family *family, **family_at;
  Weir__V1__Sample *sample, **sample_at;
  Weir__V1__Label *label, **label_at;
  Weir__V1__Bucket *bucket, **bucket_at;
} filler;

static bool is_new(const filler *f, const weir_metric_view *m) {
  return !f->last || strcmp(f->last, m->name) != 0;
}

static void count(void *ctx, const weir_metric_view *m) {
  filler *f = ctx;
  f->n_families += is_new(f, m);
  f->last = m->name;
  f->n_samples++;
  f->n_labels += (size_t)m->n_labels;
  f->n_buckets += m->type == WEIR_METRIC_HISTOGRAM ? (size_t)m->n_le : 0;
}

static void fill(void *ctx, const weir_metric_view *m) {
  filler *f = ctx;
  const bool new_family = is_new(f, m);
  const size_t n_buckets = m->type == WEIR_METRIC_HISTOGRAM ? (size_t)m->n_le : 0,
               n_labels = (size_t)m->n_labels;
  if ((new_family && f->at_family == f->n_families) || f->at_sample == f->n_samples ||
      n_labels > f->n_labels - f->at_label || n_buckets > f->n_buckets - f->at_bucket)
    return; /* made since it was counted */
  if (new_family) {
    Weir__V1__Family *y = &f->family[f->at_family];
    f->family_at[f->at_family++] = y;
    weir__v1__family__init(y);
    y->name = (char *)m->name;
    y->help = (char *)m->help;
    y->type = (uint32_t)m->type;
    y->sample = &f->sample_at[f->at_sample];
    f->last = m->name;
  }
  Weir__V1__Sample *z = &f->sample[f->at_sample];
  f->sample_at[f->at_sample++] = z;
  f->family[f->at_family - 1].n_sample++;
  weir__v1__sample__init(z);
  z->label = &f->label_at[f->at_label];
  z->n_label = n_labels;
  for (size_t i = 0; i < n_labels; i++) {
    Weir__V1__Label *l = &f->label[f->at_label];
    f->label_at[f->at_label++] = l;
    weir__v1__label__init(l);
    l->name = (char *)m->label[i].name;
    l->value = (char *)m->label[i].value;
  }
  z->bucket = &f->bucket_at[f->at_bucket];
  z->n_bucket = n_buckets;
  for (size_t i = 0; i < n_buckets; i++) {
    Weir__V1__Bucket *b = &f->bucket[f->at_bucket];
    f->bucket_at[f->at_bucket++] = b;
    weir__v1__bucket__init(b);
    b->le = m->le[i];
    b->count = m->count[i];
  }
  if (n_buckets > 0) {
    z->sum = m->sum;
    z->count = m->count[n_buckets - 1];
  } else {
    z->value = m->value;
  }
}

weir_status rpc_stats_put(weir_metrics *metrics, const weir_service_health *health, const char *model,
                          weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  filler f = {0};
  rpc_health h;
  Weir__V1__StatsReply reply = WEIR__V1__STATS_REPLY__INIT;
  weir_metrics_visit(metrics, count, &f);
  f.last = NULL;
  WEIR_TRY(WEIR_NEW(f.n_families, &f.family, e));
  WEIR_TRY(WEIR_NEW(f.n_families, &f.family_at, e));
  WEIR_TRY(WEIR_NEW(f.n_samples, &f.sample, e));
  WEIR_TRY(WEIR_NEW(f.n_samples, &f.sample_at, e));
  WEIR_TRY(WEIR_NEW(f.n_labels, &f.label, e));
  WEIR_TRY(WEIR_NEW(f.n_labels, &f.label_at, e));
  WEIR_TRY(WEIR_NEW(f.n_buckets, &f.bucket, e));
  WEIR_TRY(WEIR_NEW(f.n_buckets, &f.bucket_at, e));
  weir_metrics_visit(metrics, fill, &f);
  rpc_health_fill(&h, health);
  reply.health = &h.reply;
  reply.family = f.family_at;
  reply.n_family = f.at_family;
  reply.model = (char *)model;
  WEIR_TRY(weir_frame_put(WEIR_FRAME_STATS | WEIR_FRAME_REPLY, &reply.base, out, e));
out:
  free(f.family);
  free(f.family_at);
  free(f.sample);
  free(f.sample_at);
  free(f.label);
  free(f.label_at);
  free(f.bucket);
  free(f.bucket_at);
  return st;
}
