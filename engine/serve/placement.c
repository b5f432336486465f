/* SPDX-License-Identifier: Apache-2.0 */
/* Names of devices, opening them, cutting their memory. Owns the devices; any one thread. */
#include "serve/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cores.h"
#include "base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/open.h"

/* What stays free on a GPU besides: the driver's own pools grow while it works. */
static const size_t SPARE_BYTES = (size_t)256 << 20;

weir_status weir_place_parse(const char *name, weir_place *out, weir_err *e) {
  *out = (weir_place){0};
  if (!strcmp(name, "cpu")) return WEIR_OK;
  if (!strncmp(name, "cuda", 4) && (name[4] == '\0' || name[4] == ':')) {
    char *end = NULL;
    const long n = name[4] ? strtol(name + 5, &end, 10) : 0;
    const bool digits = !name[4] || (name[5] >= '0' && name[5] <= '9');
    if (digits && (!end || *end == '\0') && n <= 1023) {
      *out = (weir_place){.cuda = true, .ordinal = (int32_t)n};
      return WEIR_OK;
    }
  }
  return weir_fail(e, WEIR_EINVAL, "device \"%s\" is not one of cpu, cuda, cuda:N", name);
}

static weir_status parse_isa(const char *name, weir_isa *out, weir_err *e) {
  *out = WEIR_ISA_BEST;
  if (!name || strcmp(name, "auto") == 0) return WEIR_OK;
  for (weir_isa i = WEIR_ISA_SCALAR; i < WEIR_ISA_BEST; i++) {
    if (strcmp(name, weir_isa_name(i)) != 0) continue;
    *out = i;
    return WEIR_OK;
  }
  return weir_fail(e, WEIR_EINVAL, "isa \"%s\" is not one of auto, scalar, avx2, avx512-vnni, amx", name);
}

/* ---- ranks ---- */

weir_status weir_places_parse(const char *names, int32_t n, int32_t first, weir_places *out, weir_err *e) {
  *out = (weir_places){.n = 0};
  if (n < 1 || n > WEIR_MAX_RANKS)
    return weir_fail(e, WEIR_EINVAL, "%d ranks: there can be 1 to %d", n, WEIR_MAX_RANKS);
  const bool counts_on = !strcmp(names, "cuda"); /* without a number: so many as are wanted */
  if (counts_on || !strcmp(names, "cpu")) {
    for (int32_t i = 0; i < n; i++)
      out->at[i] = (weir_place){.cuda = counts_on, .ordinal = counts_on ? first + i : 0};
    out->n = n;
    return WEIR_OK;
  }
  for (const char *p = names;;) {
    char name[32];
    const size_t len = strcspn(p, ",");
    if (out->n == WEIR_MAX_RANKS)
      return weir_fail(e, WEIR_EINVAL, "more than %d devices are listed", WEIR_MAX_RANKS);
    snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name - 1), p);
    const weir_status st = weir_place_parse(name, &out->at[out->n], e);
    if (st != WEIR_OK) return st;
    if (out->at[out->n++].cuda != out->at[0].cuda)
      return weir_fail(e, WEIR_EINVAL, "\"%.60s\": the ranks of a model are all on GPUs or all on the CPU",
                       names);
    if (!p[len]) break;
    p += len + 1;
  }
  if (out->n == n) return WEIR_OK;
  return weir_fail(e, WEIR_EINVAL, "\"%.60s\" is %d device%s for %d rank%s", names, out->n,
                   out->n == 1 ? "" : "s", n, n == 1 ? "" : "s");
}

int32_t weir_places_first(int32_t local, int32_t n_local, int32_t n, int32_t n_gpus) {
  return n_gpus >= n_local * n ? local * n : 0;
}

/* How often the place that stands there most often does. */
static int32_t most_at_one(const weir_places *p) {
  int32_t most = 0;
  for (int32_t i = 0; i < p->n; i++) {
    int32_t same = 0;
    for (int32_t k = 0; k < p->n; k++) same += weir_place_same(p->at[i], p->at[k]);
    if (same > most) most = same;
  }
  return most;
}

weir_comm_kind weir_places_comm(const weir_places *p, int32_t n_nodes) {
  if (p->n * n_nodes == 1) return WEIR_COMM_SELF;
  if (!p->at[0].cuda) return n_nodes > 1 ? WEIR_COMM_TCP : WEIR_COMM_SHM;
  return n_nodes == 1 && most_at_one(p) == p->n ? WEIR_COMM_LOCAL : WEIR_COMM_NCCL;
}

weir_status weir_places_check_comm(const weir_places *p, int32_t n_nodes, weir_comm_kind kind, weir_err *e) {
  const bool cuda = p->at[0].cuda, for_cuda = kind == WEIR_COMM_NCCL || kind == WEIR_COMM_LOCAL;
  const char *name = weir_comm_kind_name(kind);
  if (p->n * n_nodes == 1) return WEIR_OK;
  if (kind == WEIR_COMM_SELF) return weir_fail(e, WEIR_EINVAL, "comm self is of one rank");
  if (cuda != for_cuda)
    return weir_fail(e, WEIR_EINVAL, "comm %s is for ranks on %s, these are on %s", name,
                     for_cuda ? "GPUs" : "the CPU", cuda ? "GPUs" : "the CPU");
  if (kind == WEIR_COMM_NCCL && most_at_one(p) > 1)
    return weir_fail(e, WEIR_EINVAL, "comm nccl wants a GPU for each rank: several on one talk by local");
  if (kind == WEIR_COMM_LOCAL && (n_nodes > 1 || most_at_one(p) < p->n))
    return weir_fail(e, WEIR_EINVAL, "comm local is for ranks that are all on one GPU");
  return WEIR_OK;
}

/* ---- devices ---- */

static weir_status open_one(const weir_placement_opts *o, weir_place at, const weir_core_share *share,
                            weir_dev **out, weir_err *e) {
  if (at.cuda) {
    const weir_cuda_opts cuda = {
        .ordinal = at.ordinal, .library = o->cuda_library, .no_graphs = o->cuda_no_graphs};
    return weir_dev_open_cuda(&cuda, out, e);
  }
  weir_cpu_opts cpu = {.n_threads = o->n_threads, .share = share};
  const weir_status st = parse_isa(o->isa, &cpu.isa, e);
  return st == WEIR_OK ? weir_dev_open_cpu(&cpu, out, e) : st;
}

/* The ranks of a tier divide the cores with each other, and with those of other processes of this machine;
 * not with another tier, which works at other times. */
static weir_status open_tier(const weir_placement_opts *o, weir_placement *p, int32_t t, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_places *at = &p->ranks[t];
  const int32_t n_processes = o->n_processes > 1 ? o->n_processes : 1;
  const int32_t first = n_processes > 1 ? o->process * at->n : 0, all = n_processes * at->n;
  weir_core_share *share = NULL;
  if (all > 1 && !at->at[0].cuda && o->ranks[t]) {
    weir_cores mine;
    weir_cores_mine(&mine);
    if (o->process < 0 || o->process >= n_processes)
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "process %d of %d on this machine", o->process, n_processes));
    WEIR_TRY(WEIR_NEW((size_t)all, &share, e));
    WEIR_TRY(weir_cores_divide(&mine, weir_cores_quota(mine.n > 0 ? mine.n : 1), NULL, all, o->n_threads,
                               share, e));
  }
  for (int32_t r = 0; r < at->n; r++) {
    st = open_one(o, at->at[r], share ? &share[first + r] : NULL, &p->rank[t][r], e);
    if (st != WEIR_OK && at->n > 1) weir_fail_ctx(e, st, "rank %d", r);
    if (st != WEIR_OK) goto out;
  }
out:
  free(share);
  return st;
}

weir_status weir_placement_open(const weir_placement_opts *o, weir_placement *out, weir_err *e) {
  *out = (weir_placement){.n_tiers = o->n_tiers};
  for (int32_t i = 0; i < o->n_tiers; i++)
    out->ranks[i] = o->ranks[i] ? *o->ranks[i] : (weir_places){.n = 1, .at = {o->place[i]}};
  for (int32_t i = 0; i < o->n_tiers; i++) {
    weir_status st = WEIR_OK;
    out->place[i] = out->ranks[i].at[0];
    for (int32_t k = 0; k < i && !out->dev[i]; k++)
      if (!o->ranks[i] && !o->ranks[k] && weir_place_same(out->place[i], out->place[k]))
        out->dev[i] = out->rank[i][0] = out->dev[k];
    if (!out->dev[i]) st = open_tier(o, out, i, e);
    out->dev[i] = out->rank[i][0];
    if (st == WEIR_OK) continue;
    const bool none[WEIR_MAX_TIERS] = {false};
    weir_placement_close(out, none);
    return st;
  }
  return WEIR_OK;
}

void weir_placement_close(weir_placement *p, const bool left[WEIR_MAX_TIERS]) {
  for (int32_t i = 0; i < p->n_tiers; i++) {
    bool stuck = false, later = false;
    for (int32_t k = 0; k < p->n_tiers; k++) {
      if (p->dev[k] != p->dev[i]) continue;
      stuck = stuck || left[k];
      later = later || k > i; /* the last of those that share it closes it */
    }
    for (int32_t r = 0; r < p->ranks[i].n && !later && !stuck; r++)
      if (p->rank[i][r]) weir_dev_destroy(p->rank[i][r]);
  }
  *p = (weir_placement){0};
}

bool weir_placement_overlaps(const weir_placement *p) {
  for (int32_t r = 0; p->n_tiers == 2 && r < p->ranks[0].n; r++)
    for (int32_t k = 0; k < p->ranks[1].n; k++)
      if (weir_place_same(p->ranks[0].at[r], p->ranks[1].at[k])) return false;
  return p->n_tiers == 2;
}

weir_dev *weir_placement_cpu(const weir_placement *p) {
  for (int32_t i = 0; i < p->n_tiers; i++)
    if (!p->place[i].cuda) return p->dev[i];
  return NULL;
}

void weir_placement_describe_tier(const weir_placement *p, int32_t tier, char *out, size_t bytes) {
  const int32_t n = p->ranks[tier].n;
  if (n > 1)
    snprintf(out, bytes, "%d ranks, each %s", n, p->dev[tier]->desc);
  else
    snprintf(out, bytes, "%s", p->dev[tier]->desc);
}

void weir_placement_describe(const weir_placement *p, char *out, size_t bytes) {
  char tier[WEIR_MAX_TIERS][160] = {{0}};
  for (int32_t i = 0; i < p->n_tiers; i++) weir_placement_describe_tier(p, i, tier[i], sizeof tier[i]);
  if (p->n_tiers == 2 && p->dev[0] != p->dev[1])
    snprintf(out, bytes, "small on %s; large on %s", tier[0], tier[1]);
  else
    snprintf(out, bytes, "%s", p->n_tiers > 0 ? tier[0] : "no device");
}

int64_t weir_placement_kv_tokens(size_t free_bytes, size_t total_bytes, double share, int64_t token_bytes) {
  const double held_back = (1.0 - share) * (double)total_bytes;
  const size_t keep = (held_back > 0 ? (size_t)held_back : 0) + SPARE_BYTES;
  if (token_bytes <= 0 || free_bytes <= keep) return 0;
  return (int64_t)((free_bytes - keep) / (size_t)token_bytes);
}
