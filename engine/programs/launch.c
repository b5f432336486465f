/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of processes from options and from launchers' variables; one table says which launcher has which.
 * Sources: srun(1) "OUTPUT ENVIRONMENT VARIABLES"; Open MPI's mpirun(1); MPICH's Hydra and Intel MPI (PMI);
 * torchrun, "Environment Variables" of torch.distributed.run; LeaderWorkerSet, "Environment Variables". Main
 * thread. */
#include "programs/launch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/crew.h"

typedef const char *(*getter)(const char *name);

/* ---- the table ---- */

typedef struct launcher {
  const char *name;
  const char *started_by; /* how it is named in messages */
  const char *marks[2];   /* it is there when both are: what only its processes have */
  const char *rank[2];    /* the first of them that is set counts */
  const char *size[2];    /* ... */
  const char *same[2];    /* another's rank and size: where they are there and differ, that one is meant */
  const char *local;      /* rank among those of this machine; NULL: not told */
  const char *local_size; /* a number, or Slurm's list of nodes' tasks */
  const char *node;       /* which place of that list is this machine's; NULL: local_size is a number */
  const char *host[2];    /* a name, or Slurm's list of hosts */
  const char *port;       /* NULL: not told */
  const char *port_used;  /* when this is True the launcher itself listens on `port`: one above it */
  const char *port_from;  /* a number to make a port of, the same for all processes */
} launcher;

/* The inner before the outer: who starts torchrun by srun means torchrun. A script of sbatch has SLURM_PROCID
 * without being started by srun: only steps have a number. Under Slurm the daemons of mpirun are a step of
 * their own, which may leave out the first node: their processes look at the job's list. */
static const launcher launchers[] = {
    {.name = "torchrun",
     .started_by = "torchrun",
     .marks = {"RANK", "WORLD_SIZE"},
     .rank = {"RANK"},
     .size = {"WORLD_SIZE"},
     .local = "LOCAL_RANK",
     .local_size = "LOCAL_WORLD_SIZE",
     .host = {"MASTER_ADDR"},
     .port = "MASTER_PORT",
     .port_used = "TORCHELASTIC_USE_AGENT_STORE"},
    {.name = "openmpi",
     .started_by = "Open MPI's mpirun",
     .marks = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
     .rank = {"OMPI_COMM_WORLD_RANK"},
     .size = {"OMPI_COMM_WORLD_SIZE"},
     .local = "OMPI_COMM_WORLD_LOCAL_RANK",
     .local_size = "OMPI_COMM_WORLD_LOCAL_SIZE",
     .host = {"SLURM_JOB_NODELIST"},
     .port_from = "SLURM_JOB_ID"},
    {.name = "slurm",
     .started_by = "srun",
     .marks = {"SLURM_STEP_ID", "SLURM_PROCID"},
     .rank = {"SLURM_PROCID"},
     .size = {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"},
     .same = {"PMI_RANK", "PMI_SIZE"},
     .local = "SLURM_LOCALID",
     .local_size = "SLURM_STEP_TASKS_PER_NODE",
     .node = "SLURM_NODEID",
     .host = {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"},
     .port_from = "SLURM_JOB_ID"},
    {.name = "pmi",
     .started_by = "a launcher with PMI (MPICH, Intel MPI)",
     .marks = {"PMI_RANK", "PMI_SIZE"},
     .rank = {"PMI_RANK"},
     .size = {"PMI_SIZE"},
     .local = "MPI_LOCALRANKID",
     .local_size = "MPI_LOCALNRANKS",
     .host = {"SLURM_JOB_NODELIST"},
     .port_from = "SLURM_JOB_ID"},
    {.name = "lws",
     .started_by = "LeaderWorkerSet",
     .marks = {"LWS_WORKER_INDEX", "LWS_GROUP_SIZE"},
     .rank = {"LWS_WORKER_INDEX"},
     .size = {"LWS_GROUP_SIZE"},
     .host = {"LWS_LEADER_ADDRESS"}},
};
enum { N_LAUNCHERS = sizeof launchers / sizeof *launchers, PORT_FROM = 20000, PORTS = 10000 };

/* ---- variables ---- */

static const char *from_environment(const char *name) { return getenv(name); }

/* Set to nothing is not set. */
static const char *value(getter get, const char *name) {
  const char *v = name ? get(name) : NULL;
  return v && v[0] ? v : NULL;
}

static const char *first_set(getter get, const char *const name[2], const char **which) {
  for (int i = 0; i < 2; i++) {
    const char *v = value(get, name[i]);
    *which = name[i];
    if (v) return v;
  }
  *which = name[0];
  return NULL;
}

static weir_status number(const char *name, const char *text, long long most, long long *out, weir_err *e) {
  char *end;
  *out = strtoll(text, &end, 10);
  if (end == text || *end || text[0] < '0' || text[0] > '9' || *out > most)
    return weir_fail(e, WEIR_EINVAL, "%s in the environment is \"%.40s\", no number from 0 to %lld", name,
                     text, most);
  return WEIR_OK;
}

bool weir_launch_first_host(const char *list, char *out, int32_t bytes) {
  int32_t n = 0;
  const char *p = list;
  while (*p && *p != ',') {
    const bool opens = *p == '[';
    if (opens) p++;
    const size_t len = strcspn(p, opens ? "-,]" : "[,");
    if (len == 0 || n + (int32_t)len >= bytes) return false;
    memcpy(out + n, p, len);
    n += (int32_t)len;
    p += len;
    if (!opens) continue;
    p = strchr(p, ']');
    if (!p) return false;
    p++;
  }
  out[n] = '\0';
  return n > 0;
}

int32_t weir_launch_tasks_of_node(const char *list, int32_t node) {
  int64_t at = 0;
  for (const char *p = list; *p;) {
    char *end;
    const long tasks = strtol(p, &end, 10);
    long times = 1;
    if (end == p || tasks < 1 || tasks > INT32_MAX) return 0;
    if (!strncmp(end, "(x", 2)) {
      p = end + 2;
      times = strtol(p, &end, 10);
      if (end == p || times < 1 || times > INT32_MAX || *end != ')') return 0;
      end++;
    }
    at += times;
    if (node < at) return (int32_t)tasks;
    if (*end != ',') return 0;
    p = end + 1;
  }
  return 0;
}

/* ---- one launcher ---- */

static void tell(weir_launch *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(weir_launch *l, const char *fmt, ...) {
  const size_t at = strlen(l->told);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(l->told + at, sizeof l->told - at, fmt, ap);
  va_end(ap);
}

static weir_status read_numbers(const launcher *w, getter get, weir_launch *l, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *rank_name, *size_name;
  const char *rank = first_set(get, w->rank, &rank_name), *size = first_set(get, w->size, &size_name);
  long long r, n;
  if (!rank || !size)
    return weir_fail(e, WEIR_EINVAL,
                     "--launcher %s: %s is not in the environment: was this not started by %s?", w->name,
                     rank ? size_name : rank_name, w->started_by);
  WEIR_TRY(number(rank_name, rank, INT32_MAX, &r, e));
  WEIR_TRY(number(size_name, size, INT32_MAX, &n, e));
  if (n < 1 || n > WEIR_CREW_MAX_NODES)
    return weir_fail(e, WEIR_EINVAL, "%s is %lld: there can be 1 to %d processes", size_name, n,
                     WEIR_CREW_MAX_NODES);
  if (r >= n) return weir_fail(e, WEIR_EINVAL, "%s is %lld and %s %lld", rank_name, r, size_name, n);
  l->node = (int32_t)r;
  l->n_nodes = (int32_t)n;
  tell(l, "%s: process %d of %d (%s, %s)", w->name, l->node, l->n_nodes, rank_name, size_name);
out:
  return st;
}

/* Who has told neither is alone on its machine. */
static weir_status read_local(const launcher *w, getter get, weir_launch *l, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *local = value(get, w->local), *size = value(get, w->local_size);
  long long r = 0, n = 1, node = 0;
  if (!local) return WEIR_OK;
  WEIR_TRY(number(w->local, local, INT32_MAX, &r, e));
  if (size && w->node) {
    const char *text = value(get, w->node);
    if (text) WEIR_TRY(number(w->node, text, INT32_MAX, &node, e));
    n = weir_launch_tasks_of_node(size, (int32_t)node);
    if (n < 1)
      return weir_fail(e, WEIR_EINVAL, "%s is \"%.60s\": that says nothing of node %lld", w->local_size, size,
                       node);
  } else if (size) {
    WEIR_TRY(number(w->local_size, size, WEIR_CREW_MAX_NODES, &n, e));
  } else {
    n = r + 1; /* at least */
  }
  if (r >= n) return weir_fail(e, WEIR_EINVAL, "%s is %lld and %s says %lld", w->local, r, w->local_size, n);
  l->local = (int32_t)r;
  l->n_local = (int32_t)n;
  if (n > 1) tell(l, ", %d of %d on this machine (%s)", l->local, l->n_local, w->local);
out:
  return st;
}

static weir_status read_address(const launcher *w, getter get, weir_launch *l, weir_err *e) {
  weir_status st = WEIR_OK;
  char host[256];
  const char *host_name, *port_name = NULL;
  const char *list = first_set(get, w->host, &host_name);
  long long port = WEIR_LAUNCH_PORT;
  if (!list) return WEIR_OK;
  if (!weir_launch_first_host(list, host, sizeof host))
    return weir_fail(e, WEIR_EINVAL, "%s is \"%.60s\": no host can be told from that", host_name, list);
  const char *text = value(get, w->port);
  if (text) {
    port_name = w->port;
    WEIR_TRY(number(w->port, text, 65534, &port, e));
    const char *used = value(get, w->port_used);
    if (used && !strcmp(used, "True")) port++;
  } else if ((text = value(get, w->port_from))) {
    port_name = w->port_from;
    WEIR_TRY(number(w->port_from, text, INT64_MAX, &port, e));
    port = PORT_FROM + port % PORTS;
  }
  snprintf(l->addr, sizeof l->addr, strchr(host, ':') ? "[%s]:%lld" : "%s:%lld", host, port);
  tell(l, ", leader %s (%s%s%s)", l->addr, host_name, port_name ? ", " : "", port_name ? port_name : "");
out:
  return st;
}

static bool is_there(const launcher *w, getter get) {
  for (int i = 0; i < 2; i++) {
    const char *which, *other = value(get, w->same[i]);
    const char *mine = first_set(get, i == 0 ? w->rank : w->size, &which);
    if (!value(get, w->marks[i]) || (other && mine && strcmp(mine, other) != 0)) return false;
  }
  return true;
}

static weir_status read_launcher(const char *name, getter get, weir_launch *l, weir_err *e) {
  weir_status st = WEIR_OK;
  const launcher *w = NULL;
  const bool any = !strcmp(name, "auto");
  for (int i = 0; i < N_LAUNCHERS && !w; i++)
    if (any ? is_there(&launchers[i], get) : !strcmp(name, launchers[i].name)) w = &launchers[i];
  if (!w) {
    tell(l, "--launcher auto: no launcher's variables are there");
    return WEIR_OK;
  }
  WEIR_TRY(read_numbers(w, get, l, e));
  WEIR_TRY(read_local(w, get, l, e));
  WEIR_TRY(read_address(w, get, l, e));
out:
  return st;
}

/* ---- with the options ---- */

/* The host part may be anything that a resolver knows; a port is added where there is none. */
static weir_status take_address(const char *text, weir_launch *l, weir_err *e) {
  const char *colon = strrchr(text, ':'), *bracket = strrchr(text, ']');
  const bool local = !strncmp(text, "ipc://", 6);
  const bool has_port = colon && (!bracket || colon > bracket) && (bracket || strchr(text, ':') == colon);
  const size_t len = strlen(text);
  if (len == 0 || len + 8 > sizeof l->addr || colon == text)
    return weir_fail(e, WEIR_EINVAL, "--dist-init-addr \"%.60s\": want HOST:PORT", text);
  if (local) {
    strcpy(l->addr, text);
    return WEIR_OK;
  }
  if (has_port) {
    char *end;
    const long port = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port < 1 || port > 65535)
      return weir_fail(e, WEIR_EINVAL, "--dist-init-addr \"%.60s\": want a port from 1 to 65535", text);
    strcpy(l->addr, text);
  } else if (colon && !bracket) { /* a bare address of IPv6 */
    snprintf(l->addr, sizeof l->addr, "[%s]:%d", text, WEIR_LAUNCH_PORT);
  } else {
    snprintf(l->addr, sizeof l->addr, "%s:%d", text, WEIR_LAUNCH_PORT);
  }
  return WEIR_OK;
}

static const char *source(const weir_config *c, const char *option, const weir_launch *l) {
  return weir_config_is_set(c, option) || !l->told[0] ? weir_config_source(c, option) : "the launcher";
}

static weir_status check(const weir_config *c, const weir_launch *l, weir_err *e) {
  if (l->node >= l->n_nodes)
    return weir_fail(e, WEIR_EINVAL, "--node-rank %d (%s) and --nnodes %d (%s): ranks count from 0", l->node,
                     source(c, "node-rank", l), l->n_nodes, source(c, "nnodes", l));
  if (l->n_nodes > 1 && !l->addr[0])
    return weir_fail(e, WEIR_EINVAL,
                     "--nnodes %d needs --dist-init-addr HOST:PORT, where node 0 is reached%s", l->n_nodes,
                     l->told[0] ? "; the launcher does not say it" : "");
  return WEIR_OK;
}

weir_status weir_launch_read(const weir_config *c, const char *(*get)(const char *name), weir_launch *out,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  weir_launch l = {.n_nodes = 1, .n_local = 1};
  if (weir_config_has(c, "nnodes")) {
    const char *named = weir_config_string(c, "launcher"), *addr = weir_config_string(c, "dist-init-addr");
    if (strcmp(named, "none") != 0) WEIR_TRY(read_launcher(named, get ? get : from_environment, &l, e));
    if (weir_config_is_set(c, "nnodes")) l.n_nodes = (int32_t)weir_config_int(c, "nnodes");
    if (weir_config_is_set(c, "node-rank")) l.node = (int32_t)weir_config_int(c, "node-rank");
    if (addr) WEIR_TRY(take_address(addr, &l, e));
    WEIR_TRY(check(c, &l, e));
    if (l.n_nodes == 1 && addr)
      weir_log(WEIR_LOG_WARN, "--dist-init-addr (%s) is not used: without --nnodes there is one process",
               weir_config_source(c, "dist-init-addr"));
    if (l.n_nodes == 1) l.addr[0] = '\0';
  }
  *out = l;
out:
  return st;
}
