/* SPDX-License-Identifier: Apache-2.0 */
/* `weir worker`, which any command with the options of several processes becomes when its rank is not 0: one
 * command line does for all of them. It ends when it is asked to, at once: what it computes is of use to
 * nobody but the leader, who notices. Main thread. */
#include "programs/worker.h"

#include <unistd.h>

#include "base/log.h"
#include "programs/dist.h"
#include "programs/interrupt.h"
#include "programs/load.h"
#include "programs/out.h"
#include "programs/version.h"
#include "serve/worker.h"

#define SECOND INT64_C(1000000000)

const char *weir_program_version(void) { return WEIR_VERSION "-" WEIR_REVISION; }

static bool stop(void *ctx) {
  (void)ctx;
  return weir_interrupt_pending() != 0;
}

static void tell(void *ctx, const char *line) {
  (void)ctx;
  weir_log(WEIR_LOG_INFO, "%s", line);
}

static void set_log(const weir_config *c) {
  weir_log_level level = WEIR_LOG_INFO;
  weir_log_format format = WEIR_LOG_TEXT;
  if (!weir_config_has(c, "log-level")) return;
  (void)weir_log_level_parse(weir_config_string(c, "log-level"), &level);
  (void)weir_log_format_parse(weir_config_string(c, "log-format"), &format);
  weir_log_set_level(level);
  weir_log_set_format(format);
  if (format == WEIR_LOG_JSON) weir_log_set_component("worker");
}

static weir_status read_options(const weir_config *c, weir_dist *d, weir_model_paths *paths, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_dist_read(c, d, e));
  if (d->launch.node == 0)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL,
                       "a worker has --node-rank 1 to --nnodes less 1; 0 is that of `weir serve`"));
  WEIR_TRY(weir_find_models(c, paths, e));
  if (!paths->large[0]) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "a worker needs the large model: --large"));
out:
  return st;
}

/* once: the leader is a command that ends when it has done its work. */
static weir_status work(const weir_config *c, weir_dist *d, const weir_model_paths *paths, bool once,
                        weir_err *e) {
  weir_status st = WEIR_OK;
  const char *device = weir_config_string(c, "large-device");
  const weir_launch *l = &d->launch;
  WEIR_TRY(weir_dist_find(d, stop, NULL, e));
  const weir_worker_opts o = {.path = paths->large,
                              .device = device ? device : weir_config_string(c, "device"),
                              .tp = (int32_t)weir_config_int(c, "large-tp"),
                              .node = l->node,
                              .n_nodes = l->n_nodes,
                              .addr = l->addr,
                              .token = d->token[0] ? d->token : NULL,
                              .host = d->host[0] ? d->host : NULL,
                              .version = weir_program_version(),
                              .local = l->local,
                              .n_local = l->n_local,
                              .cores_local = d->cores_local,
                              .cores_n_local = d->cores_n_local,
                              .bound_ns = weir_config_int(c, "rank-timeout") * SECOND,
                              .n_threads = (int32_t)weir_config_int(c, "threads"),
                              .isa = weir_config_string(c, "isa"),
                              .nccl_library = weir_config_string(c, "nccl-library"),
                              .cuda_library = weir_config_string(c, "cuda-library"),
                              .cuda_no_graphs = !weir_config_bool(c, "cuda-graphs"),
                              .gpu_share = weir_config_float(c, "gpu-memory"),
                              .once = once,
                              .stop = stop,
                              .tell = tell};
  weir_log(WEIR_LOG_INFO, "worker: process %d of %d, pid %d, for the leader at %s", l->node, l->n_nodes,
           (int)getpid(), l->addr);
  st = weir_worker_run(&o, e);
out:
  return st;
}

int weir_main_worker(const weir_config *c) {
  weir_dist d = {.cores_n_local = 1};
  weir_model_paths paths;
  weir_err e = {0};
  int32_t n = 0;
  set_log(c);
  weir_config_operands(c, &n);
  if (n > 0 && !weir_config_has(c, "dist-timeout")) { /* of `weir worker` itself */
    weir_fail(&e, WEIR_EINVAL, "weir worker has no operands; the model is --large");
    return weir_tell_usage("worker", &e);
  }
  weir_status st = read_options(c, &d, &paths, &e);
  if (st != WEIR_OK) {
    weir_dist_fini(&d);
    return st == WEIR_EINVAL ? weir_tell_usage("worker", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  }
  weir_interrupt_init();
  if (d.launch.told[0]) weir_log(WEIR_LOG_INFO, "%s", d.launch.told);
  /* `weir worker` and `weir serve` stay: a leader that serves comes back */
  const bool once = weir_config_has(c, "dist-timeout") && !weir_config_has(c, "listen");
  st = work(c, &d, &paths, once, &e);
  weir_dist_fini(&d);
  if (st != WEIR_OK && st != WEIR_ECANCEL) return weir_tell(&e, WEIR_EXIT_FAILED);
  weir_log(WEIR_LOG_INFO, "worker: %s; bye", weir_interrupt_pending() ? "asked to end" : "the work is done");
  return WEIR_EXIT_OK;
}

int weir_run_or_work(const weir_command *cmd, const weir_config *c) {
  weir_launch l;
  weir_err e = {0};
  const bool only_asks = weir_config_has(c, "print-config") && weir_config_bool(c, "print-config");
  if (cmd->bit == WEIR_CMD_WORKER || only_asks) return cmd->main(c);
  if (weir_launch_read(c, NULL, &l, &e) != WEIR_OK) return weir_tell_usage(cmd->name, &e);
  return l.node > 0 ? weir_main_worker(c) : cmd->main(c);
}
