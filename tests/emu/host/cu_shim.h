/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA runtime of the emulator, seen by tests: how it behaves, what it has counted, which call fails
 * next.
 *
 * Device memory is host memory between guard zones, NaN at first. A stream is a queue, and runs late: what is
 * enqueued happens when somebody waits for it, so that a missing wait shows. What CUDA would take without a
 * word but weir never means (a copy that waits in secret, memory freed under a copy, a write beyond a block)
 * is a misuse: the process dies with a line that says what. Any thread; calls exclude each other, but the
 * kernels of several streams run at the same time where several threads wait for them, as those of ranks that
 * wait for each other must. */
#ifndef WEIR_EMU_CU_SHIM_H
#define WEIR_EMU_CU_SHIM_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cu_shim_config {
  int n_devices;       /* 0: as on a machine without a GPU */
  bool no_driver;      /* as on a machine whose driver is too old, or missing */
  size_t memory_bytes; /* of each device */
  int cc, n_sms;       /* 90, 132 */
  uint64_t seed;
  int early;         /* of 256 enqueuing calls, about how many let a random part of the queue run; none does
                        while there is more than one stream: what runs might wait for another one's */
  bool no_poison;    /* device memory starts as anything: for tests that open a device a thousand times */
  bool keep_misuses; /* count them instead of dying of the first */
} cu_shim_config;

typedef struct cu_shim_counts {
  uint64_t n_calls;    /* runtime and cuBLASLt calls that can fail, since the last reset */
  uint64_t n_launches; /* kernels launched, or put into a record */
  uint64_t n_graph_launches;
  uint64_t n_run; /* things that have happened on streams */
  uint64_t n_waits;
  uint64_t n_misuses;
  size_t device_blocks, device_bytes; /* allocated now */
  size_t pinned_blocks, pinned_bytes;
  size_t most_pinned_bytes;
  size_t streams, events, graphs, execs, handles; /* alive now; handles: cuBLASLt's objects */
} cu_shim_counts;

cu_shim_config cu_shim_defaults(void);
/* Starts anew: no memory, no errors, counters at zero. What is still alive is let go (and was a leak). */
void cu_shim_reset(const cu_shim_config *);
cu_shim_counts cu_shim_count(void);
/* Everything that can be alive at once, added up: zero when nothing leaks. */
size_t cu_shim_alive(void);
/* Looks at all guard zones now; they are also looked at when their memory is freed. */
void cu_shim_check_guards(void);
/* The last misuse in words; "" when there was none. */
const char *cu_shim_misuse(void);

/* The n-th call from now (1: the next) fails with `error`; 0: none will. */
void cu_shim_fail_call(uint64_t n, cudaError_t error);
/* The n-th kernel launched from now fails: when it is launched, or when the stream comes to it. */
void cu_shim_fail_launch(uint64_t n, cudaError_t error, bool when_it_runs);
/* The call that was made to fail since: "cudaMalloc", "kernel"; NULL when it has not come to it. */
const char *cu_shim_failed(void);

/* A stand-in for another library's kernel: fn(ctx) is put on the stream, or into the record that is being
 * made, and called each time the stream comes to it, as kernels are. */
cudaError_t cu_shim_enqueue(cudaStream_t, void (*fn)(void *ctx), void *ctx);

#ifdef __cplusplus
}
#endif

#endif
