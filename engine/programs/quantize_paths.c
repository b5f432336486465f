/* SPDX-License-Identifier: Apache-2.0 */
/* Which file `weir quantize` may write: never one of those it reads. Files are told apart by device and
 * inode, as one has many names. Owns nothing beyond its calls; looks at directories, opens no file; main
 * thread. */
#define _GNU_SOURCE /* fstatat, dirfd */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "programs/quantize.h"

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool ends_with(const char *s, const char *end) {
  const size_t n = strlen(s), k = strlen(end);
  return n >= k && !strcmp(s + n - k, end);
}

/* Whether two names are parts of one split GGUF file: "...-00001-of-00003.gguf" and the same with another
 * first number. */
static bool same_set(const char *a, const char *b) {
  enum { SUFFIX = sizeof "-00001-of-00003.gguf" - 1, DIGITS = 5 };
  const size_t n = strlen(a);
  if (n < SUFFIX || n != strlen(b) || !ends_with(a, ".gguf")) return false;
  const size_t at = n - SUFFIX + 1, behind = at + DIGITS;
  return a[at - 1] == '-' && !strncmp(a + behind, "-of-", 4) && !memcmp(a, b, at) &&
         !strcmp(a + behind, b + behind);
}

/* Refuses OUT when it is a file of the directory: any of them with `part` NULL, else one of the set that
 * `part` belongs to. A directory that cannot be read is told when the model is opened. */
static weir_status check_directory(const char *dir, const char *part, const char *in, const char *out,
                                   const struct stat *out_info, weir_err *e) {
  weir_status st = WEIR_OK;
  DIR *d = opendir(dir);
  if (!d) return WEIR_OK;
  for (const struct dirent *x; st == WEIR_OK && (x = readdir(d));) {
    struct stat info;
    if ((part && !same_set(part, x->d_name)) || fstatat(dirfd(d), x->d_name, &info, 0) != 0) continue;
    if (same_file(&info, out_info))
      st = weir_fail(e, WEIR_EINVAL, part ? "%s is a part of %s" : "%s is one of the files of %s", out, in);
  }
  closedir(d);
  return st;
}

/* What the path of a model stands for is what weir_mfile_open takes it for. */
static weir_status check_sources(const char *in, const char *out, const struct stat *out_info, weir_err *e) {
  weir_status st = WEIR_OK;
  struct stat info;
  char *dir;
  if (stat(in, &info) != 0) return WEIR_OK; /* told when it is opened */
  if (same_file(&info, out_info)) return weir_fail(e, WEIR_EINVAL, "%s and %s are the same file", in, out);
  if (S_ISDIR(info.st_mode)) return check_directory(in, NULL, in, out, out_info, e);
  const char *slash = strrchr(in, '/'), *base = slash ? slash + 1 : in;
  const size_t n = (size_t)(base - in);
  st = WEIR_NEW(n + 2, &dir, e);
  if (st != WEIR_OK) return st;
  if (slash)
    memcpy(dir, in, n);
  else
    strcpy(dir, ".");
  const bool whole = ends_with(in, ".json") || ends_with(in, ".safetensors");
  st = check_directory(dir, whole ? NULL : base, in, out, out_info, e);
  free(dir);
  return st;
}

weir_status weir_quantize_paths(const weir_config *c, const char **in, const char **out, weir_err *e) {
  int32_t n;
  const char *const *path = weir_config_operands(c, &n);
  const bool dry = weir_config_bool(c, "dry-run"), force = weir_config_bool(c, "force");
  if (n != 2 && !(dry && n == 1))
    return weir_fail(e, WEIR_EINVAL, "want a model and the file to write, got %d %s", n,
                     n == 1 ? "path" : "paths");
  *in = path[0];
  *out = n == 2 ? path[1] : NULL;
  if (!**in) return weir_fail(e, WEIR_EINVAL, "the path of the model is empty");
  if (!*out) return WEIR_OK;
  if (!**out) return weir_fail(e, WEIR_EINVAL, "the path of the file to write is empty");
  struct stat info;
  const bool is_file = stat(*out, &info) == 0 && S_ISREG(info.st_mode); /* others are refused by the writer */
  const weir_status st = is_file ? check_sources(*in, *out, &info, e) : WEIR_OK;
  if (st != WEIR_OK) return st;
  if (!force && lstat(*out, &info) == 0)
    return weir_fail(e, WEIR_EINVAL, "%s is there already; --force replaces it", *out);
  return WEIR_OK;
}
