/* SPDX-License-Identifier: Apache-2.0 */
/* The way to a CUDA device: where weir-cuda.so is looked for, what is said of one that does not fit, and the
 * emulated device through the same door. With arguments this program is one that opens a device: a copy of it
 * elsewhere shows what is found beside a program. One thread. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cu_shim.h"
#include "kernels/cuda/open.h"

static const char emu[] = OPEN_DIR "/weir-cuda-emu.so";

/* ---- a library that is named ---- */

static void test_named(void **state) {
  (void)state;
  static const struct {
    const char *library, *says;
  } c[] = {
      {OPEN_DIR "/nothing-there.so", "CUDA: there is no " OPEN_DIR "/nothing-there.so"},
      {OPEN_DIR "/not-ours-1.so", "CUDA: " OPEN_DIR "/not-ours-1.so is no CUDA device of weir"},
      {OPEN_DIR "/not-ours-2.so",
       "CUDA: " OPEN_DIR "/not-ours-2.so was built for another weir: interface 2 "},
      {OPEN_DIR "/not-ours-3.so",
       "CUDA: " OPEN_DIR "/not-ours-3.so was built for another weir: interface 1 "},
      {"/proc/self/cmdline", "CUDA: cannot open /proc/self/cmdline: "},
      {"", "CUDA: there is no "},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0}, f = {0};
    weir_dev *dev = (weir_dev *)&e;
    const weir_cuda_opts o = {.library = c[i].library};
    assert_int_equal(weir_dev_open_cuda(&o, &dev, &e), WEIR_EUNSUP);
    assert_null(dev);
    if (strncmp(e.msg, c[i].says, strlen(c[i].says)) != 0)
      fail_msg("says \"%s\", want \"%s\"", e.msg, c[i].says);
    assert_null(strchr(e.msg, '\n'));
    assert_int_equal(weir_cuda_count(c[i].library, &f), 0);
    assert_string_equal(f.msg, e.msg);
  }
}

/* ---- the emulated device ---- */

/* Its runtime lies within the library: another than this program's, if it had one. */
static void configure(int n_devices, bool no_driver) {
  void *h = dlopen(emu, RTLD_NOW | RTLD_LOCAL);
  if (!h) fail_msg("%s", dlerror());
  cu_shim_config (*defaults)(void);
  void (*reset)(const cu_shim_config *);
  *(void **)&defaults = dlsym(h, "cu_shim_defaults");
  *(void **)&reset = dlsym(h, "cu_shim_reset");
  assert_non_null(*(void **)&defaults);
  assert_non_null(*(void **)&reset);
  cu_shim_config c = defaults();
  c.n_devices = n_devices;
  c.no_driver = no_driver;
  reset(&c);
}

static void test_emulated(void **state) {
  (void)state;
  weir_err e = {0};
  weir_dev *dev = NULL;
  configure(1, false);
  assert_int_equal(weir_cuda_count(emu, &e), 1);
  const weir_cuda_opts o = {.library = emu};
  const weir_status st = weir_dev_open_cuda(&o, &dev, &e);
  if (st != WEIR_OK) fail_msg("%s", e.msg);
  assert_string_equal(dev->ops->name, "cuda");
  void *p = NULL;
  int32_t out = 12345, in = 0;
  assert_int_equal(weir_dev_alloc(dev, sizeof out, &p, &e), WEIR_OK);
  assert_int_equal(weir_dev_upload(dev, p, &out, sizeof out, &e), WEIR_OK);
  assert_int_equal(weir_dev_download(dev, &in, p, sizeof in, &e), WEIR_OK);
  assert_int_equal(weir_dev_sync(dev, &e), WEIR_OK);
  assert_int_equal(in, out);
  weir_dev_release(dev, p);
  weir_dev_destroy(dev);
}

static void test_no_gpu(void **state) {
  (void)state;
  static const struct {
    int n_devices, ordinal;
    bool no_driver;
    const char *says;
  } c[] = {
      {0, 0, false, "CUDA: no CUDA-capable device is detected"},
      {1, 0, true, "CUDA: CUDA driver version is insufficient for CUDA runtime version"},
      {2, 2, false, "CUDA: there is no GPU 2: 2 found, counted from 0"},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0};
    weir_dev *dev = NULL;
    configure(c[i].n_devices, c[i].no_driver);
    const weir_cuda_opts o = {.library = emu, .ordinal = c[i].ordinal};
    assert_int_equal(weir_dev_open_cuda(&o, &dev, &e), WEIR_EUNSUP);
    assert_null(dev);
    assert_string_equal(e.msg, c[i].says);
    e.msg[0] = 0;
    assert_int_equal(weir_cuda_count(emu, &e), c[i].ordinal == 2 ? 2 : 0);
    if (c[i].ordinal != 2) assert_string_equal(e.msg, c[i].says);
  }
  configure(1, false);
}

/* A name without a folder is a file here, not one to be looked for where libraries are. */
static void test_bare_name(void **state) {
  (void)state;
  weir_err e = {0};
  char here[4096];
  configure(1, false);
  assert_non_null(getcwd(here, sizeof here));
  assert_int_equal(chdir(OPEN_DIR), 0);
  const int32_t n = weir_cuda_count("weir-cuda-emu.so", &e);
  assert_int_equal(chdir(here), 0);
  if (n != 1) fail_msg("%d GPUs: %s", n, e.msg);
}

/* ---- one that is found ---- */

static char root[] = "/tmp/weir-test-open-XXXXXX";

static void copy(const char *from, const char *to) {
  char path[200], buf[1 << 16];
  snprintf(path, sizeof path, "%s/%s", root, to);
  FILE *in = fopen(from, "rb"), *out = fopen(path, "wb");
  assert_non_null(in);
  assert_non_null(out);
  for (size_t n; (n = fread(buf, 1, sizeof buf, in)) > 0;) assert_int_equal(fwrite(buf, 1, n, out), n);
  assert_int_equal(fclose(out), 0);
  fclose(in);
  assert_int_equal(chmod(path, 0755), 0);
}

static void drop(const char *what) {
  char path[200];
  snprintf(path, sizeof path, "%s/%s", root, what);
  (void)remove(path);
}

/* What the copied program says; `env` may name folders for the loader. */
static void expect(const char *env, const char *says) {
  char command[600], got[700] = "";
  snprintf(command, sizeof command, "%s %s/bin/program count 2>&1", env, root);
  FILE *f = popen(command, "r");
  assert_non_null(f);
  const size_t n = fread(got, 1, sizeof got - 1, f);
  got[n] = 0;
  (void)pclose(f);
  char want[500];
  snprintf(want, sizeof want, says, root, root);
  if (strcmp(got, want) != 0) fail_msg("says \"%s\", want \"%s\"", got, want);
}

static void test_found(void **state) {
  (void)state;
  static const char *const folder[] = {"bin", "lib", "lib/weir", "else"};
  static const char *const file[] = {"bin/program", "bin/weir-cuda.so", "lib/weir/weir-cuda.so",
                                     "else/weir-cuda.so"};
  char path[200], env[250];
  assert_non_null(mkdtemp(root));
  for (int i = 0; i < 4; i++) {
    snprintf(path, sizeof path, "%s/%s", root, folder[i]);
    assert_int_equal(mkdir(path, 0755), 0);
  }
  snprintf(env, sizeof env, "LD_LIBRARY_PATH=%s/else", root);
  copy("/proc/self/exe", "bin/program");
  expect(
      "",
      "0: CUDA: no weir-cuda.so: neither in %s/bin nor in %s/bin/../lib/weir nor where the loader looks\n");
  copy(emu, "else/weir-cuda.so");
  expect(env, "1: \n");
  copy(OPEN_DIR "/not-ours-1.so", "else/weir-cuda.so");
  expect(env, "0: CUDA: weir-cuda.so is no CUDA device of weir\n");
  copy(emu, "lib/weir/weir-cuda.so"); /* goes before the loader's */
  expect(env, "1: \n");
  copy(OPEN_DIR "/not-ours-1.so", "bin/weir-cuda.so"); /* goes before that */
  expect(env, "0: CUDA: weir-cuda.so is no CUDA device of weir\n");
  for (int i = 0; i < 4; i++) drop(file[i]);
  for (int i = 3; i >= 0; i--) drop(folder[i]);
  assert_int_equal(rmdir(root), 0);
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "count") == 0) {
    weir_err e = {0};
    const int32_t n = weir_cuda_count(NULL, &e);
    printf("%d: %s\n", n, e.msg);
    return 0;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_named),     cmocka_unit_test(test_emulated), cmocka_unit_test(test_no_gpu),
      cmocka_unit_test(test_bare_name), cmocka_unit_test(test_found),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
