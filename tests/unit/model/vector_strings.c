/* SPDX-License-Identifier: Apache-2.0 */
/* Readers of the tokenizer vectors. One archive folder a process; runs inside cmocka tests. */
#include "vector_strings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARCHIVE "../shared/data/tokenizers/vectors.tar.xz"

extern char **environ;

void vector_file_read(const char *path, weir_buf *out) {
  char chunk[4096];
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("cannot open %s", path);
  for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
    assert_int_equal(weir_buf_put(out, chunk, n, NULL), WEIR_OK);
  fclose(f);
}

uint32_t vector_word(const weir_buf *b, size_t i) {
  if (i >= b->len / 4) fail_msg("word %zu of a file of %zu bytes", i, b->len);
  const unsigned char *p = (const unsigned char *)b->data + i * 4;
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void vector_strings_read(const char *path, vector_strings *v) {
  int32_t cap = 0;
  *v = (vector_strings){0};
  vector_file_read(path, &v->bytes);
  for (size_t i = 0; i < v->bytes.len; i++) cap += v->bytes.data[i] == '\n';
  v->s = malloc(((size_t)cap + 1) * sizeof *v->s);
  assert_non_null(v->s);
  char *to = v->bytes.data, *at = v->bytes.data, *const end = at + v->bytes.len;
  while (at < end) {
    char *const begin = to;
    while (at < end && *at != '\n') {
      unsigned byte = (unsigned char)*at;
      if (*at == '\\') {
        if (sscanf(at, "\\x%2x", &byte) != 1) fail_msg("%s: string %d", path, v->n);
        at += 3;
      }
      *to++ = (char)(unsigned char)byte;
      at++;
    }
    if (at == end) fail_msg("%s does not end a line", path);
    at++;
    v->s[v->n++] = (weir_str){begin, (size_t)(to - begin)};
  }
  assert_int_equal(v->n, cap);
}

void vector_strings_fini(vector_strings *v) {
  free(v->s);
  weir_buf_fini(&v->bytes);
}

static uint32_t hash_on(uint32_t h, const unsigned char *p, size_t n) {
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 16777619u;
  return h;
}

uint32_t vector_hash(const void *bytes, size_t n) { return hash_on(2166136261u, bytes, n); }

uint32_t vector_hash_ids(const int32_t *id, int32_t n) {
  uint32_t h = 2166136261u;
  for (int32_t i = 0; i < n; i++) {
    const uint32_t v = (uint32_t)id[i];
    const unsigned char b[4] = {(unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16),
                                (unsigned char)(v >> 24)};
    h = hash_on(h, b, 4);
  }
  return h;
}

static char folder[] = "/tmp/weir-test-vectors-XXXXXX";
static bool unpacked;

static int run(const char *const argv[]) {
  pid_t pid;
  int status;
  if (posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ) != 0) return -1;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

const char *vector_archive(void) {
  if (unpacked) return folder;
  if (access(ARCHIVE, R_OK) != 0) return NULL;
  if (!mkdtemp(folder)) fail_msg("cannot make %s", folder);
  const char *const unpack[] = {"tar", "xJf", ARCHIVE, "-C", folder, NULL};
  unpacked = true;
  if (run(unpack) != 0) fail_msg("cannot unpack %s", ARCHIVE);
  return folder;
}

void vector_archive_remove(void) {
  const char *const remove[] = {"rm", "-rf", folder, NULL};
  if (unpacked) run(remove);
  unpacked = false;
}
