/* SPDX-License-Identifier: Apache-2.0 */
/* Which process this is: environments as launchers make them, whole, half and contradictory, with and without
 * options. The values are those that the launchers' manuals document. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "programs/launch.h"

#define ANY 0, 0, NULL
static const weir_option table[] = {
    {"nnodes", 0, WEIR_OPT_INT, 1, "Tensor parallelism", "N", "1", 1, 64, NULL, NULL, false, "N."},
    {"node-rank", 0, WEIR_OPT_INT, 1, "Tensor parallelism", "K", "0", 0, 63, NULL, NULL, false, "K."},
    {"dist-init-addr", 0, WEIR_OPT_STRING, 1, "Tensor parallelism", "A", NULL, ANY, NULL, false, "A."},
    {"launcher", 0, WEIR_OPT_ENUM, 1, "Tensor parallelism", NULL, "none", 0, 0,
     "none|auto|slurm|openmpi|pmi|torchrun|lws", NULL, false, "L."},
    {"other", 0, WEIR_OPT_INT, 2, "Other", "N", "1", 1, 64, NULL, NULL, false, "Of another command."},
};

static const char *const *environment;

static const char *get(const char *name) {
  const size_t n = strlen(name);
  for (const char *const *v = environment; *v; v++)
    if (!strncmp(*v, name, n) && (*v)[n] == '=') return *v + n + 1;
  return NULL;
}

enum { VARS = 12, ARGS = 8 };

/* Two nodes of two tasks each: the third task. */
#define SRUN                                                                                             \
  "SLURM_JOB_ID=41234", "SLURM_STEP_ID=0", "SLURM_PROCID=2", "SLURM_STEP_NUM_TASKS=4", "SLURM_NTASKS=4", \
      "SLURM_LOCALID=0", "SLURM_NODEID=1", "SLURM_STEP_TASKS_PER_NODE=2(x2)",                            \
      "SLURM_STEP_NODELIST=gpu[07-08]", "SLURM_JOB_NODELIST=gpu[07-08]"
#define TORCHRUN                                                                                      \
  "RANK=3", "WORLD_SIZE=4", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=2", "GROUP_RANK=1", "MASTER_ADDR=head", \
      "MASTER_PORT=29500"
#define OPENMPI                                                                       \
  "OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_RANK=1", \
      "OMPI_COMM_WORLD_LOCAL_SIZE=2"

static const struct {
  const char *what, *args[ARGS], *env[VARS];
  int32_t node, n_nodes, local, n_local; /* of a good one */
  const char *addr, *error;              /* or a part of what it says */
} cases[] = {
    {"nothing", {NULL}, {NULL}, 0, 1, 0, 1, "", NULL},
    {"nothing asked for: variables say nothing", {NULL}, {SRUN}, 0, 1, 0, 1, "", NULL},
    {"options alone",
     {"--nnodes", "3", "--node-rank", "2", "--dist-init-addr", "head:7000"},
     {SRUN},
     2,
     3,
     0,
     1,
     "head:7000",
     NULL},
    {"a port by itself",
     {"--nnodes", "2", "--dist-init-addr", "head"},
     {NULL},
     0,
     2,
     0,
     1,
     "head:5610",
     NULL},
    {"IPv6", {"--nnodes", "2", "--dist-init-addr", "[fd00::7]:99"}, {NULL}, 0, 2, 0, 1, "[fd00::7]:99", NULL},
    {"IPv6 without a port",
     {"--nnodes", "2", "--dist-init-addr", "fd00::7"},
     {NULL},
     0,
     2,
     0,
     1,
     "[fd00::7]:5610",
     NULL},
    {"a socket of this machine",
     {"--nnodes", "2", "--dist-init-addr", "ipc:///run/x"},
     {NULL},
     0,
     2,
     0,
     1,
     "ipc:///run/x",
     NULL},
    {"an address that nobody needs", {"--dist-init-addr", "head:7000"}, {NULL}, 0, 1, 0, 1, "", NULL},
    {"no address", {"--nnodes", "2"}, {NULL}, .error = "--nnodes 2 needs --dist-init-addr HOST:PORT"},
    {"a rank beyond", {"--nnodes", "2", "--node-rank", "2"}, {NULL}, .error = "--node-rank 2 (command line)"},
    {"a rank of nobody", {"--node-rank", "1"}, {NULL}, .error = "and --nnodes 1 (default)"},
    {"no host",
     {"--nnodes", "2", "--dist-init-addr", ":7"},
     {NULL},
     .error = "--dist-init-addr \":7\": want HOST:PORT"},
    {"no such port",
     {"--nnodes", "2", "--dist-init-addr", "head:65536"},
     {NULL},
     .error = "want a port from 1 to 65535"},
    {"a port that is none",
     {"--nnodes", "2", "--dist-init-addr", "head:x"},
     {NULL},
     .error = "want a port from 1 to 65535"},

    {"srun", {"--launcher", "slurm"}, {SRUN}, 2, 4, 0, 2, "gpu07:21234", NULL},
    {"srun, by itself", {"--launcher", "auto"}, {SRUN}, 2, 4, 0, 2, "gpu07:21234", NULL},
    {"an option goes before a variable",
     {"--launcher", "auto", "--dist-init-addr", "head:1", "--node-rank", "3"},
     {SRUN},
     3,
     4,
     0,
     2,
     "head:1",
     NULL},
    {"one task a node",
     {"--launcher", "slurm"},
     {"SLURM_JOB_ID=7", "SLURM_STEP_ID=0", "SLURM_PROCID=1", "SLURM_NTASKS=2", "SLURM_LOCALID=0",
      "SLURM_NODEID=1", "SLURM_STEP_TASKS_PER_NODE=1(x2)", "SLURM_JOB_NODELIST=a,b"},
     1,
     2,
     0,
     1,
     "a:20007",
     NULL},
    {"a shell within an allocation is no step",
     {"--launcher", "auto"},
     {"SLURM_NTASKS=4"},
     0,
     1,
     0,
     1,
     "",
     NULL},
    {"the script of sbatch is no step",
     {"--launcher", "auto"},
     {"SLURM_PROCID=0", "SLURM_NTASKS=4", "SLURM_JOB_ID=5"},
     0,
     1,
     0,
     1,
     "",
     NULL},
    {"half of it, asked for by name",
     {"--launcher", "slurm"},
     {"SLURM_NTASKS=4"},
     .error = "--launcher slurm: SLURM_PROCID is not in the environment: was this not started by srun?"},
    {"a step without a number of tasks",
     {"--launcher", "auto"},
     {"SLURM_PROCID=0", "SLURM_STEP_ID=0"},
     .error = "SLURM_STEP_NUM_TASKS is not in the environment"},
    {"a number that is none",
     {"--launcher", "slurm"},
     {"SLURM_PROCID=x", "SLURM_NTASKS=4"},
     .error = "SLURM_PROCID in the environment is \"x\""},
    {"a negative one",
     {"--launcher", "slurm"},
     {"SLURM_PROCID=-1", "SLURM_NTASKS=4"},
     .error = "SLURM_PROCID in the environment is \"-1\""},
    {"a contradiction",
     {"--launcher", "slurm"},
     {"SLURM_PROCID=4", "SLURM_NTASKS=4"},
     .error = "SLURM_PROCID is 4 and SLURM_NTASKS 4"},
    {"too many",
     {"--launcher", "slurm"},
     {"SLURM_PROCID=4", "SLURM_NTASKS=65"},
     .error = "SLURM_NTASKS is 65: there can be 1 to 64 processes"},
    {"a contradiction on this machine",
     {"--launcher", "slurm"},
     {"SLURM_PROCID=1", "SLURM_NTASKS=4", "SLURM_LOCALID=2", "SLURM_STEP_TASKS_PER_NODE=2(x2)"},
     .error = "SLURM_LOCALID is 2 and SLURM_STEP_TASKS_PER_NODE says 2"},
    {"a list without this node",
     {"--launcher", "slurm"},
     {"SLURM_PROCID=1", "SLURM_NTASKS=4", "SLURM_LOCALID=0", "SLURM_NODEID=2",
      "SLURM_STEP_TASKS_PER_NODE=2(x2)"},
     .error = "that says nothing of node 2"},
    {"an option and a variable that do not fit",
     {"--launcher", "slurm", "--nnodes", "2"},
     {SRUN},
     .error = "--node-rank 2 (the launcher) and --nnodes 2 (command line)"},
    {"srun with its own PMI", {"--launcher", "auto"}, {SRUN, "PMI_RANK=2"}, 2, 4, 0, 2, "gpu07:21234", NULL},
    {"MPICH's daemons are a step, their processes another's",
     {"--launcher", "auto"},
     {"SLURM_JOB_ID=12", "SLURM_STEP_ID=0", "SLURM_PROCID=1", "SLURM_NTASKS=2", "PMI_RANK=5", "PMI_SIZE=8",
      "MPI_LOCALRANKID=1", "MPI_LOCALNRANKS=4", "SLURM_STEP_NODELIST=b", "SLURM_JOB_NODELIST=a,b"},
     5,
     8,
     1,
     4,
     "a:20012",
     NULL},

    {"torchrun", {"--launcher", "torchrun"}, {TORCHRUN}, 3, 4, 1, 2, "head:29500", NULL},
    {"torchrun within srun",
     {"--launcher", "auto"},
     {TORCHRUN, "SLURM_PROCID=1", "SLURM_STEP_ID=0"},
     3,
     4,
     1,
     2,
     "head:29500",
     NULL},
    {"torchrun listens itself",
     {"--launcher", "auto"},
     {TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE=True"},
     3,
     4,
     1,
     2,
     "head:29501",
     NULL},
    {"torchrun's port",
     {"--launcher", "auto"},
     {"RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=h", "MASTER_PORT=70000"},
     .error = "MASTER_PORT in the environment is \"70000\""},
    {"Open MPI does not say where",
     {"--launcher", "openmpi"},
     {OPENMPI},
     .error =
         "--nnodes 2 needs --dist-init-addr HOST:PORT, where node 0 is reached; the launcher does not say"},
    {"Open MPI",
     {"--launcher", "auto", "--dist-init-addr", "127.0.0.1:7000"},
     {OPENMPI},
     1,
     2,
     1,
     2,
     "127.0.0.1:7000",
     NULL},
    {"Open MPI within Slurm",
     {"--launcher", "auto"},
     {OPENMPI, "SLURM_JOB_NODELIST=n[3,5]", "SLURM_JOB_ID=30001", "SLURM_STEP_ID=0", "SLURM_PROCID=0"},
     1,
     2,
     1,
     2,
     "n3:20001",
     NULL},
    {"Intel MPI",
     {"--launcher", "pmi", "--dist-init-addr", "h"},
     {"PMI_RANK=0", "PMI_SIZE=2", "MPI_LOCALRANKID=0"},
     0,
     2,
     0,
     1,
     "h:5610",
     NULL},
    {"LeaderWorkerSet",
     {"--launcher", "lws"},
     {"LWS_WORKER_INDEX=1", "LWS_GROUP_SIZE=2", "LWS_LEADER_ADDRESS=weir-0.weir.default"},
     1,
     2,
     0,
     1,
     "weir-0.weir.default:5610",
     NULL},
    {"variables set to nothing",
     {"--launcher", "auto"},
     {"RANK=", "WORLD_SIZE=", "PMI_RANK=", "PMI_SIZE="},
     0,
     1,
     0,
     1,
     "",
     NULL},
};

static void test_read(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_config *c = NULL;
    weir_launch l;
    weir_err e = {0};
    int argc = 0;
    while (argc < ARGS && cases[i].args[argc]) argc++;
    assert_int_equal(weir_config_create(table, 5, 1, &c, &e), WEIR_OK);
    if (weir_config_read_args(c, argc, (char *const *)cases[i].args, &e) != WEIR_OK)
      fail_msg("%s: %s", cases[i].what, e.msg);
    environment = cases[i].env;
    const weir_status st = weir_launch_read(c, get, &l, &e);
    if (cases[i].error) {
      if (st != WEIR_EINVAL) fail_msg("%s: taken", cases[i].what);
      if (!strstr(e.msg, cases[i].error))
        fail_msg("%s: \"%s\", want %s", cases[i].what, e.msg, cases[i].error);
    } else {
      if (st != WEIR_OK) fail_msg("%s: %s", cases[i].what, e.msg);
      if (l.node != cases[i].node || l.n_nodes != cases[i].n_nodes || l.local != cases[i].local ||
          l.n_local != cases[i].n_local || strcmp(l.addr, cases[i].addr) != 0)
        fail_msg("%s: node %d of %d, %d of %d here, at \"%s\"; want %d of %d, %d of %d, \"%s\"",
                 cases[i].what, l.node, l.n_nodes, l.local, l.n_local, l.addr, cases[i].node,
                 cases[i].n_nodes, cases[i].local, cases[i].n_local, cases[i].addr);
    }
    weir_config_destroy(c);
  }
}

/* What was taken is told, and from where. */
static void test_told(void **state) {
  (void)state;
  static const char *const srun[] = {SRUN, NULL};
  static const char *const args[] = {"--launcher", "auto"};
  weir_config *c = NULL;
  weir_launch l;
  weir_err e = {0};
  assert_int_equal(weir_config_create(table, 5, 1, &c, &e), WEIR_OK);
  assert_int_equal(weir_config_read_args(c, 2, (char *const *)args, &e), WEIR_OK);
  environment = srun;
  assert_int_equal(weir_launch_read(c, get, &l, &e), WEIR_OK);
  assert_string_equal(l.told,
                      "slurm: process 2 of 4 (SLURM_PROCID, SLURM_STEP_NUM_TASKS), 0 of 2 on this "
                      "machine (SLURM_LOCALID), leader gpu07:21234 (SLURM_STEP_NODELIST, SLURM_JOB_ID)");
  weir_config_destroy(c);
  assert_int_equal(weir_config_create(table, 5, 2, &c, &e), WEIR_OK); /* a command without these options */
  assert_int_equal(weir_launch_read(c, get, &l, &e), WEIR_OK);
  assert_int_equal(l.n_nodes, 1);
  assert_string_equal(l.told, "");
  weir_config_destroy(c);
}

static void test_first_host(void **state) {
  (void)state;
  static const struct {
    const char *list, *want; /* NULL: none */
  } hosts[] = {
      {"gpu01", "gpu01"},
      {"gpu01,gpu02", "gpu01"},
      {"gpu[01-04]", "gpu01"},
      {"gpu[07,09-11],cpu1", "gpu07"},
      {"r[1-2]n[03-04]", "r1n03"},
      {"a[5]b,c", "a5b"},
      {"gpu01.example.org", "gpu01.example.org"},
      {"fd00::7", "fd00::7"},
      {"", NULL},
      {",a", NULL},
      {"gpu[", NULL},
      {"gpu[]", NULL},
      {"gpu[01", NULL},
      {"0123456789012345678901234567890123456789", NULL},
  };
  for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
    char out[32] = "";
    const bool got = weir_launch_first_host(hosts[i].list, out, sizeof out);
    if (got != (hosts[i].want != NULL) || (got && strcmp(out, hosts[i].want) != 0))
      fail_msg("\"%s\": %s, want %s", hosts[i].list, got ? out : "none",
               hosts[i].want ? hosts[i].want : "none");
  }
}

static void test_tasks_of_node(void **state) {
  (void)state;
  static const struct {
    const char *list;
    int32_t node, want;
  } lists[] = {
      {"4", 0, 4},       {"4", 1, 0},
      {"4(x2),1", 0, 4}, {"4(x2),1", 1, 4},
      {"4(x2),1", 2, 1}, {"4(x2),1", 3, 0},
      {"1,2,3", 2, 3},   {"", 0, 0},
      {"x", 0, 0},       {"0", 0, 0},
      {"4(x", 0, 0},     {"4(x2", 0, 0},
      {"4(x0)", 0, 0},   {"4(x2)1", 5, 0},
      {"-1", 0, 0},      {"1(x2147483647),2(x2147483647),3", 2147483647, 2},
  };
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    const int32_t got = weir_launch_tasks_of_node(lists[i].list, lists[i].node);
    if (got != lists[i].want)
      fail_msg("\"%s\", node %d: %d, want %d", lists[i].list, lists[i].node, got, lists[i].want);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_read),
      cmocka_unit_test(test_told),
      cmocka_unit_test(test_first_host),
      cmocka_unit_test(test_tasks_of_node),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
