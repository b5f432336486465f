/* SPDX-License-Identifier: Apache-2.0 */
/* What a path means: GGUF files, whole and split, directories of either kind, files that stand for their
 * directory; errors that begin with the path; experts under names of their own; memory let go of
 * once it was read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "gguf_writer.h"
#include "model/hf.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "st_writer.h"

/* ---- a folder of its own for each test ---- */

typedef struct folder {
  char path[64];
} folder;

static void folder_begin(folder *f) {
  strcpy(f->path, "/tmp/weir-mfile-XXXXXX");
  assert_non_null(mkdtemp(f->path));
}

static const char *in(const folder *f, const char *name) {
  static char path[2][512];
  static int turn;
  turn ^= 1;
  snprintf(path[turn], sizeof path[turn], "%s/%s", f->path, name);
  return path[turn];
}

static void folder_end(folder *f) {
  DIR *d = opendir(f->path);
  assert_non_null(d);
  for (const struct dirent *x; (x = readdir(d));) unlink(in(f, x->d_name)); /* "." and ".." stay */
  closedir(d);
  assert_int_equal(rmdir(f->path), 0);
}

static void put(const folder *f, const char *name, const void *data, size_t n) {
  FILE *file = fopen(in(f, name), "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(data, 1, n, file), n);
  assert_int_equal(fclose(file), 0);
}

/* A GGUF file with one tensor of 8 floats that all are `value`; `count` 0: not split; below 0: the number of
 * tensors in all parts is wrong. */
static void put_gguf(const folder *f, const char *name, const char *tensor, float value, int no, int count) {
  const uint64_t dim[1] = {8};
  const float data[8] = {value, value, value, value, value, value, value, value};
  gguf_writer w;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "general.architecture", "llama");
  if (count) {
    gguf_writer_u32(&w, "split.no", (uint32_t)no);
    gguf_writer_u32(&w, "split.count", (uint32_t)count);
    gguf_writer_u32(&w, "split.tensors.count", (uint32_t)count + (value < 0));
  }
  gguf_writer_tensor(&w, tensor, GW_F32, dim, 1, data, sizeof data);
  size_t len;
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  put(f, name, file, len);
  free(file);
}

static void put_hf(const folder *f, const char *name) {
  static const st_entry entry[] = {{"model.norm.weight", "F32", "[4]", NULL, 16}};
  size_t len;
  uint8_t *file = st_file(entry, 1, 0, &len);
  put(f, name, file, len);
  free(file);
}

static const char config[] = "{\"model_type\": \"llama\"}";

/* Opens it, or says in which way it should fail; "" opens. */
static void expect(const char *path, weir_status status, const char *fragment, bool hf) {
  weir_mfile *m;
  weir_err e = {0};
  const weir_status st = weir_mfile_open(path, &m, &e);
  if (st != status || (st != WEIR_OK && !strstr(e.msg, fragment)))
    fail_msg("%s: want %d \"%s\", got %d \"%s\"", path, status, fragment, st, e.msg);
  if (st == WEIR_OK) {
    assert_int_equal(weir_mfile_hf(m) != NULL, hf);
    assert_int_equal(weir_mfile_gguf(m) != NULL, !hf);
    assert_int_equal(weir_mfile_n_tensors(m), 1);
  } else {
    assert_null(m);
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    if (strncmp(e.msg, path, n) != 0) fail_msg("\"%s\" does not begin with %s", e.msg, path);
  }
  weir_mfile_close(m);
}

static void folders(void **state) {
  (void)state;
  folder f;
  folder_begin(&f);
  expect(in(&f, "absent"), WEIR_EIO, "No such file", false);
  expect(f.path, WEIR_EFORMAT, "neither config.json nor a GGUF file there", false);
  put(&f, "pytorch_model.bin", "x", 1);
  expect(f.path, WEIR_EUNSUP, "PyTorch", false);
  expect(in(&f, "pytorch_model.bin"), WEIR_EUNSUP, "convert them to safetensors", false);
  put(&f, "config.json", config, sizeof config - 1);
  expect(f.path, WEIR_EUNSUP, "only PyTorch's \"pytorch_model.bin\": convert them to safetensors", true);
  assert_int_equal(unlink(in(&f, "pytorch_model.bin")), 0);
  expect(f.path, WEIR_EFORMAT, "no *.safetensors files", true);
  put_gguf(&f, "model.gguf", "output_norm.weight", 1, 0, 0);
  expect(f.path, WEIR_OK, "", false); /* config.json beside a GGUF file is decoration */
  expect(in(&f, "model.gguf"), WEIR_OK, "", false);
  put_hf(&f, "model.safetensors");
  expect(f.path, WEIR_OK, "", true);
  expect(in(&f, ""), WEIR_OK, "", true);
  expect(in(&f, "config.json"), WEIR_OK, "", true);
  expect(in(&f, "model.safetensors"), WEIR_OK, "", true);
  expect(in(&f, "model.gguf"), WEIR_OK, "", false);
  assert_int_equal(unlink(in(&f, "config.json")), 0);
  expect(f.path, WEIR_OK, "", false);
  put_gguf(&f, "mmproj-model.gguf", "v.blk.0.weight", 1, 0, 0);
  expect(f.path, WEIR_OK, "", false);
  put_gguf(&f, "other.gguf", "output_norm.weight", 1, 0, 0);
  expect(f.path, WEIR_EINVAL, "2 GGUF files there: name one of them", false);
  folder_end(&f);
}

static void hf_errors_begin_with_the_path(void **state) {
  (void)state;
  folder f;
  folder_begin(&f);
  put_hf(&f, "model.safetensors");
  put(&f, "config.json", "{", 1);
  expect(f.path, WEIR_EFORMAT, "/config.json: JSON, line 1", true);
  put(&f, "config.json", "{}", 2);
  expect(f.path, WEIR_EFORMAT, ": config.json: key \"model_type\" is missing", true);
  put(&f, "config.json", config, sizeof config - 1);
  put(&f, "model.safetensors", "12345678", 8);
  expect(f.path, WEIR_EFORMAT, "/model.safetensors: not a safetensors file", true);
  put(&f, "model.safetensors", "", 0);
  expect(f.path, WEIR_EFORMAT, "/model.safetensors: the file is empty", true);
  folder_end(&f);
}

/* The name of a model is its directory's, or what the cache of huggingface_hub calls it. */
static void model_names(void **state) {
  (void)state;
  static const char *const dirs[][2] = {{"A-model", "A-model"},
                                        {"models--org--Some-Model-1B/snapshots/0123abcd", "Some-Model-1B"},
                                        {"models--alone/snapshots/0123abcd", "alone"},
                                        {"other/snapshots/0123abcd", "0123abcd"}};
  folder f;
  folder_begin(&f);
  put_hf(&f, "model.safetensors");
  put(&f, "config.json", config, sizeof config - 1);
  for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
    char link[512];
    weir_mfile *m;
    weir_hparams h;
    weir_err e = {0};
    snprintf(link, sizeof link, "%s/%s", f.path, dirs[i][0]);
    char *const slash = strchr(link + strlen(f.path) + 1, '/');
    char *const last = strrchr(link, '/');
    if (slash) { /* the folders above the one that is linked */
      *slash = '\0';
      assert_int_equal(mkdir(link, 0700), 0);
      *slash = '/';
      *last = '\0';
      assert_int_equal(mkdir(link, 0700), 0);
      *last = '/';
    }
    assert_int_equal(symlink(f.path, link), 0);
    if (weir_mfile_open(link, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
    assert_int_equal(weir_hparams_read(m, &h, &e), WEIR_OK);
    assert_string_equal(h.name, dirs[i][1]);
    weir_mfile_close(m);
    assert_int_equal(unlink(link), 0);
    if (slash) {
      *last = '\0';
      assert_int_equal(rmdir(link), 0);
      *slash = '\0';
      assert_int_equal(rmdir(link), 0);
    }
  }
  folder_end(&f);
}

/* ---- split files ---- */

static void split(void **state) {
  (void)state;
  folder f;
  weir_mfile *m;
  weir_tensor t;
  weir_err e = {0};
  static const char *const names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                      "m-00003-of-00003.gguf"};
  static const char *const tensors[] = {"token_embd.weight", "blk.0.attn_norm.weight", "output.weight"};
  folder_begin(&f);
  for (int i = 0; i < 3; i++) put_gguf(&f, names[i], tensors[i], (float)(i + 1), i, 3);
  const char *const ways[] = {in(&f, names[0]), f.path};
  for (int way = 0; way < 2; way++) {
    if (weir_mfile_open(ways[way], &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
    assert_int_equal(weir_mfile_n_tensors(m), 3);
    for (int i = 0; i < 3; i++) {
      weir_tensor_info info;
      weir_mfile_tensor_at(m, i, &info);
      assert_true(weir_str_eq(info.name, weir_str_of(tensors[i])));
      assert_int_equal(weir_mfile_read(m, tensors[i], &t, &e), WEIR_OK);
      assert_true(((const float *)t.data)[7] == (float)(i + 1));
      assert_non_null(weir_gguf_find(weir_mfile_gguf(m), tensors[i])); /* hyper-parameters look there */
      weir_tensor_release(&t);
    }
    weir_mfile_close(m);
  }
  expect(in(&f, names[1]), WEIR_EINVAL, "part 2 of 3 of a split file: name the first one", false);
  put_gguf(&f, names[2], tensors[2], 3, 1, 3);
  expect(in(&f, names[0]), WEIR_EFORMAT, "m-00003-of-00003.gguf: says it is part 2 of 3", false);
  put_gguf(&f, names[2], tensors[2], 3, 2, 4);
  expect(in(&f, names[0]), WEIR_EFORMAT, "says it is part 3 of 4", false);
  put_gguf(&f, names[2], tensors[0], 3, 2, 3);
  expect(in(&f, names[0]), WEIR_EFORMAT, "tensor \"token_embd.weight\": stands in two parts", false);
  put_gguf(&f, names[2], tensors[2], 3, 2, 3);
  put_gguf(&f, names[0], tensors[0], -1, 0, 3);
  expect(in(&f, names[0]), WEIR_EFORMAT, "\"split.tensors.count\": 4, but the parts have 3", false);
  assert_int_equal(unlink(in(&f, names[2])), 0);
  expect(in(&f, names[0]), WEIR_EIO, "m-00003-of-00003.gguf: No such file", false);
  assert_int_equal(rename(in(&f, names[0]), in(&f, "renamed.gguf")), 0);
  expect(in(&f, "renamed.gguf"), WEIR_EFORMAT, "it is not called ...-00001-of-00003.gguf", false);
  put_gguf(&f, "one.gguf", tensors[0], 1, 0, 1);
  expect(in(&f, "one.gguf"), WEIR_OK, "", false);
  put_gguf(&f, "many.gguf", tensors[0], 1, 0, 100000);
  expect(in(&f, "many.gguf"), WEIR_EFORMAT, "100000 parts (limit 1024)", false);
  folder_end(&f);
}

/* ---- experts ---- */

typedef struct expert_case {
  const char *name;
  int64_t rows, cols;
  float first; /* -1: not there */
} expert_case;

/* Three experts of 2 inputs and 4 (down: 2 of 4) outputs; element i of each tensor is worth i plus its base.
 */
static const expert_case experts[] = {
    {"blk.0.ffn_down.0.weight", 2, 4, 1000}, {"blk.0.ffn_down.2.weight", 2, 4, 1016},
    {"blk.0.ffn_down.3.weight", 0, 0, -1},   {"blk.0.ffn_down.1", 0, 0, -1},
    {"blk.0.ffn_gate.0.weight", 4, 2, 2000}, {"blk.0.ffn_up.0.weight", 4, 2, 2008},
    {"blk.0.ffn_gate.2.weight", 4, 2, 2032}, {"blk.0.ffn_up.2.weight", 4, 2, 2040},
    {"blk.0.ffn_up.3.weight", 0, 0, -1},     {"blk.1.ffn_up.0.weight", 0, 0, -1},
    {"blk.0.ffn_up.00.weight", 0, 0, -1},    {"blk.0.ffn_up.1024.weight", 0, 0, -1},
    {"blk.0.ffn_up.-1.weight", 0, 0, -1},    {"blk.0.ffn_other.1.weight", 0, 0, -1},
    {"blk.0.ffn_up..weight", 0, 0, -1},      {"blk..ffn_up.1.weight", 0, 0, -1},
};

static void check_experts(const weir_mfile *m, const char *what) {
  for (size_t i = 0; i < sizeof experts / sizeof *experts; i++) {
    const expert_case *c = &experts[i];
    weir_tensor t;
    weir_err e = {0};
    assert_int_equal(weir_mfile_find(m, c->name, NULL), c->first >= 0);
    const weir_status st = weir_mfile_read(m, c->name, &t, &e);
    if (c->first < 0) {
      assert_int_equal(st, WEIR_EFORMAT);
      continue;
    }
    if (st != WEIR_OK) fail_msg("%s, %s: %s", what, c->name, e.msg);
    assert_null(t.own);
    assert_int_equal(t.info.n_dims, 2);
    assert_int_equal(t.info.dim[0], c->cols);
    assert_int_equal(t.info.dim[1], c->rows);
    assert_int_equal(t.info.dim[2], 1);
    assert_int_equal(t.info.bytes, 4 * c->rows * c->cols);
    for (int64_t k = 0; k < c->rows * c->cols; k++)
      assert_true(((const float *)t.data)[k] == c->first + (float)k);
    weir_tensor_release(&t);
  }
}

static void experts_in_one_tensor(void **state) {
  (void)state;
  float down[24], gate_up[48];
  for (int i = 0; i < 24; i++) down[i] = 1000 + (float)i;
  for (int i = 0; i < 48; i++) gate_up[i] = 2000 + (float)i;
  weir_mfile *m;
  weir_err e = {0};

  gguf_writer w;
  gguf_writer_init(&w);
  gguf_writer_tensor(&w, "blk.0.ffn_down_exps.weight", GW_F32, (const uint64_t[]){4, 2, 3}, 3, down,
                     sizeof down);
  gguf_writer_tensor(&w, "blk.0.ffn_gate_up_exps.weight", GW_F32, (const uint64_t[]){2, 8, 3}, 3, gate_up,
                     sizeof gate_up);
  gguf_writer_tensor(&w, "blk.1.ffn_gate_up_exps.weight", GW_F32, (const uint64_t[]){2, 3, 1}, 3, gate_up,
                     24);
  size_t len;
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  assert_int_equal(weir_mfile_parse_gguf(file, len, &m, &e), WEIR_OK);
  assert_int_equal(weir_mfile_n_tensors(m), 3);
  check_experts(m, "GGUF");
  weir_mfile_close(m);
  free(file);

  static const char moe[] = "{\"model_type\": \"qwen3_moe\", \"num_hidden_layers\": 1, \"num_experts\": 8}";
  const st_entry entry[] = {
      {"model.layers.0.mlp.experts.gate_up_proj", "F32", "[3, 8, 2]", gate_up, sizeof gate_up},
      {"model.layers.0.mlp.experts.down_proj", "F32", "[3, 2, 4]", down, sizeof down}};
  file = st_file(entry, 2, 0, &len);
  const weir_hf_part part[] = {{"config.json", {moe, sizeof moe - 1}},
                               {"model.safetensors", {(char *)file, len}}};
  if (weir_mfile_parse_hf(part, 2, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(weir_mfile_n_tensors(m), 2);
  check_experts(m, "Hugging Face");
  weir_mfile_close(m);
  free(file);
}

/* Separate stacks, quantised: the bytes of one expert are its share. */
static void experts_of_blocks(void **state) {
  (void)state;
  uint8_t q8[3 * 2 * 34];
  for (size_t i = 0; i < sizeof q8; i++) q8[i] = (uint8_t)i;
  gguf_writer w;
  weir_mfile *m;
  weir_tensor t;
  weir_err e = {0};
  size_t len;
  gguf_writer_init(&w);
  gguf_writer_tensor(&w, "blk.7.ffn_up_exps.weight", GW_Q8_0, (const uint64_t[]){32, 2, 3}, 3, q8, sizeof q8);
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  assert_int_equal(weir_mfile_parse_gguf(file, len, &m, &e), WEIR_OK);
  assert_int_equal(weir_mfile_read(m, "blk.7.ffn_up.1.weight", &t, &e), WEIR_OK);
  assert_int_equal(t.info.bytes, 68);
  assert_true(weir_str_eq(t.info.name, weir_str_of("blk.7.ffn_up_exps.weight")));
  assert_memory_equal(t.data, q8 + 68, 68);
  assert_false(weir_mfile_find(m, "blk.7.ffn_gate.1.weight", NULL));
  weir_mfile_close(m);
  free(file);
}

/* ---- memory of what was read ---- */

enum { LARGE = 1 << 18 }; /* floats of a tensor: a megabyte, which no reading ahead covers */

/* How many pages of [data, data + bytes) this process has in memory; -1: the system does not say. */
static int64_t pages_held(const void *data, size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)data + page - 1) / page,
               end = ((uintptr_t)data + bytes) / page;
  FILE *f = fopen("/proc/self/pagemap", "rb");
  int64_t n = 0;
  if (!f) return -1;
  for (size_t i = first; i < end && n >= 0; i++) {
    uint64_t entry;
    const bool ok =
        fseek(f, (long)(i * sizeof entry), SEEK_SET) == 0 && fread(&entry, sizeof entry, 1, f) == 1;
    n = ok ? n + (int64_t)(entry >> 63) : -1; /* bit 63: present */
  }
  fclose(f);
  return n;
}

/* Reads it all, lets go of it, reads it again. */
static void read_twice(const weir_mfile *m, const char *name, float first, bool on_disk) {
  for (int time = 0; time < 2; time++) {
    weir_tensor t;
    weir_err e = {0};
    if (weir_mfile_read(m, name, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
    const float *x = t.data;
    for (int i = 0; i < LARGE; i++)
      if (x[i] != first + (float)i) fail_msg("%s, time %d: element %d is %g", name, time, i, (double)x[i]);
    const int64_t held = pages_held(x, sizeof(float) * LARGE);
    weir_mfile_let_go(m, &t);
    assert_null(t.data);
    const int64_t left = pages_held(x, sizeof(float) * LARGE);
    if (held < 0 || left < 0)
      print_message("no /proc/self/pagemap: what is held is not looked at\n");
    else if (held < 200 || (on_disk ? left != 0 : left != held))
      fail_msg("%s, time %d: %lld pages held, then %lld", name, time, (long long)held, (long long)left);
  }
}

static void let_go(void **state) {
  (void)state;
  static const char *const names[] = {"token_embd.weight", "output_norm.weight", "output.weight"};
  const uint64_t dim[1] = {LARGE};
  float *x = malloc(sizeof *x * LARGE);
  assert_non_null(x);
  gguf_writer w;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "general.architecture", "llama");
  for (int k = 0; k < 3; k++) {
    for (int i = 0; i < LARGE; i++) x[i] = (float)(k * 1000 + i);
    gguf_writer_tensor(&w, names[k], GW_F32, dim, 1, x, sizeof *x * LARGE);
  }
  free(x);
  size_t len;
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  folder f;
  weir_mfile *m;
  weir_err e = {0};
  folder_begin(&f);
  put(&f, "m.gguf", file, len);
  if (weir_mfile_open(f.path, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
  for (int k = 0; k < 3; k++) read_twice(m, names[k], (float)(k * 1000), true);
  weir_mfile_close(m);
  folder_end(&f);
  /* memory that somebody else owns is not touched */
  if (weir_mfile_parse_gguf(file, len, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
  for (int k = 0; k < 3; k++) read_twice(m, names[k], (float)(k * 1000), false);
  weir_mfile_close(m);
  free(file);
}

/* Of a directory: a shard in the file's order and one of odd alignment, which is copied. */
static void let_go_of_shards(void **state) {
  (void)state;
  for (size_t pad = 0; pad < 3; pad += 2) {
    folder f;
    float *x = malloc(sizeof *x * LARGE);
    assert_non_null(x);
    for (int i = 0; i < LARGE; i++) x[i] = (float)i;
    const st_entry entry[] = {{"model.norm.weight", "F32", "[262144]", x, sizeof *x * LARGE}};
    size_t len;
    uint8_t *file = st_file(entry, 1, pad, &len);
    folder_begin(&f);
    put(&f, "config.json", config, sizeof config - 1);
    put(&f, "model.safetensors", file, len);
    const weir_hf_part part[] = {{"config.json", {config, sizeof config - 1}},
                                 {"model.safetensors", {(const char *)file, len}}};
    for (int on_disk = 0; on_disk < 2; on_disk++) {
      weir_mfile *m;
      weir_tensor t;
      weir_err e = {0};
      const weir_status st = on_disk ? weir_mfile_open(f.path, &m, &e) : weir_mfile_parse_hf(part, 2, &m, &e);
      if (st != WEIR_OK) fail_msg("%s", e.msg);
      for (int time = 0; time < 2; time++) {
        if (weir_mfile_read(m, "output_norm.weight", &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
        assert_int_equal(t.own != NULL, pad != 0);
        assert_memory_equal(t.data, x, sizeof *x * LARGE);
        weir_mfile_let_go(m, &t);
      }
      weir_mfile_close(m);
    }
    folder_end(&f);
    free(file);
    free(x);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(folders),
      cmocka_unit_test(hf_errors_begin_with_the_path),
      cmocka_unit_test(model_names),
      cmocka_unit_test(split),
      cmocka_unit_test(experts_in_one_tensor),
      cmocka_unit_test(experts_of_blocks),
      cmocka_unit_test(let_go),
      cmocka_unit_test(let_go_of_shards),
  };
  weir_log_set_level(WEIR_LOG_ERROR);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
