/* SPDX-License-Identifier: Apache-2.0 */
/* Hugging Face directories. Owns the mappings of their files and what was parsed of the small ones; calls the
 * operating system, jansson; one thread while opening, then read-only. */
#include "model/hf.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/filemap.h"
#include "model/json.h"

enum { NAME_BYTES = 256 };

typedef struct file {
  char name[NAME_BYTES];
  weir_str bytes;
  weir_filemap map; /* of a directory on disk */
} file;

struct weir_hf {
  char *dir;                /* NULL: in memory */
  const weir_hf_part *part; /* [n_parts], of one in memory */
  int32_t n_parts;
  file *file; /* [n_files], of room for cap; those that were asked for */
  int32_t n_files, cap;
  json_t *config, *generation, *tokenizer_config;
};

/* What is mapped at once; all but the first may be absent. */
static const struct {
  const char *name;
  size_t max_bytes;
} known[] = {
    {"config.json", WEIR_HF_MAX_JSON_BYTES},
    {"generation_config.json", WEIR_HF_MAX_JSON_BYTES},
    {"tokenizer_config.json", WEIR_HF_MAX_JSON_BYTES},
    {"tokenizer.json", WEIR_HF_MAX_TOKENIZER_BYTES},
    {"tokenizer.model", WEIR_HF_MAX_TOKENIZER_BYTES},
    {"vocab.json", WEIR_HF_MAX_TOKENIZER_BYTES},
    {"merges.txt", WEIR_HF_MAX_TOKENIZER_BYTES},
    {"added_tokens.json", WEIR_HF_MAX_JSON_BYTES},
    {"special_tokens_map.json", WEIR_HF_MAX_JSON_BYTES},
    {"quantize_config.json", WEIR_HF_MAX_JSON_BYTES},
    {"quant_config.json", WEIR_HF_MAX_JSON_BYTES},
    {"chat_template.jinja", WEIR_HF_MAX_TEMPLATE_BYTES},
    {"chat_template.json", WEIR_HF_MAX_TEMPLATE_BYTES},
};
enum { N_KNOWN = sizeof known / sizeof *known };

static const file *find(const weir_hf *hf, const char *name) {
  for (int32_t i = 0; i < hf->n_files; i++)
    if (!strcmp(hf->file[i].name, name)) return &hf->file[i];
  return NULL;
}

static const weir_hf_part *find_part(const weir_hf *hf, const char *name) {
  for (int32_t i = 0; i < hf->n_parts; i++)
    if (!strcmp(hf->part[i].name, name)) return &hf->part[i];
  return NULL;
}

static weir_status path_of(const weir_hf *hf, const char *name, char **out, weir_err *e) {
  const size_t n = strlen(hf->dir) + strlen(name) + 2;
  const weir_status st = WEIR_NEW(n, out, e);
  if (st == WEIR_OK) snprintf(*out, n, "%s/%s", hf->dir, name);
  return st;
}

bool weir_hf_has(const weir_hf *hf, const char *name) {
  char *path;
  if (!hf->dir) return find_part(hf, name) != NULL;
  if (path_of(hf, name, &path, NULL) != WEIR_OK) return false;
  const bool there = access(path, F_OK) == 0;
  free(path);
  return there;
}

/* Names come from an index file too: nothing that leads out of the directory. */
static weir_status check_name(const char *name, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const size_t n = strlen(name);
  bool fine = n > 0 && n < NAME_BYTES && name[0] != '.';
  for (size_t i = 0; fine && i < n; i++) {
    const unsigned char c = (unsigned char)name[i];
    fine = c >= 0x20 && c != 0x7f && c != '/' && c != '\\';
  }
  if (fine) return WEIR_OK;
  return weir_fail(e, WEIR_EFORMAT, "%s is not the plain name of a file of the directory",
                   weir_str_show((weir_str){name, n}, shown));
}

static weir_status grow(weir_hf *hf, weir_err *e) {
  if (hf->n_files < hf->cap) return WEIR_OK;
  if (hf->n_files >= WEIR_HF_MAX_FILES)
    return weir_fail(e, WEIR_EFORMAT, "more than %d files", WEIR_HF_MAX_FILES);
  file *more;
  const int32_t cap = hf->cap ? 2 * hf->cap : 16;
  const weir_status st = WEIR_NEW((size_t)cap, &more, e);
  if (st != WEIR_OK) return st;
  if (hf->n_files > 0) memcpy(more, hf->file, (size_t)hf->n_files * sizeof *more);
  free(hf->file);
  hf->file = more;
  hf->cap = cap;
  return WEIR_OK;
}

weir_status weir_hf_map(weir_hf *hf, const char *name, size_t max_bytes, weir_str *out, weir_err *e) {
  weir_status st = WEIR_OK;
  char *path = NULL;
  const file *have = find(hf, name);
  if (have) {
    *out = have->bytes;
    return WEIR_OK;
  }
  *out = (weir_str){NULL, 0};
  WEIR_TRY(check_name(name, e));
  WEIR_TRY(grow(hf, e));
  file f = {{0}, {NULL, 0}, {NULL, 0}};
  snprintf(f.name, sizeof f.name, "%s", name);
  if (hf->dir) {
    WEIR_TRY(path_of(hf, name, &path, e));
    WEIR_TRY(weir_filemap_open(path, max_bytes, &f.map, e));
    f.bytes = (weir_str){(const char *)f.map.data, f.map.len};
  } else {
    const weir_hf_part *p = find_part(hf, name);
    if (!p) return weir_fail(e, WEIR_EIO, "%s: no such file", name);
    if (p->bytes.len == 0) return weir_fail(e, WEIR_EFORMAT, "%s: the file is empty", name);
    if (p->bytes.len > max_bytes)
      return weir_fail(e, WEIR_EFORMAT, "%s: %zu bytes (limit %zu)", name, p->bytes.len, max_bytes);
    f.bytes = p->bytes;
  }
  hf->file[hf->n_files++] = f;
  *out = f.bytes;
out:
  free(path);
  return st;
}

/* One of the parsed files; NULL when absent. */
static weir_status parse(const weir_hf *hf, const char *name, json_t **out, weir_err *e) {
  const weir_str text = weir_hf_file(hf, name);
  *out = NULL;
  if (!text.data) return WEIR_OK;
  const weir_status st = weir_json_parse_object(text, out, e);
  if (st == WEIR_OK) return st;
  return hf->dir ? weir_fail_ctx(e, st, "%s/%s", hf->dir, name) : weir_fail_ctx(e, st, "%s", name);
}

static weir_status read_files(weir_hf *hf, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int i = 0; i < N_KNOWN; i++) {
    weir_str unused;
    if (i == 0 || weir_hf_has(hf, known[i].name))
      WEIR_TRY(weir_hf_map(hf, known[i].name, known[i].max_bytes, &unused, e));
  }
  WEIR_TRY(parse(hf, "config.json", &hf->config, e));
  WEIR_TRY(parse(hf, "generation_config.json", &hf->generation, e));
  WEIR_TRY(parse(hf, "tokenizer_config.json", &hf->tokenizer_config, e));
out:
  return st;
}

weir_status weir_hf_open(const char *dir, weir_hf **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hf *hf = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &hf, e));
  size_t n = strlen(dir);
  while (n > 1 && dir[n - 1] == '/') n--;
  WEIR_TRY(WEIR_NEW(n + 1, &hf->dir, e));
  memcpy(hf->dir, dir, n);
  WEIR_TRY(read_files(hf, e));
  *out = hf;
  hf = NULL;
out:
  weir_hf_close(hf);
  return st;
}

weir_status weir_hf_parse(const weir_hf_part *part, int32_t n_parts, weir_hf **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hf *hf = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &hf, e));
  hf->part = part;
  hf->n_parts = n_parts;
  WEIR_TRY(read_files(hf, e));
  *out = hf;
  hf = NULL;
out:
  weir_hf_close(hf);
  return st;
}

void weir_hf_close(weir_hf *hf) {
  if (!hf) return;
  for (int32_t i = 0; i < hf->n_files; i++) weir_filemap_close(&hf->file[i].map);
  json_decref(hf->config);
  json_decref(hf->generation);
  json_decref(hf->tokenizer_config);
  free(hf->file);
  free(hf->dir);
  free(hf);
}

const json_t *weir_hf_config(const weir_hf *hf) { return hf->config; }
const json_t *weir_hf_generation(const weir_hf *hf) { return hf->generation; }
const json_t *weir_hf_tokenizer_config(const weir_hf *hf) { return hf->tokenizer_config; }
const char *weir_hf_path(const weir_hf *hf) { return hf->dir ? hf->dir : ""; }

weir_str weir_hf_file(const weir_hf *hf, const char *name) {
  const file *f = find(hf, name);
  return f ? f->bytes : (weir_str){NULL, 0};
}

static void count_one(const char *name, const char *ending, int32_t *n, char first[NAME_BYTES]) {
  const size_t len = strlen(name), end = strlen(ending);
  if (len < end || len >= NAME_BYTES || strcmp(name + len - end, ending) != 0) return;
  if (*n == 0 || strcmp(name, first) < 0) snprintf(first, NAME_BYTES, "%s", name);
  (*n)++;
}

weir_status weir_hf_count(const weir_hf *hf, const char *ending, int32_t *n, char first[256], weir_err *e) {
  *n = 0;
  first[0] = '\0';
  for (int32_t i = 0; i < hf->n_parts; i++) count_one(hf->part[i].name, ending, n, first);
  if (!hf->dir) return WEIR_OK;
  DIR *d = opendir(hf->dir);
  if (!d) return weir_fail(e, WEIR_EIO, "%s: %s", hf->dir, strerror(errno));
  for (struct dirent *x; (x = readdir(d));) count_one(x->d_name, ending, n, first);
  closedir(d);
  return WEIR_OK;
}
