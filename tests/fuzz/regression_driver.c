/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over the files of folders, so that the corpus is an ordinary test with any compiler.
 * Each input is a block of exactly its size: a sanitizer sees a read past the end. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* 0 done, 1 not a regular file, -1 failed. */
static int run_file(const char *path) {
  struct stat info;
  if (stat(path, &info) != 0) {
    perror(path);
    return -1;
  }
  if (!S_ISREG(info.st_mode)) return 1;
  FILE *f = fopen(path, "rb");
  const size_t size = (size_t)info.st_size;
  uint8_t *data = malloc(size ? size : 1);
  const int got = f && data && fread(data, 1, size, f) == size ? 0 : -1;
  if (got == 0)
    LLVMFuzzerTestOneInput(data, size);
  else
    perror(path);
  free(data);
  if (f) fclose(f);
  return got;
}

int main(int argc, char **argv) {
  int n = 0;
  for (int i = 1; i < argc; i++) {
    struct dirent **entry;
    const int n_entries = scandir(argv[i], &entry, NULL, alphasort);
    if (n_entries < 0) {
      perror(argv[i]);
      return 1;
    }
    for (int k = 0; k < n_entries; k++) {
      char path[4096];
      snprintf(path, sizeof path, "%s/%s", argv[i], entry[k]->d_name);
      free(entry[k]);
      const int ran = run_file(path);
      if (ran < 0) return 1;
      n += ran == 0;
    }
    free(entry);
  }
  printf("%d inputs\n", n);
  return n > 0 ? 0 : 1;
}
