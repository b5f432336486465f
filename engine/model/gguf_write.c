/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming writer of GGUF files (format: ggml's docs/gguf.md). Owns the file under its temporary name until
 * it is finished, and copies of what was declared; may call base, kernels/dtype and the string map; one
 * thread. */
#define _GNU_SOURCE /* fallocate, renameat2 */
#include "model/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "model/gguf_index.h"

enum { DEFAULT_ALIGNMENT = 32, MIN_ALIGNMENT = 8, HEADER_BYTES = 4 + 4 + 8 + 8 };

/* Names seen so far, to find one that comes twice. */
typedef struct names {
  weir_strmap map;
  char **name; /* [n], owned, as is each: the map borrows them */
  size_t n, cap;
} names;

typedef struct planned {
  weir_str name; /* borrowed from the names */
  uint32_t id;   /* the type's number */
  int32_t n_dims;
  int64_t dim[WEIR_GGUF_MAX_DIMS];
  uint64_t bytes;
} planned;

struct weir_gguf_writer {
  char *path, *part; /* owned; part NULL: there is no file to remove */
  bool replace, begun;
  bool nowhere; /* declared and added up alone */
  int fd;       /* -1: none */
  weir_buf keys;
  int64_t n_keys;
  uint64_t alignment;
  names key_names, tensor_names;
  planned *tensor; /* [tensor_names.cap], owned */
  int64_t n_tensors;
  int64_t at;      /* the tensor that data goes to */
  uint64_t done;   /* bytes of it that are there */
  uint64_t offset; /* in the file */
};

static weir_status fail_io(const weir_gguf_writer *w, const char *what, weir_err *e) {
  return weir_fail(e, WEIR_EIO, "%s: %s: %s", w->path, what, strerror(errno));
}

/* ---- names ---- */

static void names_fini(names *s) {
  weir_strmap_fini(&s->map);
  for (size_t i = 0; i < s->n; i++) free(s->name[i]);
  free(s->name);
}

static weir_status names_grow(names *s, weir_err *e) {
  const size_t cap = s->cap ? 2 * s->cap : 64; /* n is bounded by the format's limits */
  weir_strmap map = {0};
  weir_status st = weir_strmap_init(&map, cap, e);
  if (st != WEIR_OK) return st;
  char **p = realloc(s->name, cap * sizeof *p);
  if (!p) {
    weir_strmap_fini(&map);
    return weir_fail(e, WEIR_ENOMEM, "cannot allocate %zu names", cap);
  }
  for (size_t i = 0; i < s->n; i++) weir_strmap_add(&map, weir_str_of(p[i]), (int32_t)i);
  weir_strmap_fini(&s->map);
  s->map = map;
  s->name = p;
  s->cap = cap;
  return WEIR_OK;
}

/* Adds a name; `kind` and the bound are for the messages. *out is the copy. */
static weir_status names_add(const weir_gguf_writer *w, names *s, weir_str name, const char *kind, size_t max,
                             size_t max_n, weir_str *out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const char *fault = name.len == 0                         ? "is empty"
                      : name.len > max                      ? "is too long"
                      : memchr(name.data, '\0', name.len)   ? "contains a NUL byte"
                      : s->n >= max_n                       ? "is one too many"
                      : weir_strmap_get(&s->map, name) >= 0 ? "comes twice"
                                                            : NULL;
  if (fault)
    return weir_fail(e, WEIR_EINVAL, "%s: %s %s: the name %s", w->path, kind, weir_str_show(name, shown),
                     fault);
  weir_status st = s->n == s->cap ? names_grow(s, e) : WEIR_OK;
  if (st != WEIR_OK) return st;
  char *copy = malloc(name.len + 1);
  if (!copy) return weir_fail(e, WEIR_ENOMEM, "cannot allocate a name");
  memcpy(copy, name.data, name.len);
  copy[name.len] = '\0';
  s->name[s->n] = copy;
  weir_strmap_add(&s->map, (weir_str){copy, name.len}, (int32_t)s->n);
  s->n++;
  if (out) *out = (weir_str){copy, name.len};
  return WEIR_OK;
}

/* ---- little-endian pieces ---- */

static weir_status put_int(weir_buf *b, uint64_t v, size_t bytes, weir_err *e) {
  uint8_t le[8];
  for (size_t i = 0; i < bytes; i++) le[i] = (uint8_t)(v >> (8 * i));
  return weir_buf_put(b, le, bytes, e);
}

static weir_status put_str(weir_buf *b, weir_str s, weir_err *e) {
  weir_status st = put_int(b, s.len, 8, e);
  return st == WEIR_OK ? weir_buf_put(b, s.data, s.len, e) : st;
}

static uint32_t bits_of(float v) {
  uint32_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}

/* ---- keys ---- */

static weir_status begin_key(weir_gguf_writer *w, weir_str key, weir_gguf_type type, weir_err *e) {
  weir_status st = WEIR_OK;
  if (w->begun) return weir_fail(e, WEIR_EINVAL, "%s: a key after the header", w->path);
  WEIR_TRY(names_add(w, &w->key_names, key, "key", WEIR_GGUF_MAX_KEY_BYTES, WEIR_GGUF_MAX_KEYS, NULL, e));
  WEIR_TRY(put_str(&w->keys, key, e));
  WEIR_TRY(put_int(&w->keys, type, 4, e));
  w->n_keys++;
out:
  return st;
}

static weir_status begin_array(weir_gguf_writer *w, weir_str key, weir_gguf_type elem, uint64_t n,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(begin_key(w, key, WEIR_GGUF_ARRAY, e));
  WEIR_TRY(put_int(&w->keys, elem, 4, e));
  WEIR_TRY(put_int(&w->keys, n, 8, e));
out:
  return st;
}

static weir_status put_scalar(weir_gguf_writer *w, const char *key, weir_gguf_type type, uint64_t bits,
                              weir_err *e) {
  const weir_status st = begin_key(w, weir_str_of(key), type, e);
  return st == WEIR_OK ? put_int(&w->keys, bits, weir_gguf_type_bytes(type), e) : st;
}

static weir_status set_alignment(weir_gguf_writer *w, uint64_t a, weir_err *e) {
  if (a < MIN_ALIGNMENT || a > WEIR_GGUF_MAX_ALIGNMENT || (a & (a - 1)) != 0)
    return weir_fail(e, WEIR_EINVAL, "%s: general.alignment: %" PRIu64 " (a power of two, %d to %d)", w->path,
                     a, MIN_ALIGNMENT, WEIR_GGUF_MAX_ALIGNMENT);
  w->alignment = a;
  return WEIR_OK;
}

static const char alignment_key[] = "general.alignment";

weir_status weir_gguf_writer_copy(weir_gguf_writer *w, const weir_gguf *from, int64_t i, weir_err *e) {
  weir_status st = WEIR_OK;
  if (i < 0 || i >= from->n_keys)
    return weir_fail(e, WEIR_EINVAL, "key %" PRId64 " of %" PRId64, i, from->n_keys);
  const weir_gguf_entry *k = &from->entry[i];
  if (weir_str_eq(k->key,
                  weir_str_of(alignment_key))) { /* the reader takes any integer; the format says u32 */
    int64_t a;
    WEIR_TRY(weir_gguf_i64(from, alignment_key, DEFAULT_ALIGNMENT, &a, e));
    WEIR_TRY(weir_gguf_writer_u32(w, alignment_key, (uint32_t)a, e));
    return st;
  }
  if (k->type == WEIR_GGUF_ARRAY)
    WEIR_TRY(begin_array(w, k->key, k->elem, k->n, e));
  else
    WEIR_TRY(begin_key(w, k->key, k->type, e));
  if (k->type == WEIR_GGUF_STR) WEIR_TRY(put_int(&w->keys, k->value_bytes, 8, e));
  WEIR_TRY(weir_buf_put(&w->keys, k->value, k->value_bytes, e));
out:
  return st;
}

weir_status weir_gguf_writer_u32(weir_gguf_writer *w, const char *key, uint32_t v, weir_err *e) {
  const weir_status st = strcmp(key, alignment_key) == 0 ? set_alignment(w, v, e) : WEIR_OK;
  return st == WEIR_OK ? put_scalar(w, key, WEIR_GGUF_U32, v, e) : st;
}
weir_status weir_gguf_writer_i32(weir_gguf_writer *w, const char *key, int32_t v, weir_err *e) {
  return put_scalar(w, key, WEIR_GGUF_I32, (uint32_t)v, e);
}
weir_status weir_gguf_writer_u64(weir_gguf_writer *w, const char *key, uint64_t v, weir_err *e) {
  return put_scalar(w, key, WEIR_GGUF_U64, v, e);
}
weir_status weir_gguf_writer_f32(weir_gguf_writer *w, const char *key, float v, weir_err *e) {
  return put_scalar(w, key, WEIR_GGUF_F32, bits_of(v), e);
}
weir_status weir_gguf_writer_bool(weir_gguf_writer *w, const char *key, bool v, weir_err *e) {
  return put_scalar(w, key, WEIR_GGUF_BOOL, v, e);
}
weir_status weir_gguf_writer_str(weir_gguf_writer *w, const char *key, weir_str v, weir_err *e) {
  const weir_status st = begin_key(w, weir_str_of(key), WEIR_GGUF_STR, e);
  return st == WEIR_OK ? put_str(&w->keys, v, e) : st;
}

weir_status weir_gguf_writer_strs(weir_gguf_writer *w, const char *key, const weir_str *v, int64_t n,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  if (n < 0 || n > WEIR_GGUF_MAX_STRINGS)
    return weir_fail(e, WEIR_EINVAL, "%s: key %s: %" PRId64 " strings", w->path, key, n);
  WEIR_TRY(begin_array(w, weir_str_of(key), WEIR_GGUF_STR, (uint64_t)n, e));
  for (int64_t i = 0; i < n; i++) WEIR_TRY(put_str(&w->keys, v[i], e));
out:
  return st;
}

weir_status weir_gguf_writer_i32s(weir_gguf_writer *w, const char *key, const int32_t *v, int64_t n,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  if (n < 0) return weir_fail(e, WEIR_EINVAL, "%s: key %s: %" PRId64 " elements", w->path, key, n);
  WEIR_TRY(begin_array(w, weir_str_of(key), WEIR_GGUF_I32, (uint64_t)n, e));
  for (int64_t i = 0; i < n; i++) WEIR_TRY(put_int(&w->keys, (uint32_t)v[i], 4, e));
out:
  return st;
}

weir_status weir_gguf_writer_f32s(weir_gguf_writer *w, const char *key, const float *v, int64_t n,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  if (n < 0) return weir_fail(e, WEIR_EINVAL, "%s: key %s: %" PRId64 " elements", w->path, key, n);
  WEIR_TRY(begin_array(w, weir_str_of(key), WEIR_GGUF_F32, (uint64_t)n, e));
  for (int64_t i = 0; i < n; i++) WEIR_TRY(put_int(&w->keys, bits_of(v[i]), 4, e));
out:
  return st;
}

/* ---- tensors ---- */

static weir_status fail_tensor(const weir_gguf_writer *w, weir_str name, const char *what, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, WEIR_EINVAL, "%s: tensor %s: %s", w->path, weir_str_show(name, shown), what);
}

/* Bytes of a tensor; also that the product of its dimensions fits, as the reader asks. */
static weir_status size_of(const weir_gguf_writer *w, weir_str name, weir_dtype t, int32_t n_dims,
                           const int64_t *dim, uint64_t *out, weir_err *e) {
  size_t bytes;
  int64_t elements = 1;
  for (int32_t d = 0; d < n_dims; d++)
    if (dim[d] < 1 || __builtin_mul_overflow(elements, dim[d], &elements))
      return fail_tensor(w, name, "a dimension below 1, or their product overflows", e);
  weir_status st = weir_dtype_row_bytes(t, dim[0], &bytes, e);
  if (st != WEIR_OK) {
    char shown[WEIR_STR_SHOW_BYTES];
    return weir_fail_ctx(e, st, "%s: tensor %s", w->path, weir_str_show(name, shown));
  }
  for (int32_t d = 1; d < n_dims; d++)
    if (!weir_mul_size(bytes, (size_t)dim[d], &bytes))
      return fail_tensor(w, name, "its size in bytes overflows", e);
  *out = bytes;
  return WEIR_OK;
}

weir_status weir_gguf_writer_tensor(weir_gguf_writer *w, weir_str name, weir_dtype t, int32_t n_dims,
                                    const int64_t *dim, weir_err *e) {
  weir_status st = WEIR_OK;
  planned p = {.n_dims = n_dims};
  if (w->begun) return fail_tensor(w, name, "declared after the header", e);
  if (n_dims < 1 || n_dims > WEIR_GGUF_MAX_DIMS) return fail_tensor(w, name, "1 to 4 dimensions", e);
  if (!weir_gguf_dtype_id(t, &p.id)) return fail_tensor(w, name, "GGUF has no such type", e);
  WEIR_TRY(size_of(w, name, t, n_dims, dim, &p.bytes, e));
  for (int32_t d = 0; d < n_dims; d++) p.dim[d] = dim[d];
  WEIR_TRY(names_add(w, &w->tensor_names, name, "tensor", WEIR_GGUF_WRITE_NAME_BYTES, WEIR_GGUF_MAX_TENSORS,
                     &p.name, e));
  planned *grown = realloc(w->tensor, w->tensor_names.cap * sizeof *grown);
  if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot allocate %zu tensors", w->tensor_names.cap);
  w->tensor = grown;
  w->tensor[w->n_tensors++] = p;
out:
  return st;
}

/* x rounded up to the alignment; false on overflow. */
static bool align_up(const weir_gguf_writer *w, uint64_t x, uint64_t *out) {
  if (__builtin_add_overflow(x, w->alignment - 1, &x)) return false;
  *out = x & ~(w->alignment - 1);
  return true;
}

/* The tensors' part of the header into `infos`, the end of the header into *begin, of the file into *end. */
static weir_status lay_out(const weir_gguf_writer *w, weir_buf *infos, uint64_t *begin, uint64_t *end,
                           weir_err *e) {
  weir_status st = WEIR_OK;
  uint64_t at = 0;
  for (int64_t i = 0; i < w->n_tensors; i++) {
    const planned *p = &w->tensor[i];
    WEIR_TRY(put_str(infos, p->name, e));
    WEIR_TRY(put_int(infos, (uint32_t)p->n_dims, 4, e));
    for (int32_t d = 0; d < p->n_dims; d++) WEIR_TRY(put_int(infos, (uint64_t)p->dim[d], 8, e));
    WEIR_TRY(put_int(infos, p->id, 4, e));
    WEIR_TRY(put_int(infos, at, 8, e));
    if (__builtin_add_overflow(at, p->bytes, &at) || !align_up(w, at, &at))
      return fail_tensor(w, p->name, "the size of the file overflows", e);
  }
  if (!align_up(w, (uint64_t)HEADER_BYTES + w->keys.len + infos->len, begin) ||
      __builtin_add_overflow(*begin, at, end) || *end > INT64_MAX)
    return weir_fail(e, WEIR_EINVAL, "%s: the size of the file overflows", w->path);
out:
  return st;
}

weir_status weir_gguf_writer_total(const weir_gguf_writer *w, uint64_t *out, weir_err *e) {
  weir_buf infos = {0};
  uint64_t begin;
  const weir_status st = lay_out(w, &infos, &begin, out, e);
  weir_buf_fini(&infos);
  return st;
}

/* ---- the file ---- */

static weir_status write_all(weir_gguf_writer *w, const void *bytes, size_t n, weir_err *e) {
  const uint8_t *p = bytes;
  while (n > 0) {
    const ssize_t got = write(w->fd, p, n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      if (got == 0) errno = ENOSPC; /* POSIX leaves it open; nothing else stops a regular file */
      return weir_fail(e, WEIR_EIO, "%s: cannot write %zu bytes at %" PRIu64 ": %s", w->path, n, w->offset,
                       strerror(errno));
    }
    p += got;
    n -= (size_t)got;
    w->offset += (uint64_t)got;
  }
  return WEIR_OK;
}

static weir_status pad(weir_gguf_writer *w, weir_err *e) {
  static const uint8_t zero[4096];
  weir_status st = WEIR_OK;
  uint64_t to;
  if (!align_up(w, w->offset, &to)) return weir_fail(e, WEIR_EINVAL, "%s: offset overflows", w->path);
  while (st == WEIR_OK && w->offset < to) {
    const uint64_t n = to - w->offset;
    st = write_all(w, zero, n < sizeof zero ? (size_t)n : sizeof zero, e);
  }
  return st;
}

weir_status weir_gguf_writer_create(const char *path, bool replace, weir_gguf_writer **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_gguf_writer *w = NULL;
  struct stat info;
  *out = NULL;
  const bool there = path && stat(path, &info) == 0;
  if (there && !S_ISREG(info.st_mode)) return weir_fail(e, WEIR_EINVAL, "%s: not a regular file", path);
  /* a link to nowhere is an entry too */
  if (path && !replace && lstat(path, &info) == 0)
    return weir_fail(e, WEIR_EINVAL, "%s: %s", path, strerror(EEXIST));
  WEIR_TRY(WEIR_NEW(1, &w, e));
  w->fd = -1;
  w->replace = replace;
  w->nowhere = !path;
  w->alignment = DEFAULT_ALIGNMENT;
  /* a link keeps pointing where it does: what it points to is replaced */
  w->path = there ? realpath(path, NULL) : strdup(path ? path : "the file");
  if (!w->path) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", path ? path : "the file", strerror(errno));
    goto out;
  }
  *out = w;
  w = NULL;
out:
  weir_gguf_writer_close(w);
  return st;
}

void weir_gguf_writer_close(weir_gguf_writer *w) {
  if (!w) return;
  if (w->fd >= 0) close(w->fd);
  if (w->part) unlink(w->part);
  free(w->part);
  free(w->path);
  free(w->tensor);
  names_fini(&w->key_names);
  names_fini(&w->tensor_names);
  weir_buf_fini(&w->keys);
  free(w);
}

/* A new file beside the target. The number in its name is the process, so that two runs do not meet. */
static weir_status create_part(weir_gguf_writer *w, weir_err *e) {
  enum { TRIES = 100 };
  const size_t bytes = strlen(w->path) + 48;
  char *name = malloc(bytes);
  if (!name) return weir_fail(e, WEIR_ENOMEM, "cannot allocate a path");
  for (int i = 0; i < TRIES && w->fd < 0; i++) {
    snprintf(name, bytes, "%s.part-%ld-%d", w->path, (long)getpid(), i);
    w->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0 && errno != EEXIST) break;
  }
  if (w->fd < 0) {
    const weir_status st = weir_fail(e, WEIR_EIO, "%s: cannot create %s: %s", w->path, name, strerror(errno));
    free(name);
    return st;
  }
  w->part = name;
  return WEIR_OK;
}

/* Steps over tensors that have all their bytes. */
static weir_status end_tensor(weir_gguf_writer *w, weir_err *e) {
  w->at++;
  w->done = 0;
  return pad(w, e);
}

weir_status weir_gguf_writer_begin(weir_gguf_writer *w, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf infos = {0}, head = {0};
  uint64_t begin, end;
  if (w->begun) return weir_fail(e, WEIR_EINVAL, "%s: a second header", w->path);
  if (w->nowhere) return weir_fail(e, WEIR_EINVAL, "%s: no path to write it to", w->path);
  w->begun = true;
  WEIR_TRY(lay_out(w, &infos, &begin, &end, e));
  WEIR_TRY(create_part(w, e));
  /* file systems that cannot reserve say so with these two; all else is a reason to stop */
  if (fallocate(w->fd, 0, 0, (off_t)end) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
    st = weir_fail(e, WEIR_EIO, "%s: cannot reserve %" PRIu64 " bytes: %s", w->path, end, strerror(errno));
    goto out;
  }
  WEIR_TRY(weir_buf_put(&head, "GGUF", 4, e));
  WEIR_TRY(put_int(&head, 3, 4, e));
  WEIR_TRY(put_int(&head, (uint64_t)w->n_tensors, 8, e));
  WEIR_TRY(put_int(&head, (uint64_t)w->n_keys, 8, e));
  WEIR_TRY(write_all(w, head.data, head.len, e));
  WEIR_TRY(write_all(w, w->keys.data, w->keys.len, e));
  WEIR_TRY(write_all(w, infos.data, infos.len, e));
  WEIR_TRY(pad(w, e));
out:
  weir_buf_fini(&infos);
  weir_buf_fini(&head);
  return st;
}

weir_status weir_gguf_writer_data(weir_gguf_writer *w, const void *bytes, size_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  if (!w->begun) return weir_fail(e, WEIR_EINVAL, "%s: data before the header", w->path);
  if (w->at >= w->n_tensors) return weir_fail(e, WEIR_EINVAL, "%s: more data than tensors", w->path);
  const planned *p = &w->tensor[w->at];
  if (n > p->bytes - w->done) return fail_tensor(w, p->name, "more bytes than it has", e);
  WEIR_TRY(write_all(w, bytes, n, e));
  w->done += n;
  if (w->done == p->bytes) WEIR_TRY(end_tensor(w, e));
out:
  return st;
}

/* The directory's entry is data of the directory. A file system that cannot sync one has nothing to lose. */
static void sync_folder(const char *path) {
  char *dir = strdup(path);
  if (!dir) return;
  char *slash = strrchr(dir, '/');
  if (slash) slash[slash == dir] = '\0';
  const int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    (void)fsync(fd);
    close(fd);
  }
  free(dir);
}

static int rename_part(const weir_gguf_writer *w) {
  if (w->replace) return rename(w->part, w->path);
  if (renameat2(AT_FDCWD, w->part, AT_FDCWD, w->path, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  struct stat info;
  if (lstat(w->path, &info) == 0) { /* this file system has no such call: the next best */
    errno = EEXIST;
    return -1;
  }
  return rename(w->part, w->path);
}

weir_status weir_gguf_writer_finish(weir_gguf_writer *w, weir_err *e) {
  if (!w->begun || !w->part) return weir_fail(e, WEIR_EINVAL, "%s: nothing was written", w->path);
  if (w->at < w->n_tensors) return fail_tensor(w, w->tensor[w->at].name, "its bytes are not all there", e);
  if (fsync(w->fd) != 0) return fail_io(w, "cannot write to the disk", e);
  const int fd = w->fd;
  w->fd = -1;
  if (close(fd) != 0) return fail_io(w, "cannot close", e);
  if (rename_part(w) != 0) return fail_io(w, "cannot give the file its name", e);
  free(w->part);
  w->part = NULL;
  sync_folder(w->path);
  return WEIR_OK;
}
