/* SPDX-License-Identifier: Apache-2.0 */
/* Maps files. Owns nothing but what it hands out; calls the operating system; any thread. */
#include "model/filemap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

weir_status weir_filemap_open(const char *path, size_t max_bytes, weir_filemap *out, weir_err *e) {
  weir_status st = WEIR_OK;
  struct stat info;
  *out = (weir_filemap){0};
  /* Not blocking: a pipe of that name must not hold us before we see that it is no file. */
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &info) != 0) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  } else if (!S_ISREG(info.st_mode)) {
    st = weir_fail(e, WEIR_EIO, "%s: not a regular file", path);
  } else if (info.st_size <= 0) {
    st = weir_fail(e, WEIR_EFORMAT, "%s: the file is empty", path);
  } else if ((uintmax_t)info.st_size > max_bytes) {
    st = weir_fail(e, WEIR_EFORMAT, "%s: %jd bytes (limit %zu)", path, (intmax_t)info.st_size, max_bytes);
  } else {
    /* A file cut short under us is a SIGBUS: model files are replaced by renaming, never in place. */
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
      st = weir_fail(e, WEIR_EIO, "%s: cannot map %jd bytes: %s", path, (intmax_t)info.st_size,
                     strerror(errno));
    else
      *out = (weir_filemap){map, (size_t)info.st_size};
  }
  if (fd >= 0) close(fd);
  return st;
}

void weir_filemap_close(weir_filemap *m) {
  if (m->data) munmap((void *)(uintptr_t)m->data, m->len);
  *m = (weir_filemap){0};
}
