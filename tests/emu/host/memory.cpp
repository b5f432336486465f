// SPDX-License-Identifier: Apache-2.0
// The emulator's CUDA runtime: devices, memory, errors, and the faults that tests plan. Host threads of any
// number; every call holds the one lock.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emu.h"
#include "shim.h"

extern "C" void __asan_poison_memory_region(void const volatile *, size_t) __attribute__((weak));
extern "C" void __asan_unpoison_memory_region(void const volatile *, size_t) __attribute__((weak));

namespace shim {

static const size_t GUARD = 256;  // bytes, also the alignment
static const int GUARD_BYTE = 0xa5;
static thread_local cudaError_t last_error;
static thread_local int device_now;

State &state() {
  static State *s = (launches_come_here(), new State);  // never destroyed: threads may still call at exit
  return *s;
}

int current_device() { return device_now; }

uint64_t random() {  // splitmix64
  uint64_t z = (state().rng += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

void misuse(const char *format, ...) {
  State &s = state();
  va_list ap;
  va_start(ap, format);
  vsnprintf(s.misuse, sizeof s.misuse, format, ap);
  va_end(ap);
  s.counts.n_misuses++;
  if (s.config.keep_misuses) return;
  fprintf(stderr, "cuda emulation: misuse: %s\n", s.misuse);
  abort();
}

// Errors after which a context answers nothing else (CUDA Runtime API, cudaError).
bool is_sticky(cudaError_t e) {
  return e == cudaErrorIllegalAddress || e == cudaErrorLaunchFailure || e == cudaErrorUnknown;
}

cudaError_t fail(cudaError_t e) {
  if (e == cudaSuccess) return e;
  if (is_sticky(e)) state().sticky = e;
  return last_error = e;
}

cudaError_t enter(const char *name) {
  State &s = state();
  s.counts.n_calls++;
  if (s.sticky != cudaSuccess) return fail(s.sticky);
  if (s.call.at && --s.call.at == 0) {
    s.failed = name;
    return fail(s.call.error);
  }
  return cudaSuccess;
}

cudaError_t enter_unsafe(const char *name) {
  const cudaError_t e = enter(name);
  if (e != cudaSuccess) return e;
  return break_capture() ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

const Block *find(const std::map<const char *, Block> &blocks, const void *p, size_t bytes) {
  const char *at = (const char *)p;
  auto it = blocks.upper_bound(at);
  if (it == blocks.begin()) return nullptr;
  --it;
  const size_t offset = (size_t)(at - it->first);
  return offset <= it->second.bytes && bytes <= it->second.bytes - offset ? &it->second : nullptr;
}

static size_t whole(size_t bytes) { return (bytes + GUARD - 1) / GUARD * GUARD; }

static void poison(const char *p, size_t n, bool on) {
  if (on && __asan_poison_memory_region) __asan_poison_memory_region(p, n);
  if (!on && __asan_unpoison_memory_region) __asan_unpoison_memory_region(p, n);
}

// raw: guard, payload, guard up to the next multiple of GUARD and one more.
// What a device never wrote to is NaN; staging, megabytes of it, is not worth that each time a device is
// opened.
static char *take(size_t bytes, bool fill, Block *b) {
  b->raw = (char *)aligned_alloc(GUARD, whole(bytes) + 2 * GUARD);
  if (!b->raw) return nullptr;
  b->bytes = bytes;
  b->device = device_now;
  char *p = b->raw + GUARD;
  memset(b->raw, GUARD_BYTE, GUARD);
  memset(p + bytes, GUARD_BYTE, whole(bytes) + GUARD - bytes);
  if (fill) memset(p, 0xff, bytes);  // NaN as F32, F16 and BF16; -1 as a number
  poison(b->raw, GUARD, true);
  poison(p + bytes, whole(bytes) + GUARD - bytes, true);
  return p;
}

void check_guards(const char *p, const Block &b) {
  const size_t behind = whole(b.bytes) + GUARD - b.bytes;
  poison(b.raw, GUARD, false);
  poison(p + b.bytes, behind, false);
  for (size_t i = 0; i < GUARD; i++)
    if ((unsigned char)b.raw[i] != GUARD_BYTE)
      return misuse("%zu bytes before a block of %zu were written to", GUARD - i, b.bytes);
  for (size_t i = 0; i < behind; i++)
    if ((unsigned char)p[b.bytes + i] != GUARD_BYTE)
      return misuse("%zu bytes behind a block of %zu were written to", i, b.bytes);
  poison(b.raw, GUARD, true);
  poison(p + b.bytes, behind, true);
}

static void let_go(const char *p, const Block &b) {
  check_guards(p, b);
  poison(b.raw, whole(b.bytes) + 2 * GUARD, false);
  free(b.raw);
}

static size_t taken(int device) {
  size_t sum = 0;
  for (const auto &b : state().device)
    if (b.second.device == device) sum += b.second.bytes;
  return sum;
}

static bool have_device() { return !state().config.no_driver && state().config.n_devices > 0; }

static cudaError_t no_device() {
  return fail(state().config.no_driver ? cudaErrorInsufficientDriver : cudaErrorNoDevice);
}

}  // namespace shim

using namespace shim;

extern "C" {

// ---- for tests ----

cu_shim_config cu_shim_defaults(void) {
  cu_shim_config c = {};
  c.n_devices = 1;
  c.memory_bytes = (size_t)8 << 30;
  c.cc = 90;
  c.n_sms = 132;
  c.seed = 1;
  return c;
}

void cu_shim_reset(const cu_shim_config *config) {
  Lock lock;
  State &s = state();
  drop_streams();
  for (const auto &b : s.device) {
    emu_mem_unwatch((void *)b.first);
    let_go(b.first, b.second);
  }
  for (const auto &b : s.pinned) let_go(b.first, b.second);
  for (void *h : s.handles) free(h);
  s.device.clear();
  s.pinned.clear();
  s.handles.clear();
  s.config = *config;
  s.counts = {};
  s.sticky = cudaSuccess;
  s.call = s.launch = Fault();
  s.failed = nullptr;
  s.misuse[0] = 0;
  s.rng = config->seed;
  last_error = cudaSuccess;
  device_now = 0;
}

cu_shim_counts cu_shim_count(void) {
  Lock lock;
  State &s = state();
  cu_shim_counts c = s.counts;
  c.device_blocks = s.device.size();
  c.device_bytes = c.pinned_bytes = 0;
  for (const auto &b : s.device) c.device_bytes += b.second.bytes;
  c.pinned_blocks = s.pinned.size();
  for (const auto &b : s.pinned) c.pinned_bytes += b.second.bytes;
  c.streams = s.streams.size();
  c.events = s.events.size();
  c.graphs = s.graphs.size();
  c.execs = s.execs.size();
  c.handles = s.handles.size();
  return c;
}

size_t cu_shim_alive(void) {
  const cu_shim_counts c = cu_shim_count();
  return c.device_blocks + c.pinned_blocks + c.streams + c.events + c.graphs + c.execs + c.handles;
}

void cu_shim_check_guards(void) {
  Lock lock;
  for (const auto &b : state().device) check_guards(b.first, b.second);
  for (const auto &b : state().pinned) check_guards(b.first, b.second);
}

const char *cu_shim_misuse(void) { return state().misuse; }

void cu_shim_fail_call(uint64_t n, cudaError_t error) {
  Lock lock;
  state().call = Fault{n, error, false};
  state().failed = nullptr;
}

void cu_shim_fail_launch(uint64_t n, cudaError_t error, bool when_it_runs) {
  Lock lock;
  state().launch = Fault{n, error, when_it_runs};
  state().failed = nullptr;
}

const char *cu_shim_failed(void) { return state().failed; }

// ---- devices ----

cudaError_t cudaGetDeviceCount(int *count) {
  SHIM_CALL(cudaGetDeviceCount);
  *count = 0;
  if (!have_device()) return no_device();
  *count = state().config.n_devices;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  SHIM_CALL(cudaSetDevice);
  if (!have_device()) return no_device();
  if (device < 0 || device >= state().config.n_devices) return fail(cudaErrorInvalidDevice);
  device_now = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
  SHIM_CALL(cudaGetDevice);
  *device = device_now;
  return have_device() ? cudaSuccess : no_device();
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  SHIM_CALL(cudaGetDeviceProperties);
  const cu_shim_config &c = state().config;
  if (!have_device()) return no_device();
  if (device < 0 || device >= c.n_devices) return fail(cudaErrorInvalidDevice);
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "Emulated GPU");
  p->totalGlobalMem = c.memory_bytes;
  p->sharedMemPerBlockOptin = (c.cc == 90 ? 227 : 163) << 10;
  p->major = c.cc / 10;
  p->minor = c.cc % 10;
  p->multiProcessorCount = c.n_sms;
  p->l2CacheSize = 50 << 20;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device) {
  SHIM_CALL(cudaDeviceGetAttribute);
  const cu_shim_config &c = state().config;
  if (!have_device()) return no_device();
  if (device < 0 || device >= c.n_devices) return fail(cudaErrorInvalidDevice);
  switch (attr) {
    case cudaDevAttrMultiProcessorCount: *value = c.n_sms; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    case cudaDevAttrComputeCapabilityMajor: *value = c.cc / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = c.cc % 10; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (c.cc == 90 ? 227 : 163) << 10; break;
    default: return fail(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

// ---- errors ----

cudaError_t cudaPeekAtLastError(void) {
  Lock lock;
  return state().sticky != cudaSuccess ? state().sticky : last_error;
}

cudaError_t cudaGetLastError(void) {
  Lock lock;
  const int refused = emu_launch_status();  // grid, shared memory
  if (refused && last_error == cudaSuccess) last_error = (cudaError_t)refused;
  const cudaError_t e = state().sticky != cudaSuccess ? state().sticky : last_error;
  last_error = cudaSuccess;
  return e;
}

const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInitializationError: return "cudaErrorInitializationError";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalState: return "cudaErrorIllegalState";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureUnmatched: return "cudaErrorStreamCaptureUnmatched";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
    case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
    case cudaErrorUnknown: break;
  }
  return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorLaunchOutOfResources: return "too many resources requested for launch";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return cudaGetErrorName(error);
  }
}

// ---- memory ----

cudaError_t cudaMalloc(void **p, size_t bytes) {
  Lock lock;
  const cudaError_t e = enter_unsafe("cudaMalloc");
  if (e != cudaSuccess) return e;
  if (!have_device()) return no_device();
  if (!bytes) return *p = nullptr, cudaSuccess;
  const size_t all = state().config.memory_bytes, used = taken(device_now);
  Block b;
  char *at = bytes > all || used > all - bytes ? nullptr : take(bytes, !state().config.no_poison, &b);
  if (!at) return fail(cudaErrorMemoryAllocation);
  (void)emu_mem_watch(at, bytes, GUARD);
  state().device[at] = b;
  *p = at;
  return cudaSuccess;
}

// Waits for the device, as CUDA's does. A planned failure is one of earlier work: the memory goes all the
// same.
cudaError_t cudaFree(void *p) {
  Lock lock;
  const cudaError_t e = enter_unsafe("cudaFree");
  if (!p || e == cudaErrorStreamCaptureUnsupported) return e;
  auto it = state().device.find((const char *)p);
  if (it == state().device.end()) {
    misuse("cudaFree of %p, which is no device memory", p);
    return fail(cudaErrorInvalidValue);
  }
  drain_all();
  const Block b = it->second;
  state().device.erase(it);
  emu_mem_unwatch(p);
  let_go((const char *)p, b);
  return e != cudaSuccess ? e : state().sticky != cudaSuccess ? fail(state().sticky) : cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned int) {
  Lock lock;
  const cudaError_t e = enter_unsafe("cudaHostAlloc");
  if (e != cudaSuccess) return e;
  if (!have_device()) return no_device();
  Block b;
  char *at = take(bytes, false, &b);
  if (!at) return fail(cudaErrorMemoryAllocation);
  State &s = state();
  s.pinned[at] = b;
  const size_t now = cu_shim_count().pinned_bytes;
  if (now > s.counts.most_pinned_bytes) s.counts.most_pinned_bytes = now;
  *p = at;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
  Lock lock;
  const cudaError_t e = enter_unsafe("cudaFreeHost");
  if (!p || e == cudaErrorStreamCaptureUnsupported) return e;
  auto it = state().pinned.find((const char *)p);
  if (it == state().pinned.end()) {
    misuse("cudaFreeHost of %p, which is no pinned memory", p);
    return fail(cudaErrorInvalidValue);
  }
  const Block b = it->second;
  if (pending_on(it->first, b.bytes)) {
    misuse("cudaFreeHost of %zu bytes that a copy still needs", b.bytes);
    drain_all();
  }
  state().pinned.erase(it);
  let_go((const char *)p, b);
  return e;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  SHIM_CALL(cudaMemGetInfo);
  if (!have_device()) return no_device();
  *total_bytes = state().config.memory_bytes;
  *free_bytes = *total_bytes - taken(device_now);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value) {
  SHIM_CALL(cudaFuncSetAttribute);
  if (attr == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value > (state().config.cc == 90 ? 227 : 163) << 10) return fail(cudaErrorInvalidValue);
    emu_allow_smem(kernel, (size_t)value);
  }
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n_blocks, const void *, int block_size,
                                                          size_t) {
  SHIM_CALL(cudaOccupancyMaxActiveBlocksPerMultiprocessor);
  if (block_size < 1 || block_size > 1024) return fail(cudaErrorInvalidValue);
  *n_blocks = 2048 / block_size < 2 ? 2048 / block_size : 2;
  return cudaSuccess;
}

}  // extern "C"
