/* SPDX-License-Identifier: Apache-2.0 */
/* The limits of this machine: what its memory, caches and instruction sets give to a team like the engine's,
 * what a fork and join of it costs, the clock. Only what the machine has; a few seconds. The main thread and
 * the team. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_cpu.h"
#include "cpu/machine.h"

enum { PEAKS_MAX = 16, NAME_MAX_BYTES = 256 };

typedef struct options {
  bench_cpu cpu;
  size_t bytes; /* of the buffer in memory; 0: by the machine */
  bool json, quick;
} options;

static const char *const help =
    "usage: limits [options]\n"
    "Measures what this machine gives at most to so many threads: read and copy bandwidth of memory and\n"
    "caches, operations a second of each instruction set out of registers (a multiply-add is two), a fork "
    "and\n"
    "join of the team, the clock. Best and median of the repetitions.\n"
    "  -t, --threads N     threads (default: one per core)\n"
    "  -i, --isa NAME      nothing beyond scalar, avx2, avx512-vnni, amx or best (default: best)\n"
    "  -s, --seconds S     time spent on a case (default 0.15)\n"
    "  -m, --mib N         MiB of memory to read (default: four times the last cache, 1024 to 2048, a "
    "quarter\n"
    "                      of what is free at most)\n"
    "  -j, --json          one JSON object instead of text\n"
    "  -q, --quick         64 MiB and 0.01 s: a test of the program, not of the machine\n"
    "  -h, --help          this text\n";

/* What is measured, as JSON; the text is made from it, so that the two cannot differ. */
typedef struct report {
  json_t *whole, *memory, *peaks;
  double read, copy; /* the best from memory */
} report;

static size_t memory_bytes(const options *o, const bench_machine *m) {
  const long free_pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  size_t bytes = 4 * m->l3_bytes;
  if (bytes < (size_t)1 << 30) bytes = (size_t)1 << 30;
  if (bytes > (size_t)2 << 30) bytes = (size_t)2 << 30;
  if (o->bytes) bytes = o->bytes;
  if (o->quick) bytes = (size_t)64 << 20;
  if (free_pages > 0 && page > 0 && bytes > (size_t)free_pages * (size_t)page / 4)
    bytes = (size_t)free_pages * (size_t)page / 4;
  return bytes;
}

static void processor(char out[NAME_MAX_BYTES]) {
  char line[512];
  FILE *f = fopen("/proc/cpuinfo", "re");
  snprintf(out, NAME_MAX_BYTES, "unknown");
  while (f && fgets(line, sizeof line, f)) {
    const char *value = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !value || !value[1]) continue;
    snprintf(out, NAME_MAX_BYTES, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
    break;
  }
  if (f) fclose(f);
}

static weir_status append(json_t *list, json_t *row, weir_err *e) {
  return row && json_array_append_new(list, row) == 0 ? WEIR_OK : weir_fail(e, WEIR_ENOMEM, "a row of JSON");
}

static weir_status walk(report *r, const bench_machine *m, const char *where, bench_walk w, uint8_t *data,
                        size_t bytes, double seconds, weir_err *e) {
  const bench_rate rate = bench_machine_walk(m, w, data, bytes, seconds);
  double *best = bench_walk_copies(w) ? &r->copy : &r->read;
  if (strcmp(where, "memory") == 0 && rate.best > *best) *best = rate.best;
  return append(r->memory,
                json_pack("{s:s, s:s, s:s, s:I, s:f, s:f}", "where", where, "what",
                          bench_walk_copies(w) ? "copy" : "read", "way", bench_walk_name(w), "bytes",
                          (json_int_t)bytes, "gb_s", rate.best / 1e9, "median_gb_s", rate.median / 1e9),
                e);
}

static weir_status measure_memory(report *r, const bench_machine *m, const options *o, weir_err *e) {
  weir_status st = WEIR_OK;
  uint8_t *data = NULL;
  const size_t threads = (size_t)weir_pool_size(m->pool);
  /* Of each cache half, so that it holds what else there is too; the last one is everybody's. */
  const struct {
    const char *where;
    size_t bytes;
  } caches[] = {{"l1", m->l1_bytes / 2 * threads},
                {"l2", m->l2_bytes / 2 * threads},
                {"l3", m->l2_bytes * 4 * threads < m->l3_bytes / 2 ? m->l2_bytes * 4 * threads : 0}};
  size_t bytes = memory_bytes(o, m);
  for (size_t i = 0; i < sizeof caches / sizeof *caches; i++)
    if (caches[i].bytes > bytes) bytes = caches[i].bytes;
  WEIR_TRY(bench_machine_alloc(m, bytes, &data, e));
  for (size_t i = 0; i < sizeof caches / sizeof *caches; i++) {
    if (!caches[i].bytes) continue;
    WEIR_TRY(walk(r, m, caches[i].where, BENCH_READ, data, caches[i].bytes, o->cpu.seconds, e));
    WEIR_TRY(walk(r, m, caches[i].where, BENCH_COPY, data, caches[i].bytes, o->cpu.seconds, e));
  }
  for (bench_walk w = 0; w < BENCH_WALKS; w++) {
    const double seconds = o->cpu.seconds * (bench_walk_copies(w) ? 1 : 2);
    WEIR_TRY(walk(r, m, "memory", w, data, bytes, seconds, e));
  }

out:
  weir_dev_release(m->dev, data);
  return st;
}

static weir_status measure_peaks(report *r, const bench_machine *m, double clock, double seconds,
                                 weir_err *e) {
  weir_status st = WEIR_OK;
  bench_peak peak[PEAKS_MAX];
  const int32_t n = bench_machine_peaks(m, peak, PEAKS_MAX);
  for (int32_t i = 0; i < n; i++) {
    const bench_rate rate = bench_machine_peak(m, peak[i].name, seconds);
    const double per_cycle = clock > 0 ? rate.best / clock / weir_pool_size(m->pool) : 0;
    WEIR_TRY(
        append(r->peaks,
               json_pack("{s:s, s:s, s:f, s:f, s:f}", "name", peak[i].name, "isa", weir_isa_name(peak[i].isa),
                         "gop_s", rate.best / 1e9, "median_gop_s", rate.median / 1e9, "per_cycle", per_cycle),
               e));
  }

out:
  return st;
}

static double num(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
static const char *str(const json_t *o, const char *key) {
  return json_string_value(json_object_get(o, key));
}

static void print_text(const report *r) {
  size_t i;
  json_t *row;
  printf("%s, %s, %d threads, %.2f GHz\n", str(r->whole, "cpu"), str(r->whole, "isa"),
         (int)num(r->whole, "threads"), num(r->whole, "clock_ghz"));
  json_array_foreach(r->memory, i, row) {
    printf("%-6s %-4s %-11s %8.1f MiB %8.1f GB/s  median %8.1f\n", str(row, "where"), str(row, "what"),
           str(row, "way"), num(row, "bytes") / (1 << 20), num(row, "gb_s"), num(row, "median_gb_s"));
  }
  json_array_foreach(r->peaks, i, row) {
    printf("%-16s %10.1f GOP/s  median %10.1f  %7.1f a cycle and core\n", str(row, "name"), num(row, "gop_s"),
           num(row, "median_gop_s"), num(row, "per_cycle"));
  }
  const json_t *fork = json_object_get(r->whole, "fork_join_us");
  printf("fork and join    %.2f us empty, %.2f us beside 5 us of work\n", num(fork, "empty"),
         num(fork, "work"));
}

static weir_status measure(report *r, const bench_machine *m, const options *o, weir_err *e) {
  weir_status st = WEIR_OK;
  char name[NAME_MAX_BYTES];
  const double seconds = o->cpu.seconds;
  processor(name);
  r->memory = json_array();
  r->peaks = json_array();
  r->whole =
      json_pack("{s:s, s:s, s:s, s:i, s:f, s:{s:I, s:I, s:I}, s:O, s:O}", "schema", "weir.limits.v1", "cpu",
                name, "isa", weir_isa_name(m->isa), "threads", weir_pool_size(m->pool), "seconds", seconds,
                "cache_bytes", "l1", (json_int_t)m->l1_bytes, "l2", (json_int_t)m->l2_bytes, "l3",
                (json_int_t)m->l3_bytes, "memory", r->memory, "peaks", r->peaks);
  if (!r->whole) return weir_fail(e, WEIR_ENOMEM, "JSON of the limits");
  const bench_rate clock = bench_machine_clock(m, seconds / 3);
  WEIR_TRY(measure_memory(r, m, o, e));
  WEIR_TRY(measure_peaks(r, m, clock.best, seconds, e));
  const bench_rate empty = bench_machine_fork_empty(m, seconds / 3),
                   work = bench_machine_fork_work(m, seconds);
  json_t *rest = json_pack("{s:f, s:f, s:f, s:{s:f, s:f, s:f, s:f}}", "read_gb_s", r->read / 1e9, "copy_gb_s",
                           r->copy / 1e9, "clock_ghz", clock.best / 1e9, "fork_join_us", "empty",
                           empty.best / 1e3, "median_empty", empty.median / 1e3, "work", work.best / 1e3,
                           "median_work", work.median / 1e3);
  const int added = rest ? json_object_update(r->whole, rest) : -1;
  json_decref(rest);
  if (added != 0) st = weir_fail(e, WEIR_ENOMEM, "JSON of the limits");

out:
  return st;
}

static weir_status limits_run(weir_dev *dev, const void *ctx, weir_err *e) {
  const options *o = ctx;
  weir_status st = WEIR_OK;
  bench_machine m = {0};
  report r = {0};
  char *text = NULL;
  WEIR_TRY(bench_machine_open(&m, dev, e));
  WEIR_TRY(measure(&r, &m, o, e));
  if (o->json) {
    text = json_dumps(r.whole, JSON_COMPACT | JSON_REAL_PRECISION(6));
    if (text)
      puts(text);
    else
      st = weir_fail(e, WEIR_EINVAL, "the limits cannot be written as JSON");
  } else {
    print_text(&r);
  }

out:
  free(text);
  json_decref(r.memory);
  json_decref(r.peaks);
  json_decref(r.whole);
  bench_machine_close(&m);
  return st;
}

int main(int argc, char **argv) {
  enum { MIB_MAX = 1 << 20 };
  const char *mib = NULL, *json = NULL, *quick = NULL;
  options o = {0};
  o.cpu = (bench_cpu){
      "limits",
      help,
      {{"mib", 'm', &mib}, {"json", 'j' | BENCH_FLAG, &json}, {"quick", 'q' | BENCH_FLAG, &quick}},
      {.isa = WEIR_ISA_BEST},
      0.15};
  const int done = bench_parse(&o.cpu, argc, argv);
  if (done) return done - 1;
  if (mib) {
    const int n = atoi(mib);
    if (n < 1 || n > MIB_MAX) return bench_usage(&o.cpu, "--mib wants 1 to 1048576, not", mib);
    o.bytes = (size_t)n << 20;
  }
  if (!(o.cpu.seconds >= 0 && o.cpu.seconds <= 60)) {
    fprintf(stderr, "limits: --seconds wants 0 to 60\n");
    return 2;
  }
  o.json = json != NULL;
  o.quick = quick != NULL;
  if (o.quick) o.cpu.seconds = 0.01;
  return bench_run(&o.cpu, limits_run, &o);
}
