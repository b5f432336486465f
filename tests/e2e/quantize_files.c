/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the tests of `weir quantize`. One folder a program; failures end the test. */
#include "quantize_files.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

static char folder[256];

int quantize_setup(void **state) {
  (void)state;
  const char *tmp = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/weir-quantize-XXXXXX", tmp ? tmp : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

const char *quantize_path(const char *name) {
  static char path[8][600];
  static int turn;
  turn = (turn + 1) % 8;
  snprintf(path[turn], sizeof path[0], "%s/%s", folder, name);
  return path[turn];
}

int quantize_sweep(void) {
  int n = 0;
  DIR *d = opendir(folder);
  assert_non_null(d);
  for (struct dirent *f = readdir(d); f; f = readdir(d))
    if (f->d_name[0] != '.') {
      unlink(quantize_path(f->d_name));
      n++;
    }
  closedir(d);
  return n;
}

int quantize_teardown(void **state) {
  quantize_sweep();
  rmdir(folder);
  return e2e_cleanup(state);
}

weir_gguf *quantize_open(const char *path) {
  weir_err e = {0};
  weir_gguf *g;
  if (weir_gguf_open(path, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return g;
}

void quantize_must_run(const char *line) {
  e2e_result r = e2e("%s", line);
  e2e_want_status(&r, 0, line);
  e2e_free(&r);
}

const char *quantized(const char *of, const char *options, const char *name) {
  char line[1024];
  const char *path = quantize_path(name);
  snprintf(line, sizeof line, "quantize -q --force %s " MODELS "%s.gguf %s", options, of, path);
  quantize_must_run(line);
  return path;
}
