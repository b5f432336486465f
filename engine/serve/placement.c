/* SPDX-License-Identifier: Apache-2.0 */
/* Names of devices, opening them, cutting their memory. Owns the devices; any one thread. */
#include "serve/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
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

static weir_status open_one(const weir_placement_opts *o, weir_place at, weir_dev **out, weir_err *e) {
  if (at.cuda) {
    const weir_cuda_opts cuda = {
        .ordinal = at.ordinal, .library = o->cuda_library, .no_graphs = o->cuda_no_graphs};
    return weir_dev_open_cuda(&cuda, out, e);
  }
  weir_cpu_opts cpu = {.n_threads = o->n_threads};
  const weir_status st = parse_isa(o->isa, &cpu.isa, e);
  return st == WEIR_OK ? weir_dev_open_cpu(&cpu, out, e) : st;
}

weir_status weir_placement_open(const weir_placement_opts *o, weir_placement *out, weir_err *e) {
  *out = (weir_placement){.n_tiers = o->n_tiers};
  for (int32_t i = 0; i < o->n_tiers; i++) {
    out->place[i] = o->place[i];
    for (int32_t k = 0; k < i && !out->dev[i]; k++)
      if (weir_place_same(o->place[i], o->place[k])) out->dev[i] = out->dev[k];
    if (out->dev[i]) continue;
    const weir_status st = open_one(o, o->place[i], &out->dev[i], e);
    if (st == WEIR_OK) continue;
    const bool none[WEIR_MAX_TIERS] = {false};
    weir_placement_close(out, none);
    return st;
  }
  return WEIR_OK;
}

void weir_placement_close(weir_placement *p, const bool left[WEIR_MAX_TIERS]) {
  for (int32_t i = 0; i < p->n_tiers; i++) {
    weir_dev *dev = p->dev[i];
    bool stuck = false;
    for (int32_t k = i; dev && k < p->n_tiers; k++) {
      if (p->dev[k] != dev) continue;
      stuck = stuck || left[k];
      p->dev[k] = NULL;
    }
    if (dev && !stuck) weir_dev_destroy(dev);
  }
  *p = (weir_placement){0};
}

bool weir_placement_overlaps(const weir_placement *p) { return p->n_tiers == 2 && p->dev[0] != p->dev[1]; }

weir_dev *weir_placement_cpu(const weir_placement *p) {
  for (int32_t i = 0; i < p->n_tiers; i++)
    if (!p->place[i].cuda) return p->dev[i];
  return NULL;
}

void weir_placement_describe(const weir_placement *p, char *out, size_t bytes) {
  if (weir_placement_overlaps(p))
    snprintf(out, bytes, "small on %s; large on %s", p->dev[0]->desc, p->dev[1]->desc);
  else
    snprintf(out, bytes, "%s", p->n_tiers > 0 ? p->dev[0]->desc : "no device");
}

int64_t weir_placement_kv_tokens(size_t free_bytes, size_t total_bytes, double share, int64_t token_bytes) {
  const double held_back = (1.0 - share) * (double)total_bytes;
  const size_t keep = (held_back > 0 ? (size_t)held_back : 0) + SPARE_BYTES;
  if (token_bytes <= 0 || free_bytes <= keep) return 0;
  return (int64_t)((free_bytes - keep) / (size_t)token_bytes);
}
