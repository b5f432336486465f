/* SPDX-License-Identifier: Apache-2.0 */
/* Cores and NUMA nodes. Reads the system's files and owns nothing; any thread. */
#define _GNU_SOURCE /* affinity */
#include "base/cores.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { NODES_MAX = 64, LIST_BYTES = 8192 };

void weir_cores_mine(weir_cores *out) {
  cpu_set_t mask;
  out->n = 0;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;
  for (int32_t c = 0; c < CPU_SETSIZE && out->n < WEIR_CORES_MAX; c++)
    if (CPU_ISSET(c, &mask)) out->core[out->n++] = c;
}

/* cgroup v2, "cpu.max": "quota period" in microseconds, or "max period". */
int32_t weir_cores_quota(int32_t none) {
  char path[512] = "/", name[600], line[512];
  FILE *f = fopen("/proc/self/cgroup", "re");
  if (f) {
    while (fgets(line, sizeof line, f))
      if (sscanf(line, "0::%511s", path) == 1) break;
    fclose(f);
  }
  snprintf(name, sizeof name, "/sys/fs/cgroup%s/cpu.max", strcmp(path, "/") == 0 ? "" : path);
  f = fopen(name, "re");
  if (!f) return none;
  long long quota = 0, period = 0;
  const int n = fscanf(f, "%lld %lld", &quota, &period);
  fclose(f);
  if (n != 2 || quota <= 0 || period <= 0) return none;
  const long long cores = (quota + period - 1) / period;
  return cores < none ? (int32_t)cores : none;
}

/* ---- nodes ---- */

/* `mine` in the order of nodes; a run of it for each node that has any. */
typedef struct nodes {
  weir_cores by_node;
  int32_t n, first[NODES_MAX + 1];
} nodes;

/* Takes those of `left` that a list such as "0-3,8" names over to the end of by_node. False: not a list. */
static bool take_listed(const char *list, weir_cores *left, nodes *out) {
  for (const char *p = list; *p && *p != '\n';) {
    char *end;
    const long from = strtol(p, &end, 10);
    long to = from;
    if (end == p || from < 0) return false;
    if (*end == '-') {
      p = end + 1;
      to = strtol(p, &end, 10);
      if (end == p) return false;
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < left->n; i++) {
      if (left->core[i] >= from && left->core[i] <= to)
        out->by_node.core[out->by_node.n++] = left->core[i];
      else
        left->core[kept++] = left->core[i];
    }
    left->n = kept;
    p = end + (*end == ',');
    if (*end != ',' && *end != '\n' && *end != '\0') return false;
  }
  return true;
}

static bool read_list(const char *dir, int32_t node, char *list) {
  char path[4096];
  const int n = snprintf(path, sizeof path, "%s/node%d/cpulist", dir, node);
  FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
  if (!f) return false;
  const size_t got = fread(list, 1, LIST_BYTES - 1, f);
  fclose(f);
  list[got] = '\0';
  return got < LIST_BYTES - 1;
}

/* Numbers of the folders node0, node1 ...: they may have gaps. */
static int32_t list_nodes(const char *dir, int32_t *number) {
  int32_t n = 0;
  DIR *d = opendir(dir);
  if (!d) return 0;
  for (const struct dirent *f; (f = readdir(d)) && n < NODES_MAX;) {
    char *end;
    if (strncmp(f->d_name, "node", 4) != 0 || f->d_name[4] < '0' || f->d_name[4] > '9') continue;
    const long k = strtol(f->d_name + 4, &end, 10);
    if (*end || k > 1 << 20) continue;
    int32_t at = n++;
    for (; at > 0 && number[at - 1] > k; at--) number[at] = number[at - 1];
    number[at] = (int32_t)k;
  }
  closedir(d);
  return n;
}

/* What cannot be read counts as one node. */
static void read_nodes(const weir_cores *mine, const char *dir, nodes *out) {
  weir_cores left = *mine;
  int32_t number[NODES_MAX];
  char list[LIST_BYTES];
  const int32_t n = list_nodes(dir, number);
  *out = (nodes){.n = 0};
  bool good = n > 0;
  for (int32_t i = 0; i < n && good; i++) {
    const int32_t had = out->by_node.n;
    good = read_list(dir, number[i], list) && take_listed(list, &left, out);
    if (out->by_node.n > had) out->first[++out->n] = out->by_node.n; /* a node of memory alone has no cores */
  }
  if (good && left.n == 0) return;
  *out = (nodes){.by_node = *mine, .n = 1, .first = {0, mine->n}};
}

/* ---- division ---- */

/* Each part on the node or nodes that are its share of them; false: some part does not fit there. */
static bool divide_by_node(const nodes *at, int32_t n_parts, int32_t n_threads, weir_core_share *out) {
  int32_t used[NODES_MAX] = {0};
  for (int32_t p = 0; p < n_parts; p++) {
    const int32_t from = (int32_t)((int64_t)p * at->n / n_parts);
    const int32_t to = n_parts < at->n ? (int32_t)((int64_t)(p + 1) * at->n / n_parts) : from + 1;
    weir_cores *c = &out[p].cores;
    c->n = 0;
    for (int32_t k = from; k < to; k++)
      while (c->n < n_threads && at->first[k] + used[k] < at->first[k + 1])
        c->core[c->n++] = at->by_node.core[at->first[k] + used[k]++];
    if (c->n < n_threads) return false;
  }
  return true;
}

static void divide_in_runs(const nodes *at, int32_t n_parts, int32_t n_threads, weir_core_share *out) {
  for (int32_t p = 0; p < n_parts; p++) {
    out[p].cores.n = n_threads;
    memcpy(out[p].cores.core, at->by_node.core + (size_t)p * (size_t)n_threads,
           (size_t)n_threads * sizeof *out[p].cores.core);
  }
}

weir_status weir_cores_divide(const weir_cores *mine, int32_t may_use, const char *nodes_dir, int32_t n_parts,
                              int32_t n_threads, weir_core_share *out, weir_err *e) {
  weir_status st = WEIR_OK;
  nodes *at = NULL;
  if (n_parts < 1 || n_threads < 0 || n_threads > WEIR_CORES_MAX)
    return weir_fail(e, WEIR_EINVAL, "%d teams of %d threads: want at least one team, and at most %d threads",
                     n_parts, n_threads, WEIR_CORES_MAX);
  if (mine->n > 0 && may_use > mine->n) may_use = mine->n;
  int32_t each = n_threads > 0 ? n_threads : may_use / n_parts;
  if (each < 1) each = 1;
  const int64_t all = (int64_t)each * n_parts;
  for (int32_t p = 0; p < n_parts; p++) {
    out[p].n_threads = each;
    out[p].crowded = all > may_use;
    out[p].cores.n = 0;
  }
  if (mine->n < 1 || all > mine->n) return WEIR_OK;
  WEIR_TRY(WEIR_NEW(1, &at, e));
  read_nodes(mine, nodes_dir ? nodes_dir : "/sys/devices/system/node", at);
  if (!divide_by_node(at, n_parts, each, out)) divide_in_runs(at, n_parts, each, out);
out:
  free(at);
  return st;
}
