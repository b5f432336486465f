/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory a load takes at its peak: the weights once, and little more, though the whole file is read.
 * In processes of their own, so that nothing else has been in memory before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "gguf_writer.h"
#include "kernels/cpu/cpu.h"
#include "run/weights.h"

enum { DIM = 512, FF = 2048, LAYERS = 12, VOCAB = 8192 };
static const size_t MIB = (size_t)1 << 20;

typedef struct result {
  weir_status status;
  char what[512];
  size_t weights, peak; /* peak: bytes above what was there before */
} result;

/* A line of /proc/self/status in bytes; 0: there is none. */
static size_t status_bytes(const char *key) {
  char line[256];
  size_t kib = 0;
  FILE *f = fopen("/proc/self/status", "r");
  while (f && fgets(line, sizeof line, f))
    if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), ": %zu kB", &kib) == 1) break;
  if (f) fclose(f);
  return kib * 1024;
}

static void put(gguf_writer *w, const char *name, uint64_t cols, uint64_t rows) {
  const uint64_t dim[2] = {cols, rows};
  const bool vector = rows == 1;
  gguf_writer_tensor(w, name, vector ? GW_F32 : GW_Q8_0, dim, vector ? 1 : 2, NULL,
                     vector ? cols * 4 : cols * rows / 32 * 34);
}

static void write_model(const char *path, result *r) {
  static const struct {
    const char *what;
    uint64_t cols, rows;
  } each[] = {{"attn_norm", DIM, 1}, {"attn_q", DIM, DIM},      {"attn_k", DIM, DIM},
              {"attn_v", DIM, DIM},  {"attn_output", DIM, DIM}, {"ffn_norm", DIM, 1},
              {"ffn_gate", DIM, FF}, {"ffn_up", DIM, FF},       {"ffn_down", FF, DIM}};
  static const struct {
    const char *key;
    uint32_t value;
  } key[] = {{"llama.block_count", LAYERS},        {"llama.embedding_length", DIM},
             {"llama.context_length", 64},         {"llama.attention.head_count", 8},
             {"llama.attention.head_count_kv", 8}, {"llama.feed_forward_length", FF}};
  gguf_writer w;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "general.architecture", "llama");
  for (size_t i = 0; i < sizeof key / sizeof *key; i++) gguf_writer_u32(&w, key[i].key, key[i].value);
  gguf_writer_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  put(&w, "token_embd.weight", DIM, VOCAB);
  put(&w, "output_norm.weight", DIM, 1);
  for (int l = 0; l < LAYERS; l++)
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
      char name[64];
      snprintf(name, sizeof name, "blk.%d.%s.weight", l, each[i].what);
      put(&w, name, each[i].cols, each[i].rows);
    }
  put(&w, "output.weight", DIM, VOCAB);
  size_t len;
  uint8_t *file = gguf_writer_file(&w, &len);
  FILE *f = fopen(path, "wb");
  const bool ok = f && fwrite(file, 1, len, f) == len;
  if (!f || fclose(f) != 0 || !ok) *r = (result){WEIR_EIO, "cannot write the model", 0, 0};
  gguf_writer_fini(&w);
  free(file);
}

static void load_model(const char *path, result *r) {
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  weir_mfile *m = NULL;
  weir_dev *dev = NULL;
  weir_weights w = {0};
  weir_hparams h;
  const weir_cpu_opts o = {.n_threads = 2, .isa = WEIR_ISA_SCALAR, .no_pin = true};
  WEIR_TRY(weir_mfile_open(path, &m, e));
  WEIR_TRY(weir_hparams_read(m, &h, e));
  WEIR_TRY(weir_dev_open_cpu(&o, &dev, e));
  const size_t before = status_bytes("VmRSS");
  WEIR_TRY(weir_weights_load(dev, m, &h, NULL, NULL, &w, e));
  r->weights = w.bytes;
  r->peak = status_bytes("VmHWM") - before;
out:
  r->status = st;
  snprintf(r->what, sizeof r->what, "%s", e->msg);
  weir_weights_release(&w);
  weir_dev_destroy(dev);
  weir_mfile_close(m);
}

/* fn in a process of its own. */
static result apart(void (*fn)(const char *path, result *), const char *path) {
  result r = {.status = WEIR_EIO, .what = "the process said nothing"};
  int fd[2];
  assert_int_equal(pipe(fd), 0);
  fflush(NULL);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    result mine = {.status = WEIR_OK};
    fn(path, &mine);
    _exit(write(fd[1], &mine, sizeof mine) == (ssize_t)sizeof mine ? 0 : 1);
  }
  close(fd[1]);
  const bool said = read(fd[0], &r, sizeof r) == (ssize_t)sizeof r;
  close(fd[0]);
  int how;
  assert_int_equal(waitpid(child, &how, 0), child);
  if (!said || !WIFEXITED(how) || WEXITSTATUS(how) != 0) fail_msg("%s (ended with %d)", r.what, how);
  return r;
}

static void peak_of_a_load(void **state) {
  (void)state;
  char path[] = "/tmp/weir-load-XXXXXX";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  result r = apart(write_model, path);
  if (r.status == WEIR_OK) r = apart(load_model, path);
  unlink(path);
  if (r.status != WEIR_OK) fail_msg("%s", r.what);
  print_message("%.1f MiB of weights, %.1f MiB at the peak\n", (double)r.weights / (double)MIB,
                (double)r.peak / (double)MIB);
  assert_true(r.weights > 50 * MIB);
  if (r.peak < r.weights) fail_msg("a peak below the weights: that is no measurement");
  /* the weights, the file's pages of one of them, a huge page */
  if (r.peak > r.weights + r.weights / 8 + 4 * MIB) fail_msg("the weights are in memory more than once");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(peak_of_a_load)};
  if (!status_bytes("VmHWM") || !status_bytes("VmRSS")) return 77;
  return cmocka_run_group_tests(tests, NULL, NULL);
}
