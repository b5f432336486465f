/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL's library: found, looked at, kept for the life of the process. One lock; any thread. */
#include "comm/nccl_lib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "comm/comm_nccl.h"

/* Communicators that do not block, in the form that is used here, came in steps up to this one. */
enum { OLDEST = 21800 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char path[512] = "libnccl.so.2";
static weir_nccl lib;
static bool have;

void weir_comm_nccl_library(const char *file) {
  pthread_mutex_lock(&lock);
  snprintf(path, sizeof path, "%s", file ? file : "libnccl.so.2");
  have = false; /* one that is open stays open: communicators may have its calls */
  pthread_mutex_unlock(&lock);
}

static bool find(void *so, const char *name, void *call) {
  void *const at = dlsym(so, name);
  memcpy(call, &at, sizeof at); /* a pointer to a function, as POSIX has it */
  return at != NULL;
}

static weir_status load(void *so, weir_nccl *l, weir_err *e) {
#define X(name) \
  if (!find(so, "nccl" #name, &l->name)) return weir_fail(e, WEIR_EUNSUP, "%s has no nccl" #name, path);
  WEIR_NCCL_CALLS(X)
#undef X
  if (l->GetVersion(&l->version) != ncclSuccess) return weir_fail(e, WEIR_EUNSUP, "%s: no version", path);
  if (l->version < OLDEST)
    return weir_fail(e, WEIR_EUNSUP, "%s is of version code %d, NCCL 2.18 (%d) or later is needed", path,
                     l->version, (int)OLDEST);
  l->windows = l->version >= 22700;
#define X(name) l->windows &= find(so, "nccl" #name, &l->name);
  WEIR_NCCL_WINDOW_CALLS(X)
#undef X
  return WEIR_OK;
}

static weir_status open_locked(weir_err *e) {
  weir_nccl l;
  memset(&l, 0, sizeof l);
  void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!so) {
    const char *why = dlerror();
    return weir_fail(e, WEIR_EUNSUP, "NCCL cannot be opened (package libnccl2, or nvidia-nccl): %s",
                     why ? why : path);
  }
  const weir_status st = load(so, &l, e);
  if (st != WEIR_OK) {
    (void)dlclose(so);
    return st;
  }
  lib = l;
  have = true;
  return WEIR_OK;
}

weir_status weir_nccl_open(const weir_nccl **out, weir_err *e) {
  pthread_mutex_lock(&lock);
  const weir_status st = have ? WEIR_OK : open_locked(e);
  *out = st == WEIR_OK ? &lib : NULL;
  pthread_mutex_unlock(&lock);
  return st;
}
