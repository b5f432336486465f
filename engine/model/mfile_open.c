/* SPDX-License-Identifier: Apache-2.0 */
/* Finds out what a path means, and opens it: which files make up a model. Owns nothing once the weir_mfile is
 * handed out; calls the readers of both kinds and the operating system; one thread. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "model/gguf_index.h"
#include "model/hparams.h"
#include "model/mfile_in.h"

enum { NAME_BYTES = 256, MAX_PARTS = 1024, SUFFIX_BYTES = sizeof "-00001-of-00002.gguf" - 1 };

static bool ends_with(const char *s, const char *end) {
  const size_t n = strlen(s), k = strlen(end);
  return n >= k && !strcmp(s + n - k, end);
}

/* ---- GGUF ---- */

/* "...-00002-of-00003.gguf": which of how many. */
static bool part_of(const char *path, int *i, int *n) {
  const size_t len = strlen(path);
  int read = 0;
  if (len < SUFFIX_BYTES) return false;
  return sscanf(path + len - SUFFIX_BYTES, "-%5d-of-%5d.gguf%n", i, n, &read) == 2 && read == SUFFIX_BYTES;
}

/* The first part takes over the tensors of the others; what they point to stays with those. */
static weir_status take_tensors(weir_mfile *m, weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  weir_gguf_tensor *all = NULL;
  weir_strmap map = {0};
  int64_t n = m->gguf->n_tensors;
  for (int32_t i = 0; i < m->n_parts; i++) n += m->part[i]->n_tensors;
  if (n > WEIR_GGUF_MAX_TENSORS)
    return weir_fail(e, WEIR_EFORMAT, "%" PRId64 " tensors in all parts (limit %d)", n,
                     WEIR_GGUF_MAX_TENSORS);
  WEIR_TRY(WEIR_NEW((size_t)n, &all, e));
  WEIR_TRY(weir_strmap_init(&map, (size_t)n, e));
  n = 0;
  for (int32_t i = -1; i < m->n_parts; i++) {
    const weir_gguf *g = i < 0 ? m->gguf : m->part[i];
    for (int64_t k = 0; k < g->n_tensors; k++, n++) {
      all[n] = g->tensor[k];
      if (weir_strmap_add(&map, all[n].name, (int32_t)n) == (int32_t)n) continue;
      st = weir_fail(e, WEIR_EFORMAT, "tensor %s: stands in two parts", weir_str_show(all[n].name, shown));
      goto out;
    }
  }
  int64_t said;
  WEIR_TRY(weir_gguf_i64(m->gguf, "split.tensors.count", n, &said, e));
  if (said != n) {
    st = weir_fail(e, WEIR_EFORMAT, "key \"split.tensors.count\": %" PRId64 ", but the parts have %" PRId64,
                   said, n);
    goto out;
  }
  free(m->gguf->tensor);
  weir_strmap_fini(&m->gguf->tensor_map);
  m->gguf->tensor = all;
  m->gguf->n_tensors = n;
  m->gguf->tensor_map = map;
  all = NULL;
  map = (weir_strmap){0};
out:
  free(all);
  weir_strmap_fini(&map);
  return st;
}

/* llama.cpp's gguf-split: split.no counts from 0. */
weir_status weir_mfile_join_parts(weir_mfile *m, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  char *name = NULL;
  int64_t count, no;
  int i, n;
  WEIR_TRY(weir_gguf_i64(m->gguf, "split.count", 1, &count, e));
  if (count <= 1) return WEIR_OK;
  WEIR_TRY(weir_gguf_i64(m->gguf, "split.no", 0, &no, e));
  if (count > MAX_PARTS) return weir_fail(e, WEIR_EFORMAT, "%" PRId64 " parts (limit %d)", count, MAX_PARTS);
  if (no != 0)
    return weir_fail(e, WEIR_EINVAL, "part %" PRId64 " of %" PRId64 " of a split file: name the first one",
                     no + 1, count);
  if (!part_of(path, &i, &n) || i != 1 || n != count)
    return weir_fail(e, WEIR_EFORMAT,
                     "the first of %" PRId64 " parts, but it is not called ...-00001-of-%05" PRId64 ".gguf",
                     count, count);
  WEIR_TRY(WEIR_NEW((size_t)count - 1, &m->part, e));
  WEIR_TRY(WEIR_NEW(strlen(path) + 1, &name, e));
  strcpy(name, path);
  for (int64_t k = 1; k < count; k++) {
    char suffix[48];
    snprintf(suffix, sizeof suffix, "-%05d-of-%05d.gguf", (int)k + 1, n);
    memcpy(name + strlen(path) - SUFFIX_BYTES, suffix, SUFFIX_BYTES); /* both numbers have five digits */
    WEIR_TRY(weir_gguf_open(name, &m->part[m->n_parts], e));
    const weir_gguf *g = m->part[m->n_parts++];
    int64_t of;
    WEIR_TRY(weir_gguf_i64(g, "split.no", -1, &no, e));
    WEIR_TRY(weir_gguf_i64(g, "split.count", -1, &of, e));
    if (no != k || of != count) {
      st = weir_fail(e, WEIR_EFORMAT, "%s: says it is part %" PRId64 " of %" PRId64, name, no + 1, of);
      goto out;
    }
  }
  WEIR_TRY(take_tensors(m, e));
out:
  free(name);
  return st;
}

static weir_status open_gguf(const char *path, weir_mfile *m, weir_err *e) {
  weir_status st = weir_gguf_open(path, &m->gguf, e);
  if (st != WEIR_OK) {
    if (ends_with(path, ".bin") || ends_with(path, ".pth") || ends_with(path, ".pt"))
      st =
          weir_fail(e, WEIR_EUNSUP, "%s: weights as PyTorch pickles them: convert them to safetensors", path);
    return st;
  }
  st = weir_mfile_join_parts(m, path, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "%s", path);
}

/* ---- Hugging Face ---- */

/* Before the weights: an architecture weir does not have is told by name, and not by its tensors'. */
static weir_status open_weights(weir_mfile *m, weir_err *e) {
  weir_hparams h;
  const weir_status st = weir_hparams_from_hf(m->hf, &h, e);
  return st == WEIR_OK ? weir_hf_weights_open(m->hf, &h, &m->weights, e) : st;
}

static weir_status open_hf(const char *dir, weir_mfile *m, weir_err *e) {
  weir_status st = weir_hf_open(dir, &m->hf, e);
  if (st != WEIR_OK) return st;
  weir_err inner = {0};
  st = open_weights(m, &inner);
  if (st == WEIR_OK) return st;
  /* a shard that does not open has said its path already */
  const size_t n = strlen(weir_hf_path(m->hf));
  const bool named = !strncmp(inner.msg, weir_hf_path(m->hf), n) && inner.msg[n] == '/';
  return weir_fail(e, st, "%s%s%s", named ? "" : dir, named ? "" : ": ", inner.msg);
}

weir_status weir_mfile_parse_hf(const weir_hf_part *part, int32_t n_parts, weir_mfile **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mfile *m = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &m, e));
  WEIR_TRY(weir_hf_parse(part, n_parts, &m->hf, e));
  WEIR_TRY(open_weights(m, e));
  *out = m;
  m = NULL;
out:
  weir_mfile_close(m);
  return st;
}

/* ---- what a path means ---- */

typedef struct listing {
  bool config, safetensors, pickles;
  int32_t n_gguf; /* models: of a split one the first part */
  char gguf[NAME_BYTES];
} listing;

static weir_status list_dir(const char *dir, listing *l, weir_err *e) {
  DIR *d = opendir(dir);
  if (!d) return weir_fail(e, WEIR_EIO, "%s: %s", dir, strerror(errno));
  *l = (listing){0};
  for (const struct dirent *x; (x = readdir(d));) {
    int i, n;
    const char *s = x->d_name;
    l->config = l->config || !strcmp(s, "config.json");
    l->safetensors = l->safetensors || ends_with(s, ".safetensors");
    l->pickles = l->pickles || ends_with(s, ".bin") || ends_with(s, ".pth") || ends_with(s, ".pt");
    if (!ends_with(s, ".gguf") || (part_of(s, &i, &n) && i != 1) || strlen(s) >= sizeof l->gguf) continue;
    if (!strncmp(s, "mmproj", 6)) continue; /* llama.cpp's name for the part that sees pictures */
    if (l->n_gguf++ == 0 || strcmp(s, l->gguf) < 0) strcpy(l->gguf, s);
  }
  closedir(d);
  return WEIR_OK;
}

static weir_status open_dir(const char *dir, weir_mfile *m, weir_err *e) {
  listing l;
  char *path;
  weir_status st = list_dir(dir, &l, e);
  if (st != WEIR_OK) return st;
  if (l.config && (l.safetensors || l.n_gguf == 0)) return open_hf(dir, m, e);
  if (l.n_gguf == 0 && l.pickles)
    return weir_fail(
        e, WEIR_EUNSUP,
        "%s: neither config.json nor a GGUF file; weights as PyTorch pickles them have to be converted", dir);
  if (l.n_gguf == 0) return weir_fail(e, WEIR_EFORMAT, "%s: neither config.json nor a GGUF file there", dir);
  if (l.n_gguf > 1)
    return weir_fail(e, WEIR_EINVAL, "%s: %" PRId32 " GGUF files there: name one of them", dir, l.n_gguf);
  const size_t n = strlen(dir) + strlen(l.gguf) + 2;
  st = WEIR_NEW(n, &path, e);
  if (st != WEIR_OK) return st;
  snprintf(path, n, "%s/%s", dir, l.gguf);
  st = open_gguf(path, m, e);
  free(path);
  return st;
}

/* The directory of a file that stands for its whole directory. */
static weir_status open_dir_of(const char *path, weir_mfile *m, weir_err *e) {
  char *dir;
  const char *slash = strrchr(path, '/');
  const size_t n = slash ? (size_t)(slash - path) : 0;
  weir_status st = WEIR_NEW(n + 2, &dir, e);
  if (st != WEIR_OK) return st;
  if (!slash)
    strcpy(dir, ".");
  else
    memcpy(dir, path, n ? n : 1); /* "/config.json" */
  st = open_hf(dir, m, e);
  free(dir);
  return st;
}

static weir_status open_any(const char *path, weir_mfile *m, weir_err *e) {
  struct stat info;
  if (stat(path, &info) != 0) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  if (S_ISDIR(info.st_mode)) return open_dir(path, m, e);
  if (ends_with(path, ".json") || ends_with(path, ".safetensors")) return open_dir_of(path, m, e);
  return open_gguf(path, m, e);
}

weir_status weir_mfile_open(const char *path, weir_mfile **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mfile *m = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &m, e));
  WEIR_TRY(open_any(path, m, e));
  *out = m;
  m = NULL;
out:
  weir_mfile_close(m);
  return st;
}
