/* SPDX-License-Identifier: Apache-2.0 */
/* Model files of either kind behind one face. Owns the open file; calls the readers of the two kinds; any
 * thread, read-only once open. */
#include "model/mfile.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct weir_mfile {
  weir_gguf *gguf;
};

static weir_status wrap(weir_gguf *g, weir_mfile **out, weir_err *e) {
  const weir_status st = WEIR_NEW(1, out, e);
  if (st == WEIR_OK)
    (*out)->gguf = g;
  else
    weir_gguf_close(g);
  return st;
}

weir_status weir_mfile_open(const char *path, weir_mfile **out, weir_err *e) {
  weir_gguf *g;
  *out = NULL;
  const weir_status st = weir_gguf_open(path, &g, e);
  return st == WEIR_OK ? wrap(g, out, e) : st;
}

weir_status weir_mfile_parse_gguf(const void *data, size_t len, weir_mfile **out, weir_err *e) {
  weir_gguf *g;
  *out = NULL;
  const weir_status st = weir_gguf_parse(data, len, &g, e);
  return st == WEIR_OK ? wrap(g, out, e) : st;
}

void weir_mfile_close(weir_mfile *m) {
  if (!m) return;
  weir_gguf_close(m->gguf);
  free(m);
}

const weir_gguf *weir_mfile_gguf(const weir_mfile *m) { return m->gguf; }
const weir_hf *weir_mfile_hf(const weir_mfile *m) {
  (void)m;
  return NULL;
}

static void info_of(const weir_gguf_tensor *t, weir_tensor_info *out) {
  *out = (weir_tensor_info){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .bytes = t->bytes};
  memcpy(out->dim, t->dim, sizeof out->dim);
}

int64_t weir_mfile_n_tensors(const weir_mfile *m) { return weir_gguf_n_tensors(m->gguf); }
void weir_mfile_tensor_at(const weir_mfile *m, int64_t i, weir_tensor_info *out) {
  info_of(weir_gguf_tensor_at(m->gguf, i), out);
}

bool weir_mfile_find(const weir_mfile *m, const char *name, weir_tensor_info *out) {
  const weir_gguf_tensor *t = weir_gguf_find(m->gguf, name);
  if (t && out) info_of(t, out);
  return t != NULL;
}

weir_status weir_mfile_read(const weir_mfile *m, const char *name, weir_tensor *out, weir_err *e) {
  *out = (weir_tensor){0};
  const weir_gguf_tensor *t = weir_gguf_find(m->gguf, name);
  if (!t) return weir_fail(e, WEIR_EFORMAT, "tensor %s is missing", name);
  info_of(t, &out->info);
  out->data = t->data;
  return WEIR_OK;
}

void weir_tensor_release(weir_tensor *t) {
  free(t->own);
  *t = (weir_tensor){0};
}
