// SPDX-License-Identifier: Apache-2.0
// The emulator's cuBLASLt: D = alpha op(A) op(B) + beta C [+ bias of D's rows], summed in F32 in order of k.
// The heuristic answers with one algorithm that wants some of the workspace it may have, and using it fills
// that workspace with NaN: so a workspace that is somebody else's shows.
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

// Last: it takes words such as __noinline__ away from C++'s own headers.
#include <cu_emu.h>

using namespace shim;

namespace {

struct Layout {
  int32_t type, order;
  uint64_t rows, cols;
  int64_t ld;
};
struct Desc {
  int32_t compute, scale, trans_a, trans_b, epilogue, pointer_mode;
  const void *bias;
};
struct Pref {
  uint64_t workspace;
  uint32_t align[4]; /* of A, B, C, D */
};
struct Algo {
  uint64_t magic, workspace;
};
const uint64_t MAGIC = 0x77656972u;

template <class T, class O>
T *inside(O *opaque) {
  static_assert(sizeof(T) <= sizeof(O), "fits into the opaque struct");
  return (T *)(void *)opaque->data;
}

cublasStatus_t status(cudaError_t e) {
  if (e == cudaSuccess) return CUBLAS_STATUS_SUCCESS;
  return e == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_EXECUTION_FAILED;
}

template <class O>
cublasStatus_t make(const char *name, O **out) {
  const cudaError_t e = enter(name);
  if (e != cudaSuccess) return status(e);
  *out = (O *)calloc(1, sizeof **out);
  state().handles.insert(*out);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t drop(const char *name, void *p) {
  Lock lock;
  const cudaError_t e = enter(name);
  if (!state().handles.erase(p)) {
    misuse("%s of an unknown object", name);
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  free(p);
  return status(e);
}

template <class T>
cublasStatus_t put(T *field, const void *value, size_t bytes) {
  if (bytes != sizeof *field) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

float load(const void *base, int32_t type, size_t i) {
  if (type == CUDA_R_32F) return ((const float *)base)[i];
  const uint16_t h = ((const uint16_t *)base)[i];
  return type == CUDA_R_16BF ? bf2f(h) : h2f(h);
}

void store(void *base, int32_t type, size_t i, float f) {
  if (type == CUDA_R_32F)
    ((float *)base)[i] = f;
  else
    ((uint16_t *)base)[i] = type == CUDA_R_16BF ? f2bf(f) : f2h(f);
}

size_t at(const Layout &l, uint64_t r, uint64_t c) {
  return l.order == CUBLASLT_ORDER_ROW ? r * (size_t)l.ld + c : c * (size_t)l.ld + r;
}

size_t element(int32_t type) { return type == CUDA_R_32F ? 4 : 2; }

size_t bytes_of(const Layout &l) { return (at(l, l.rows - 1, l.cols - 1) + 1) * element(l.type); }

bool layout_ok(const Layout &l) {
  if (l.type != CUDA_R_32F && l.type != CUDA_R_16F && l.type != CUDA_R_16BF) return false;
  return l.rows > 0 && l.cols > 0 && l.ld >= (int64_t)(l.order == CUBLASLT_ORDER_ROW ? l.cols : l.rows);
}

// What there are kernels for: one type in, that or F32 out, F32 sums; a bias goes down columns.
cublasStatus_t check(const Desc &m, const Layout &a, const Layout &b, const Layout &c, const Layout &d) {
  if (!layout_ok(a) || !layout_ok(b) || !layout_ok(c) || !layout_ok(d)) return CUBLAS_STATUS_INVALID_VALUE;
  const uint64_t am = m.trans_a ? a.cols : a.rows, ak = m.trans_a ? a.rows : a.cols;
  const uint64_t bk = m.trans_b ? b.cols : b.rows, bn = m.trans_b ? b.rows : b.cols;
  if (am != d.rows || bn != d.cols || ak != bk || c.rows != d.rows || c.cols != d.cols)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (m.compute != CUBLAS_COMPUTE_32F && m.compute != CUBLAS_COMPUTE_32F_PEDANTIC &&
      m.compute != CUBLAS_COMPUTE_32F_FAST_TF32)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (m.scale != CUDA_R_32F || m.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (a.type != b.type || c.type != d.type || (d.type != a.type && d.type != CUDA_R_32F))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (m.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_SUCCESS;
  return m.epilogue == CUBLASLT_EPILOGUE_BIAS && d.order == CUBLASLT_ORDER_COL ? CUBLAS_STATUS_SUCCESS
                                                                               : CUBLAS_STATUS_NOT_SUPPORTED;
}

struct Matmul {
  Desc m;
  Layout al, bl, cl, dl;
  const void *a, *b, *c;
  void *d, *workspace;
  size_t workspace_bytes;
  float alpha, beta;
};

void run(const Matmul &x) {
  const uint64_t rows = x.dl.rows, cols = x.dl.cols, k = x.m.trans_a ? x.al.rows : x.al.cols;
  if (x.workspace_bytes) memset(x.workspace, 0xff, x.workspace_bytes);
  std::vector<float> a(rows * k), sum(rows);  // a: [k][rows], so that the inner loop runs along memory
  for (uint64_t i = 0; i < k; i++)
    for (uint64_t r = 0; r < rows; r++)
      a[i * rows + r] = load(x.a, x.al.type, x.m.trans_a ? at(x.al, i, r) : at(x.al, r, i));
  for (uint64_t n = 0; n < cols; n++) {
    sum.assign(rows, 0.0f);
    for (uint64_t i = 0; i < k; i++) {
      const float b = load(x.b, x.bl.type, x.m.trans_b ? at(x.bl, n, i) : at(x.bl, i, n));
      const float *col = &a[i * rows];
      for (uint64_t r = 0; r < rows; r++) sum[r] += col[r] * b;
    }
    for (uint64_t r = 0; r < rows; r++) {
      float v = x.alpha * sum[r];
      if (x.beta != 0.0f) v += x.beta * load(x.c, x.cl.type, at(x.cl, r, n));
      if (x.m.epilogue == CUBLASLT_EPILOGUE_BIAS) v += load(x.m.bias, x.dl.type, r);
      store(x.d, x.dl.type, at(x.dl, r, n), v);
    }
  }
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  Lock lock;
  uint64_t *p = nullptr;
  const cublasStatus_t s = make("cublasLtCreate", &p);
  *handle = (cublasLtHandle_t)(void *)p;
  return s;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return drop("cublasLtDestroy", handle); }

const char *cublasLtGetStatusName(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown status";
}
const char *cublasLtGetStatusString(cublasStatus_t s) { return cublasLtGetStatusName(s); }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  Lock lock;
  const cublasStatus_t s = make("cublasLtMatrixLayoutCreate", layout);
  if (s == CUBLAS_STATUS_SUCCESS)
    *inside<Layout>(*layout) = Layout{(int32_t)type, CUBLASLT_ORDER_COL, rows, cols, ld};
  return s;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  return drop("cublasLtMatrixLayoutDestroy", l);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attr, const void *value,
                                                size_t bytes) {
  Lock lock;
  const cudaError_t e = enter("cublasLtMatrixLayoutSetAttribute");
  Layout *l = inside<Layout>(layout);
  if (e != cudaSuccess) return status(e);
  switch (attr) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return put(&l->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return put(&l->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return put(&l->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return put(&l->cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD: return put(&l->ld, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  Lock lock;
  const cublasStatus_t s = make("cublasLtMatmulDescCreate", desc);
  if (s == CUBLAS_STATUS_SUCCESS)
    *inside<Desc>(*desc) =
        Desc{(int32_t)compute, (int32_t)scale, 0, 0, CUBLASLT_EPILOGUE_DEFAULT, 0, nullptr};
  return s;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  return drop("cublasLtMatmulDescDestroy", d);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attr,
                                              const void *value, size_t bytes) {
  Lock lock;
  const cudaError_t e = enter("cublasLtMatmulDescSetAttribute");
  Desc *d = inside<Desc>(desc);
  int32_t unused;
  if (e != cudaSuccess) return status(e);
  switch (attr) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return put(&d->compute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return put(&d->scale, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: return put(&d->pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA: return put(&d->trans_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return put(&d->trans_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return put(&d->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return put(&d->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return put(&unused, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref) {
  Lock lock;
  const cublasStatus_t s = make("cublasLtMatmulPreferenceCreate", pref);
  if (s == CUBLAS_STATUS_SUCCESS) *inside<Pref>(*pref) = Pref{0, {256, 256, 256, 256}};
  return s;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  return drop("cublasLtMatmulPreferenceDestroy", p);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *value, size_t bytes) {
  Lock lock;
  const cudaError_t e = enter("cublasLtMatmulPreferenceSetAttribute");
  Pref *p = inside<Pref>(pref);
  uint32_t unused;
  if (e != cudaSuccess) return status(e);
  switch (attr) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return put(&p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return put(&p->align[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return put(&p->align[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return put(&p->align[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return put(&p->align[3], value, bytes);
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return put(&unused, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

// 16-bit operands that do not lie on 16 bytes have no kernels here, as few have there: a caller needs its own
// way out.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t pref, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *n_results) {
  Lock lock;
  const cudaError_t e = enter("cublasLtMatmulAlgoGetHeuristic");
  *n_results = 0;
  if (e != cudaSuccess) return status(e);
  if (!state().handles.count(handle) || n_wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t s = check(*inside<Desc>(desc), *inside<Layout>(a), *inside<Layout>(b),
                                 *inside<Layout>(c), *inside<Layout>(d));
  if (s != CUBLAS_STATUS_SUCCESS) return s;
  const Pref &p = *inside<Pref>(pref);
  if (inside<Layout>(a)->type != CUDA_R_32F && (p.align[0] < 16 || p.align[1] < 16))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  const Algo algo = {MAGIC, p.workspace < 4096 ? p.workspace : 4096};
  memset(results, 0, sizeof *results);
  memcpy(results[0].algo.data, &algo, sizeof algo);
  results[0].workspaceSize = algo.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1.0f;
  *n_results = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  Lock lock;
  const cudaError_t e = enter("cublasLtMatmul");
  if (e != cudaSuccess) return status(e);
  State &s = state();
  if (!s.handles.count(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  Matmul x = {*inside<Desc>(desc),
              *inside<Layout>(a_layout),
              *inside<Layout>(b_layout),
              *inside<Layout>(c_layout),
              *inside<Layout>(d_layout),
              a,
              b,
              c,
              d,
              workspace,
              0,
              0,
              0};
  const cublasStatus_t ok = check(x.m, x.al, x.bl, x.cl, x.dl);
  if (ok != CUBLAS_STATUS_SUCCESS) return ok;
  memcpy(&x.alpha, alpha, sizeof x.alpha);
  memcpy(&x.beta, beta, sizeof x.beta);
  if (algo) {
    Algo chosen;
    memcpy(&chosen, algo->data, sizeof chosen);
    if (chosen.magic != MAGIC || workspace_bytes < chosen.workspace) return CUBLAS_STATUS_INVALID_VALUE;
    x.workspace_bytes = chosen.workspace;
  }
  const struct {
    const char *name;
    const void *p;
    size_t bytes;
  } need[] = {{"A", a, bytes_of(x.al)},
              {"B", b, bytes_of(x.bl)},
              {"D", d, bytes_of(x.dl)},
              {"C", x.beta != 0.0f ? c : d, bytes_of(x.cl)},
              {"the workspace", x.workspace_bytes ? workspace : d, x.workspace_bytes},
              {"the bias", x.m.bias ? x.m.bias : d, x.m.bias ? x.dl.rows * element(x.dl.type) : 0}};
  for (const auto &n : need)
    if (!find(s.device, n.p, n.bytes)) {
      misuse("cublasLtMatmul: %s is not %zu bytes of device memory", n.name, n.bytes);
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  return status(enqueue(stream, Work{"cublasLtMatmul", [x] { run(x); }, Span()}));
}

}  // extern "C"
