/* SPDX-License-Identifier: Apache-2.0 */
/* Options and device of the benchmarks of the CPU's operations. Owns the device while it runs; the main
 * thread. */
#include "bench_cpu.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

int64_t bench_now(void) {
  const weir_clock c = weir_clock_system();
  return weir_now_ns(&c);
}

int bench_usage(const bench_cpu *b, const char *why, const char *arg) {
  fprintf(stderr, "%s: %s '%s'; see --help\n", b->program, why, arg);
  return 2;
}

static int parse_isa(bench_cpu *b, const char *name) {
  int isa = WEIR_ISA_SCALAR;
  while (isa <= WEIR_ISA_BEST && strcmp(weir_isa_name((weir_isa)isa), name) != 0) isa++;
  if (isa > WEIR_ISA_BEST) return 1 + bench_usage(b, "unknown instruction set", name);
  b->cpu.isa = (weir_isa)isa;
  return 0;
}

int bench_parse(bench_cpu *b, int argc, char **argv) {
  enum { SHARED = 4 };
  struct option longs[SHARED + BENCH_MAX_OPTIONS + 1] = {{"threads", required_argument, NULL, 't'},
                                                         {"isa", required_argument, NULL, 'i'},
                                                         {"seconds", required_argument, NULL, 's'},
                                                         {"help", no_argument, NULL, 'h'}};
  char shorts[sizeof "t:i:s:h" + 2 * BENCH_MAX_OPTIONS] = "t:i:s:h";
  int n = 0, c, done;
  for (; n < BENCH_MAX_OPTIONS && b->own[n].name; n++) {
    const bench_option *o = &b->own[n];
    const bool flag = o->letter & BENCH_FLAG;
    const char letter[] = {(char)o->letter, flag ? 0 : ':', 0};
    longs[SHARED + n] = (struct option){o->name, flag ? no_argument : required_argument, NULL, letter[0]};
    strcat(shorts, letter);
  }
  while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
    int own = 0;
    switch (c) {
      case 't': b->cpu.n_threads = atoi(optarg); break;
      case 'i':
        done = parse_isa(b, optarg);
        if (done) return done;
        break;
      case 's': b->seconds = atof(optarg); break;
      case 'h': fputs(b->help, stdout); return 1;
      default:
        while (own < n && (b->own[own].letter & ~BENCH_FLAG) != c) own++;
        if (own == n) {
          fputs(b->help, stderr);
          return 3;
        }
        *b->own[own].value = b->own[own].letter & BENCH_FLAG ? "" : optarg;
    }
  }
  return optind < argc ? 1 + bench_usage(b, "unexpected argument", argv[optind]) : 0;
}

int bench_run(const bench_cpu *b, weir_status (*run)(weir_dev *, const void *, weir_err *), const void *ctx) {
  weir_err err = {0};
  weir_dev *dev = NULL;
  weir_status st = weir_dev_open_cpu(&b->cpu, &dev, &err);
  if (st == WEIR_OK) st = run(dev, ctx, &err);
  if (st != WEIR_OK) fprintf(stderr, "%s: %s\n", b->program, err.msg);
  weir_dev_destroy(dev);
  return st == WEIR_OK ? 0 : 1;
}
