/* SPDX-License-Identifier: Apache-2.0 */
/* Finds and opens models. The pair that comes with weir is looked for in a folder `models`: where --models
 * says, else in the folders above the program (a build tree, an installation), else in the current one. Main
 * thread. */
#include "programs/load.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "programs/dist.h"
#include "programs/setting_gate.h"
#include "programs/worker.h"

/* What --kv-tokens 0 comes to at most: in time all of it is touched, and not everybody's model is small. */
enum { MOST_KV_TOKENS = 65536 };

static const char shipped_small[] = "weir-demo-small-Q8_0.gguf",
                  shipped_large[] = "weir-demo-large-Q8_0.gguf";

static bool join(char *out, const char *dir, const char *file) {
  const int n = snprintf(out, WEIR_PATH_BYTES, "%s/%s", dir, file);
  return n > 0 && n < WEIR_PATH_BYTES && access(out, R_OK) == 0;
}

static bool pair_in(const char *dir, weir_model_paths *p) {
  return join(p->small, dir, shipped_small) && join(p->large, dir, shipped_large);
}

/* Walks up from the program's own folder. */
static bool pair_above_program(weir_model_paths *p) {
  char at[WEIR_PATH_BYTES], dir[WEIR_PATH_BYTES + 32];
  const ssize_t n = readlink("/proc/self/exe", at, sizeof at - 1);
  if (n <= 0) return false;
  at[n] = '\0';
  for (char *slash = strrchr(at, '/'); slash; slash = strrchr(at, '/')) {
    *slash = '\0';
    snprintf(dir, sizeof dir, "%s/models", at);
    if (pair_in(dir, p)) return true;
    snprintf(dir, sizeof dir, "%s/share/weir/models", at);
    if (pair_in(dir, p)) return true;
  }
  return false;
}

static weir_status copy_path(const char *name, const char *path, char *out, weir_err *e) {
  if (strlen(path) >= WEIR_PATH_BYTES) return weir_fail(e, WEIR_EINVAL, "%s: the path is too long", name);
  strcpy(out, path);
  return WEIR_OK;
}

weir_status weir_find_models(const weir_config *c, weir_model_paths *p, weir_err *e) {
  const char *small = weir_config_has(c, "small") ? weir_config_string(c, "small") : NULL;
  const char *large = weir_config_has(c, "large") ? weir_config_string(c, "large") : NULL;
  *p = (weir_model_paths){{0}, {0}};
  if (small || large) {
    const weir_status st = small ? copy_path("--small", small, p->small, e) : WEIR_OK;
    if (st != WEIR_OK) return st;
    return large ? copy_path("--large", large, p->large, e) : WEIR_OK;
  }
  const char *dir = weir_config_string(c, "models");
  if (dir) {
    if (pair_in(dir, p)) return WEIR_OK;
    return weir_fail(e, WEIR_EIO, "%s: no %s and %s there (models: %s)", dir, shipped_small, shipped_large,
                     weir_config_source(c, "models"));
  }
  if (pair_above_program(p) || pair_in("models", p)) return WEIR_OK;
  return weir_fail(
      e, WEIR_EIO,
      "the pair that comes with weir was not found: give --small and --large, or its folder with --models");
}

/* ---- progress: one line on a terminal, rewritten in place ---- */

typedef struct progress {
  bool on, shown;
  int percent;
  const char *model;
} progress;

static void show_progress(void *ctx, const char *model, int64_t done, int64_t total) {
  progress *p = ctx;
  const int percent = total > 0 ? (int)(100.0 * (double)done / (double)total) : 100;
  if (!p->on || (p->shown && percent == p->percent && model == p->model)) return;
  p->percent = percent;
  p->model = model;
  p->shown = true;
  fprintf(stderr, "\r\033[Kloading %s %3d %%", model, percent);
  fflush(stderr);
}

/* A line of its own, below what has been loaded. */
static void show_waiting(void *ctx, const char *line) {
  progress *p = ctx;
  if (p->shown) fprintf(stderr, "\r\033[K");
  p->shown = false;
  weir_log(WEIR_LOG_INFO, "%s", line);
}

weir_dtype weir_kv_type(const weir_config *c) {
  const char *name = weir_config_string(c, "kv");
  return strcmp(name, "f32") == 0 ? WEIR_F32 : strcmp(name, "q8_0") == 0 ? WEIR_Q8_0 : WEIR_F16;
}

static const char *device_of(const weir_config *c, const char *name) {
  const char *own = weir_config_string(c, name);
  return own ? own : weir_config_string(c, "device");
}

weir_status weir_load(const weir_config *c, const weir_model_paths *p, int32_t max_seqs, const weir_out *o,
                      weir_loaded *out, weir_err *e) {
  progress show = {.on = o->terminal_err && !(weir_config_has(c, "quiet") && weir_config_bool(c, "quiet"))};
  const bool serves = weir_config_has(c, "kv-tokens"); /* its own size of KV and of steps */
  weir_dist dist;
  weir_pair_gate gate;
  bool gated;
  *out = (weir_loaded){.large = -1};
  weir_status st = weir_setting_gate_pair(c, &gate, &gated, e);
  if (st == WEIR_OK) st = weir_dist_read(c, &dist, e);
  if (st != WEIR_OK) return st;
  const weir_launch *l = &dist.launch;
  if (l->told[0]) weir_log(WEIR_LOG_INFO, "%s", l->told);
  if (l->n_nodes > 1 && !p->large[0])
    st = weir_fail(e, WEIR_EINVAL, "--nnodes %d: the large model, which is cut over them, is not used here",
                   l->n_nodes);
  else if (l->n_nodes > 1)
    st = weir_dist_find(&dist, NULL, NULL, e);
  if (st != WEIR_OK) {
    weir_dist_fini(&dist);
    return st;
  }
  const weir_pair_opts opts = {
      .small_path = p->small[0] ? p->small : NULL,
      .large_path = p->large[0] ? p->large : NULL,
      .small_device = device_of(c, "small-device"),
      .large_device = device_of(c, "large-device"),
      .small_tp = (int32_t)weir_config_int(c, "small-tp"),
      .large_tp = (int32_t)weir_config_int(c, "large-tp"),
      .comm = weir_config_string(c, "comm"),
      .nodes = {.n = l->n_nodes,
                .addr = dist.listen,
                .token = dist.token[0] ? dist.token : NULL,
                .host = dist.host[0] ? dist.host : NULL,
                .version = weir_program_version(),
                .timeout_ns = weir_config_int(c, "dist-timeout") * 1000000000,
                .local = l->local,
                .n_local = l->n_local,
                .cores_local = dist.cores_local,
                .cores_n_local = dist.cores_n_local},
      .rank_bound_ns = weir_config_int(c, "rank-timeout") * 1000000000,
      .nccl_library = weir_config_string(c, "nccl-library"),
      .cuda_library = weir_config_string(c, "cuda-library"),
      .cuda_no_graphs = !weir_config_bool(c, "cuda-graphs"),
      .gpu_share = weir_config_float(c, "gpu-memory"),
      .n_threads = (int32_t)weir_config_int(c, "threads"),
      .isa = weir_config_string(c, "isa"),
      .n_ctx = (int32_t)weir_config_int(c, "ctx"),
      .max_seqs = max_seqs,
      .max_tokens = serves ? (int32_t)weir_config_int(c, "step-tokens") : 0,
      .kv_tokens = serves ? weir_config_int(c, "kv-tokens") : 0,
      .kv_tokens_max = serves ? MOST_KV_TOKENS : 0,
      .kv_dtype = weir_kv_type(c),
      .gate = gated ? &gate : NULL,
      .progress = show_progress,
      .waiting = show_waiting,
      .progress_ctx = &show,
  };
  st = weir_pair_open(&opts, &out->pair, e);
  weir_dist_fini(&dist);
  if (show.shown) fprintf(stderr, "\r\033[K");
  if (st != WEIR_OK) return st;
  out->n_tiers = weir_pair_n_tiers(out->pair);
  out->large = opts.large_path ? out->n_tiers - 1 : -1;
  for (int32_t t = 0; t < out->n_tiers; t++) out->tier_name[t] = t == out->large ? "large" : "small";
  return WEIR_OK;
}

void weir_loaded_close(weir_loaded *l) {
  weir_pair_close(l->pair);
  *l = (weir_loaded){.large = -1};
}
