/* SPDX-License-Identifier: Apache-2.0 */
/* What mode auto is worth: a load that goes from one request to many and back, through one engine, in each
 * fixed mode and in mode auto with each floor, in turn. Closed loop: in each phase so many requests are under
 * way, and another begins when one ends. Prompts are those of a file of tasks.
 *
 * usage: bench_auto SMALL.gguf LARGE.gguf TASKS.jsonl [-c CONCURRENT] [-n PER_PHASE] [-r ROUNDS] [-m LIST]
 *   -c  requests under way at the peak (64); phases are 1, 2, 4 .. peak .. 2, 1
 *   -n  requests of a phase, times those under way in it (2); 4 at least
 *   -r  rounds; in each every setting runs once (1)
 *   -m  settings, with commas between: large, exact, defer, small, auto-near, auto-exact, auto-any (all)
 *   -e  threshold of the entropy gate, nats (0.45)
 *   -t  temperature (0)
 *
 * One line of JSON a run, and at the end one a floor: goodput of auto over that of the best fixed mode. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cascade/cascade_conf.h"
#include "serve/engine.h"
#include "serve/pair.h"

enum { MOST_PROMPTS = 4096, MOST_PHASES = 32, MOST_NEW = 128 };

static const struct setting {
  const char *name;
  weir_mode mode;
  weir_quality quality;
  int fixed; /* weir_auto_mode; -1: auto */
} settings[] = {
    {"large", WEIR_MODE_LARGE, WEIR_QUALITY_NEAR, WEIR_AUTO_LARGE},
    {"exact", WEIR_MODE_EXACT, WEIR_QUALITY_NEAR, WEIR_AUTO_EXACT},
    {"defer", WEIR_MODE_DEFER, WEIR_QUALITY_NEAR, WEIR_AUTO_CASCADE},
    {"small", WEIR_MODE_SMALL, WEIR_QUALITY_NEAR, WEIR_AUTO_SMALL},
    {"auto-near", WEIR_MODE_AUTO, WEIR_QUALITY_NEAR, -1},
    {"auto-exact", WEIR_MODE_AUTO, WEIR_QUALITY_EXACT, -1},
    {"auto-any", WEIR_MODE_AUTO, WEIR_QUALITY_ANY, -1},
};

enum { N_SETTINGS = sizeof settings / sizeof *settings };

typedef struct bench {
  int32_t peak, per_phase, rounds;
  float tau, temperature;
  bool wanted[N_SETTINGS];
  weir_tokens prompt[MOST_PROMPTS];
  int32_t n_prompts;
  struct {
    int32_t concurrent, requests;
  } phase[MOST_PHASES];
  int32_t n_phases, n_requests;
  weir_pair *pair;
  int32_t under_way;
  int64_t tokens, pieces;                       /* of requests that have ended; so far */
  weir_err err;                                 /* of the first request that failed */
  double seconds[N_SETTINGS], done[N_SETTINGS]; /* sums over rounds; done: tokens */
} bench;

static weir_status usage(weir_err *e) {
  return weir_fail(
      e, WEIR_EINVAL,
      "usage: bench_auto SMALL LARGE TASKS [-c N] [-n N] [-r N] [-m LIST] [-e TAU] [-t TEMPERATURE]");
}

static weir_status read_prompts(bench *b, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  char line[16384];
  FILE *f = fopen(path, "re");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  while (b->n_prompts < MOST_PROMPTS && fgets(line, sizeof line, f)) {
    json_t *o = json_loads(line, 0, NULL);
    const char *text = o ? json_string_value(json_object_get(o, "prompt")) : NULL;
    if (text)
      st = weir_tokenize(weir_pair_tokenizer(b->pair), text, strlen(text), 0, &b->prompt[b->n_prompts], e);
    b->n_prompts += text && st == WEIR_OK;
    json_decref(o);
    if (st != WEIR_OK) break;
  }
  fclose(f);
  if (st == WEIR_OK && b->n_prompts == 0) return weir_fail(e, WEIR_EFORMAT, "%s: no line has a prompt", path);
  return st;
}

static void plan_phases(bench *b) {
  int32_t c = 1, step = 1;
  for (;;) {
    const int32_t n = c * b->per_phase < 4 ? 4 : c * b->per_phase;
    b->phase[b->n_phases].concurrent = c;
    b->phase[b->n_phases++].requests = n;
    b->n_requests += n;
    if (c >= b->peak) step = -1;
    if ((c == 1 && step < 0) || b->n_phases == MOST_PHASES) return;
    c = step > 0 ? (2 * c < b->peak ? 2 * c : b->peak) : (c + 1) / 2;
  }
}

static void on_piece(void *ctx, const weir_piece *p) {
  bench *b = ctx;
  (void)p;
  b->pieces++;
}

static void on_done(void *ctx, const weir_outcome *o) {
  bench *b = ctx;
  b->under_way--;
  b->tokens += o->counts->new_tokens;
  if (o->err && b->err.code == WEIR_OK) b->err = *o->err;
}

static weir_status run(bench *b, int k, int32_t round, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_engine *g = NULL;
  weir_cascade_cfg cascade;
  bool busy = true;
  const struct setting *s = &settings[k];
  weir_cascade_opts o = {.mode = s->mode};
  if (s->mode == WEIR_MODE_DEFER || s->mode == WEIR_MODE_AUTO) {
    o.set = WEIR_OPT_THRESHOLD;
    o.threshold = b->tau;
  }
  weir_engine_cfg cfg = {.clock = weir_clock_system(),
                         .max_active = b->peak,
                         .large_batch = 4,
                         .large_wait_ns = 2000000,
                         .prefix_pages = 0};
  int32_t phase = 0, left = b->phase[0].requests, next = 0;
  WEIR_TRY(weir_cascade_cfg_make(&o, &cascade, e));
  weir_pair_configure(b->pair, &cfg);
  WEIR_TRY(weir_engine_create(&cfg, &g, e));
  b->tokens = b->pieces = 0;
  b->under_way = 0;
  double at[MOST_PHASES] = {0}, wrote[MOST_PHASES] = {0}; /* seconds and tokens of each phase */
  const int64_t start = weir_now_ns(&cfg.clock);
  int64_t since = start, shown = 0;
  while (next < b->n_requests || b->under_way > 0) {
    while (next < b->n_requests && b->under_way < b->phase[phase].concurrent) {
      const weir_tokens *p = &b->prompt[next % b->n_prompts];
      const weir_job job = {
          .prompt = p->id,
          .n_prompt = p->n,
          .max_new = MOST_NEW,
          .draw = {.temperature = b->temperature, .top_p = 1, .seed = (uint64_t)next, .probe = -1},
          .cascade = &cascade,
          .on_piece = on_piece,
          .on_done = on_done,
          .ctx = b,
          .auto_ = s->fixed < 0,
          .quality = s->quality};
      WEIR_TRY(weir_engine_submit(g, &job, NULL, e));
      b->under_way++;
      next++;
      if (--left == 0 && phase + 1 < b->n_phases) left = b->phase[++phase].requests;
    }
    WEIR_TRY(weir_engine_step(g, &busy, e));
    const int64_t now = weir_now_ns(&cfg.clock), have = b->pieces;
    at[phase] += 1e-9 * (double)(now - since);
    wrote[phase] += (double)(have - shown);
    since = now;
    shown = have;
  }
  if (b->err.code != WEIR_OK) WEIR_TRY(weir_fail(e, b->err.code, "%s", b->err.msg));
  const double seconds = 1e-9 * (double)(weir_now_ns(&cfg.clock) - start);
  const weir_engine_stats z = weir_engine_get_stats(g);
  if (round < 0) goto out;
  b->seconds[k] += seconds;
  b->done[k] += (double)b->tokens;
  printf(
      "{\"schema\": \"weir.bench_auto.run.v1\", \"setting\": \"%s\", \"round\": %d, \"requests\": %d, "
      "\"peak\": %d, \"tokens\": %lld, \"seconds\": %.3f, \"tok_s\": %.1f, \"switches\": %lld, \"probes\": "
      "%lld, \"large\": %lld, \"exact\": %lld, \"defer\": %lld, \"small\": %lld, \"by_load\": [",
      s->name, round, b->n_requests, b->peak, (long long)b->tokens, seconds, (double)b->tokens / seconds,
      (long long)z.auto_.switches, (long long)z.auto_.probes, (long long)z.auto_.tokens[WEIR_AUTO_LARGE],
      (long long)z.auto_.tokens[WEIR_AUTO_EXACT], (long long)z.auto_.tokens[WEIR_AUTO_CASCADE],
      (long long)z.auto_.tokens[WEIR_AUTO_SMALL]);
  for (int32_t i = 0; i < b->n_phases; i++)
    printf("%s[%d, %.0f]", i ? ", " : "", b->phase[i].concurrent, at[i] > 0 ? wrote[i] / at[i] : 0);
  printf("]}\n");
  fflush(stdout);
out:
  weir_engine_destroy(g);
  return st;
}

/* Tokens a second over all rounds; 0: it did not run. */
static double speed(const bench *b, int k) { return b->seconds[k] > 0 ? b->done[k] / b->seconds[k] : 0; }

static void compare(const bench *b) {
  for (int k = 0; k < N_SETTINGS; k++) {
    double best = 0, worst = 0;
    const char *name = NULL;
    if (settings[k].fixed >= 0 || speed(b, k) == 0) continue;
    for (int i = 0; i < N_SETTINGS; i++) {
      const double v = speed(b, i);
      if (settings[i].fixed < 0 || v == 0) continue;
      if (!(weir_quality_modes(settings[k].quality) >> settings[i].fixed & 1)) continue;
      if (v > best) name = settings[i].name;
      if (v > best) best = v;
      if (worst == 0 || v < worst) worst = v;
    }
    if (best == 0) continue;
    printf(
        "{\"schema\": \"weir.bench_auto.v1\", \"setting\": \"%s\", \"tok_s\": %.1f, \"best_fixed\": \"%s\", "
        "\"of_best\": %.3f, \"of_worst\": %.3f}\n",
        settings[k].name, speed(b, k), name, speed(b, k) / best, speed(b, k) / worst);
  }
}

static bool listed(const char *list, const char *name) {
  const size_t n = strlen(name);
  for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
    if (strcspn(p, ",") == n && !strncmp(p, name, n)) return true;
  return false;
}

static weir_status parse(bench *b, int argc, char **argv, weir_err *e) {
  const char *list = NULL;
  *b = (bench){.peak = 64, .per_phase = 2, .rounds = 1, .tau = 0.45f};
  for (int c; (c = getopt(argc, argv, "c:n:r:m:e:t:")) != -1;) switch (c) {
      case 'c': b->peak = atoi(optarg); break;
      case 'n': b->per_phase = atoi(optarg); break;
      case 'r': b->rounds = atoi(optarg); break;
      case 'm': list = optarg; break;
      case 'e': b->tau = strtof(optarg, NULL); break;
      case 't': b->temperature = strtof(optarg, NULL); break;
      default: return usage(e);
    }
  if (argc - optind != 3 || b->peak < 1 || b->peak > 1024 || b->per_phase < 1 || b->per_phase > 1000 ||
      b->rounds < 1 || b->rounds > 1000)
    return usage(e);
  for (int k = 0; k < N_SETTINGS; k++) b->wanted[k] = !list || listed(list, settings[k].name);
  return WEIR_OK;
}

int main(int argc, char **argv) {
  static bench b;
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  WEIR_TRY(parse(&b, argc, argv, e));
  const weir_pair_opts opts = {.small_path = argv[optind],
                               .large_path = argv[optind + 1],
                               .n_ctx = 512,
                               .max_seqs = b.peak,
                               .max_tokens = 512};
  WEIR_TRY(weir_pair_open(&opts, &b.pair, e));
  WEIR_TRY(read_prompts(&b, argv[optind + 2], e));
  plan_phases(&b);
  weir_log_set_level(WEIR_LOG_INFO);
  WEIR_TRY(run(&b, WEIR_AUTO_EXACT, -1, e)); /* uncounted: pages are faulted in, the processor has woken up */
  for (int32_t r = 0; r < b.rounds; r++)
    for (int i = 0; i < N_SETTINGS; i++) { /* each round begins with another one */
      const int k = (i + r) % N_SETTINGS;
      if (b.wanted[k]) WEIR_TRY(run(&b, k, r, e));
    }
  compare(&b);
out:
  if (st != WEIR_OK) fprintf(stderr, "bench_auto: %s\n", err.msg);
  for (int32_t i = 0; i < b.n_prompts; i++) weir_tokens_fini(&b.prompt[i]);
  weir_pair_close(b.pair);
  return st == WEIR_OK ? 0 : 1;
}
