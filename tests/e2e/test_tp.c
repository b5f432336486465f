/* SPDX-License-Identifier: Apache-2.0 */
/* A large model that is cut over ranks, as a user meets it: the texts of one rank, with ranks that are
 * threads and ranks in a worker process, from the command line, over RPC and over HTTP; what is said of wrong
 * options; and how workers end. All on the pair that comes with weir. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "serving.h"
#include "workers.h"

enum { TOKENS = 30, PROMPTS = 8 };

static json_t *answers_of(const char *options) {
  json_t *all = e2e_json_of("run -f models/prompts.txt -n %d --json -q %s", TOKENS, options);
  json_t *answers = e2e_of_schema(all, "weir.run.v1");
  json_decref(all);
  assert_int_equal(json_array_size(answers), PROMPTS);
  return answers;
}

static void want_same(const json_t *want, const json_t *got, const char *what) {
  for (size_t i = 0; i < PROMPTS; i++) {
    const json_t *a = json_object_get(json_array_get(want, i), "ids"),
                 *b = json_object_get(json_array_get(got, i), "ids");
    assert_true(json_array_size(a) > 3);
    if (json_equal(a, b)) continue;
    char *x = json_dumps(a, JSON_COMPACT), *y = json_dumps(b, JSON_COMPACT);
    fail_msg("%s, prompt %zu:\n%s\nis not\n%s", what, i, y, x);
  }
}

static const char *const modes[] = {"-m large", "-m defer --entropy 0.4", "-m exact -t 0.8 --seed 7"};
enum { N_MODES = sizeof modes / sizeof *modes };

static void test_threads(void **state) {
  (void)state;
  static const char *const how[] = {"--large-tp 2", "--large-tp 4 --threads 1 -b 3",
                                    "--large-tp 2 --small-tp 2 --comm shm --large-device cpu,cpu"};
  for (int m = 0; m < N_MODES; m++) {
    json_t *want = answers_of(modes[m]);
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
      char options[256];
      if (m == 0 && strstr(how[i], "small-tp")) continue;
      snprintf(options, sizeof options, "%s %s", modes[m], how[i]);
      json_t *got = answers_of(options);
      want_same(want, got, options);
      json_decref(got);
    }
    json_decref(want);
  }
}

/* What a run tells of where it ran. */
static void test_told(void **state) {
  (void)state;
  json_t *all = e2e_json_of("run -p One -n 4 --json -q --large-tp 2 --threads 1 -m large");
  json_t *sum = e2e_of_schema(all, "weir.run.summary.v1");
  const char *device = json_string_value(json_object_get(json_array_get(sum, 0), "device"));
  assert_non_null(device);
  e2e_want_in(device, "2 ranks, each cpu (", "device");
  e2e_want_in(device, "1 threads", "device");
  json_decref(sum);
  json_decref(all);
}

static void test_wrong_options(void **state) {
  (void)state;
  static const struct {
    const char *options;
    int status;
    const char *says;
  } c[] = {
      {"--large-tp 65", 2, "large-tp: 65 is out of range, want 1 .. 64 (command line)"},
      {"--large-tp 64", 1, "the large model"},
      {"--large-tp 2 --comm nccl", 1, "comm nccl is for ranks on GPUs, these are on the CPU"},
      {"--large-tp 2 --large-device cpu,cpu,cpu", 1, "\"cpu,cpu,cpu\" is 3 devices for 2 ranks"},
      {"--large-tp 2 --large-device cuda:0", 1, "\"cuda:0\" is 1 device for 2 ranks"},
      {"--large-tp 2 --nnodes 2", 2, "--nnodes 2 needs --dist-init-addr HOST:PORT"},
      {"--large-tp 3 --nnodes 2 --dist-init-addr 127.0.0.1:1", 1,
       "--large-tp 3 over 2 processes: want as many ranks on each"},
      {"--large-tp 2 --node-rank 1", 2, "--node-rank 1 (command line) and --nnodes 1 (default)"},
      {"--large-tp 2 --nnodes 2 --dist-init-addr h:1 --dist-token-file /nowhere", 1,
       "--dist-token-file /nowhere: No such file"},
      {"--large-tp 2 --nnodes 2 --dist-init-addr 127.0.0.1:1 -m small", 1,
       "the large model, which is cut over them, is not used here"},
      {"--large-tp 2 --launcher slurm", 2, "SLURM_PROCID is not in the environment"},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    e2e_result r = e2e("run -p One -n 4 -q %s", c[i].options);
    e2e_want_status(&r, c[i].status, c[i].options);
    e2e_want_in(r.err, c[i].says, c[i].options);
    e2e_free(&r);
  }
  e2e_result r = e2e("worker --nnodes 2 --dist-init-addr 127.0.0.1:1 --large-tp 2");
  e2e_want_status(&r, 2, "a worker with rank 0");
  e2e_want_in(r.err, "a worker has --node-rank 1 to", "a worker with rank 0");
  e2e_free(&r);
}

/* What a shell in an allocation has makes nobody wait; asked for, a step's variables do. */
static void test_environment(void **state) {
  (void)state;
  static const char *const shell[] = {"SLURM_NTASKS=2", "SLURM_JOB_ID=7", "SLURM_PROCID=1", "SLURM_STEP_ID=0",
                                      NULL};
  e2e_result r = e2e_run(&(e2e_run_opts){.line = "run -p One -n 4 -q -m large --large-tp 2", .env = shell});
  e2e_want_status(&r, 0, "a plain run within a step");
  e2e_free(&r);
  worker w = worker_start("env SLURM_NTASKS=2 SLURM_JOB_ID=7 SLURM_PROCID=1 SLURM_STEP_ID=0",
                          "run -p One -n 4 -q --large-tp 2 --launcher auto --dist-init-addr 127.0.0.1:1");
  worker_wait_log(&w, "waiting for the leader at 127.0.0.1:1", 1);
  char *log = worker_log(&w);
  e2e_want_in(log, "slurm: process 1 of 2 (SLURM_PROCID, SLURM_NTASKS)", "rank 1 of a step");
  e2e_want_in(log, "worker: process 1 of 2, pid ", "rank 1 of a step");
  free(log);
  kill(w.pid, SIGTERM);
  assert_int_equal(worker_wait(&w), 0);
}

static char dist[128];

static const char *new_dist(void) {
  snprintf(dist, sizeof dist, "--large-tp 2 --nnodes 2 --dist-init-addr 127.0.0.1:%d", free_port());
  return dist;
}

/* One worker does for several leaders, one after the other, and keeps its weights. */
static void test_worker(void **state) {
  (void)state;
  char line[512];
  snprintf(line, sizeof line, "worker %s --node-rank 1", new_dist());
  worker w = worker_start("", line);
  int joined = 0;
  for (int m = 0; m < N_MODES; m++)
    for (int shm = 0; shm < 2; shm++) {
      if (shm && m != 1) continue;
      json_t *want = answers_of(modes[m]);
      snprintf(line, sizeof line, "%s %s --comm %s", modes[m], dist, shm ? "shm" : "tcp");
      json_t *got = answers_of(line);
      want_same(want, got, line);
      json_decref(got);
      json_decref(want);
      joined++;
    }
  worker_wait_log(&w, "it said goodbye", joined);
  char *log = worker_log(&w);
  e2e_want_in(log, "in the group, with ranks 1 to 1 of 2", "the worker's log");
  free(log);
  kill(w.pid, SIGTERM);
  assert_int_equal(worker_wait(&w), 0);
  log = worker_log(&w);
  e2e_want_in(log, "asked to end; bye", "the worker's log");
  free(log);
}

/* `weir run` of another rank works for one leader and ends with it: srun waits for all. */
static void test_one_command_line(void **state) {
  (void)state;
  char line[512];
  json_t *want = answers_of(modes[1]);
  snprintf(line, sizeof line, "run -f models/prompts.txt -n %d -q %s %s --node-rank 1", TOKENS, modes[1],
           new_dist());
  worker w = worker_start("", line);
  snprintf(line, sizeof line, "%s %s", modes[1], dist);
  json_t *got = answers_of(line);
  want_same(want, got, line);
  assert_int_equal(worker_wait(&w), 0);
  json_decref(got);
  json_decref(want);
}

/* A leader waits, says for whom, and ends when its time is over; a worker that waits ends when it is asked.
 */
static void test_waiting(void **state) {
  (void)state;
  char line[512];
  snprintf(line, sizeof line, "worker %s --node-rank 1", new_dist());
  worker w = worker_start("", line);
  worker_wait_log(&w, "waiting for the leader at 127.0.0.1:", 1);
  kill(w.pid, SIGINT);
  assert_int_equal(worker_wait(&w), 0);
  e2e_result r = e2e("run -p One -n 4 -q -m large %s --dist-timeout 1", dist);
  e2e_want_status(&r, 1, "a leader without its worker");
  e2e_want_in(r.err, "node 1 of 2 has not come", "a leader without its worker");
  e2e_free(&r);
}

/* A worker with another model, or another number of ranks, is told so and ends. A leader that ends for the
 * same reason may be gone before its word is there: then the next one's is. */
static void test_strangers(void **state) {
  (void)state;
  static const struct {
    const char *options, *says;
  } c[] = {
      {"--large models/weir-demo-small-Q8_0.gguf", "it has another model"},
      {"--large-tp 4", "it has 2 ranks and says there are 2 nodes; here it is 2 nodes of 1 ranks"},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    char line[512];
    int status = -1, leaders = 0;
    snprintf(line, sizeof line, "worker %s --node-rank 1 %s", new_dist(), c[i].options);
    worker w = worker_start("", line);
    while (!worker_ended(&w, &status)) {
      if (++leaders > 20) fail_msg("the worker does not end:\n%s", worker_log(&w));
      e2e_result r = e2e("run -p One -n 4 -q -m large %s --dist-timeout 3", dist);
      e2e_want_status(&r, 1, c[i].options);
      if (leaders == 1) e2e_want_in(r.err, c[i].says, c[i].options);
      e2e_free(&r);
    }
    assert_int_equal(status, 1);
    char *log = worker_log(&w);
    e2e_want_in(log, "refuses this worker", c[i].options);
    e2e_want_in(log, c[i].says, c[i].options);
    free(log);
  }
}

/* ---- served ---- */

typedef struct wanted {
  asked a[PROMPTS];
} wanted;

static bool all_ended(void *ctx) {
  const wanted *w = ctx;
  for (int i = 0; i < PROMPTS; i++)
    if (w->a[i].n_ends == 0) return false;
  return true;
}

/* The texts that a server gives, over RPC all at once and over HTTP one. */
static void want_served(serving *s, const json_t *want) {
  wanted *w = calloc(1, sizeof *w);
  assert_non_null(w);
  weir_client *c = serving_client(s, NULL);
  for (int i = 0; i < PROMPTS; i++) {
    const char *p = json_string_value(json_object_get(json_array_get(want, (size_t)i), "prompt"));
    const weir_client_request q = {.prompt = p, .max_tokens = TOKENS, .has_temperature = true};
    serving_ask(c, &q, &w->a[i]);
  }
  serving_run(c, all_ended, w);
  for (int i = 0; i < PROMPTS; i++) {
    const char *text = json_string_value(json_object_get(json_array_get(want, (size_t)i), "text"));
    if (strcmp(w->a[i].text, text) != 0)
      fail_msg("prompt %d: \"%s\", want \"%s\" (%s %s)", i, w->a[i].text, text, w->a[i].reason,
               w->a[i].error.message);
  }
  weir_client_close(c);
  json_t *body =
      json_pack("{s:s, s:O, s:i, s:i}", "model", "weir-demo", "prompt",
                json_object_get(json_array_get(want, 0), "prompt"), "max_tokens", TOKENS, "temperature", 0);
  char *text = json_dumps(body, JSON_COMPACT);
  http_answer h = http_ask(s->port, "/v1/completions", NULL, text);
  assert_int_equal(h.status, 200);
  json_t *o = json_loads(h.body, 0, NULL);
  const char *got =
      json_string_value(json_object_get(json_array_get(json_object_get(o, "choices"), 0), "text"));
  assert_string_equal(got, w->a[0].text);
  json_decref(o);
  http_free(&h);
  free(text);
  json_decref(body);
  free(w);
}

static void test_served(void **state) {
  (void)state;
  json_t *want = answers_of("-m defer --entropy 0.4");
  for (int processes = 1; processes <= 2; processes++) {
    char options[512], line[512];
    worker w = {.pid = 0};
    snprintf(options, sizeof options, "--listen 127.0.0.1:0 -m defer --entropy 0.4 %s",
             processes == 2 ? new_dist() : "--large-tp 2");
    serving s = serving_begin(options, NULL);
    if (processes == 2) {
      serving_wait_log(&s, "node 1 of 2 has not come");
      snprintf(line, sizeof line, "worker %s --node-rank 1", dist);
      w = worker_start("", line);
    }
    serving_wait_ready(&s);
    want_served(&s, want);
    http_answer h = http_ask(s.port, "/health", NULL, NULL);
    assert_int_equal(h.status, 200);
    http_free(&h);
    char *log = serving_log(&s);
    e2e_want_in(log,
                processes == 2 ? "2 ranks over tcp on 2 processes, 1 here" : "2 ranks over shm, each cpu",
                "the server's log");
    free(log);
    kill(s.pid, SIGTERM);
    assert_int_equal(serving_wait(&s), 0);
    if (processes == 2) {
      worker_wait_log(&w, "it said goodbye", 1);
      kill(w.pid, SIGTERM);
      assert_int_equal(worker_wait(&w), 0);
    }
  }
  json_decref(want);
}

static int cleanup(void **state) { return serving_cleanup(state) | worker_cleanup(state); }

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_told),
      cmocka_unit_test(test_wrong_options),
      cmocka_unit_test_teardown(test_environment, cleanup),
      cmocka_unit_test_teardown(test_worker, cleanup),
      cmocka_unit_test_teardown(test_one_command_line, cleanup),
      cmocka_unit_test_teardown(test_waiting, cleanup),
      cmocka_unit_test_teardown(test_strangers, cleanup),
      cmocka_unit_test_teardown(test_served, cleanup),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
