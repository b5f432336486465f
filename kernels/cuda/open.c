/* SPDX-License-Identifier: Apache-2.0 */
/* Finds and opens weir-cuda.so. Part of every program; knows nothing of CUDA. Any thread. The library stays
 * open for the life of the process: CUDA's own threads and exit handlers lie in it. */
#include "kernels/cuda/open.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "weir-cuda.so"

/* Opens a library that is there; what keeps it from opening is the loader's word (a missing libcublasLt). */
static weir_status open_at(const char *path, void **handle, weir_err *e) {
  *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (*handle) return WEIR_OK;
  const char *why = dlerror();
  return weir_fail(e, WEIR_EUNSUP, "CUDA: cannot open %s: %s", path, why ? why : "no reason given");
}

/* The folder of the running program, without a slash at its end; false when the system does not say. */
static bool program_folder(char out[PATH_MAX]) {
  const ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
  if (n <= 0) return false;
  out[n] = 0;
  char *slash = strrchr(out, '/');
  if (!slash) return false;
  *slash = 0;
  return true;
}

static weir_status find_library(const char *given, void **handle, weir_err *e) {
  static const char *const place[] = {"", "/../lib/weir"};
  char folder[PATH_MAX], path[2][PATH_MAX + 64];
  if (given) {
    if (access(given, F_OK) != 0) return weir_fail(e, WEIR_EUNSUP, "CUDA: there is no %s", given);
    if (strchr(given, '/')) return open_at(given, handle, e);
    /* The loader takes a bare name for one to be looked for where libraries are, not for a path. */
    if ((size_t)snprintf(path[0], sizeof path[0], "./%s", given) < sizeof path[0])
      return open_at(path[0], handle, e);
    return weir_fail(e, WEIR_EUNSUP, "CUDA: the name of the library is too long");
  }
  const bool known = program_folder(folder);
  for (int i = 0; known && i < 2; i++) {
    (void)snprintf(path[i], sizeof path[i], "%s%s/%s", folder, place[i], LIBRARY);
    if (access(path[i], F_OK) == 0) return open_at(path[i], handle, e);
  }
  *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (*handle) return WEIR_OK;
  const char *why = dlerror();
  /* One that the loader did find, but could not open, it names by its own name or that of what is missing. */
  if (why && strncmp(why, LIBRARY ": cannot open shared object file", strlen(LIBRARY) + 32) != 0)
    return weir_fail(e, WEIR_EUNSUP, "CUDA: cannot open %s: %s", LIBRARY, why);
  return weir_fail(e, WEIR_EUNSUP,
                   "CUDA: no %s: neither in %s nor in %s/../lib/weir nor where the loader looks", LIBRARY,
                   known ? folder : "the program's folder", known ? folder : "");
}

static weir_status api_of(const char *library, const weir_cuda_api **out, weir_err *e) {
  void *handle = NULL;
  const weir_status st = find_library(library, &handle, e);
  if (st != WEIR_OK) return st;
  const char *name = library ? library : LIBRARY;
  const weir_cuda_api *api = dlsym(handle, "weir_cuda_entry");
  if (!api) {
    (void)weir_fail(e, WEIR_EUNSUP, "CUDA: %s is no CUDA device of weir", name);
  } else if (api->abi != WEIR_CUDA_ABI || api->dev_bytes != sizeof(weir_dev) ||
             api->ops_bytes != sizeof(weir_dev_ops)) {
    (void)weir_fail(e, WEIR_EUNSUP,
                    "CUDA: %s was built for another weir: interface %u with structs of %u and %u bytes, want "
                    "%d with %zu and %zu",
                    name, api->abi, api->dev_bytes, api->ops_bytes, WEIR_CUDA_ABI, sizeof(weir_dev),
                    sizeof(weir_dev_ops));
  } else {
    *out = api;
    return WEIR_OK;
  }
  (void)dlclose(handle);
  return WEIR_EUNSUP;
}

weir_status weir_dev_open_cuda(const weir_cuda_opts *opts, weir_dev **out, weir_err *e) {
  const weir_cuda_api *api;
  *out = NULL;
  weir_status st = api_of(opts->library, &api, e);
  if (st != WEIR_OK) return st;
  st = api->open(opts, weir_log, out, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "CUDA");
}

int32_t weir_cuda_count(const char *library, weir_err *e) {
  const weir_cuda_api *api;
  if (api_of(library, &api, e) != WEIR_OK) return 0;
  const int32_t n = api->count(e);
  if (n == 0 && e) (void)weir_fail_ctx(e, e->code, "CUDA");
  return n;
}
