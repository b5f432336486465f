// SPDX-License-Identifier: Apache-2.0
// The emulator's CUDA runtime: streams, copies, events, records (graphs), and the way kernels come in. Host
// threads of any number; every call holds the one lock, and so does what runs on a stream, but for kernels.
#include <sched.h>
#include <string.h>

#include "shim.h"

using namespace shim;

struct CUstream_st {
  int device = 0;
  std::deque<Work> queue;
  bool busy = false;            // a thread runs a kernel of it, without the lock
  CUgraph_st *graph = nullptr;  // being recorded
  bool broken = false;          // the record
  enum cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id recorder;
};

struct CUevent_st {
  CUstream_st *stream = nullptr;  // of the last record
  std::shared_ptr<bool> done;     // NULL: never recorded
  bool captured = false;
};

struct CUgraph_st {
  std::vector<Work> nodes;
};

struct CUgraphExec_st {
  std::vector<Work> nodes;
};

namespace shim {

thread_local int held;

struct Busy {
  CUstream_st *s;
  explicit Busy(CUstream_st *of) : s(of) { s->busy = true; }
  ~Busy() { s->busy = false; }
};

static bool known(CUstream_st *s) { return s && state().streams.count(s); }

// Somebody else may be at it: then it is waited for.
static void run_first(CUstream_st *s) {
  if (s->busy) {
    Unlocked unlocked;
    sched_yield();
    return;
  }
  Work w = std::move(s->queue.front());
  s->queue.pop_front();
  if (state().sticky != cudaSuccess) return;  // the context is gone: nothing happens any more
  state().counts.n_run++;
  if (!w.apart) return w.run();
  Busy busy(s);
  Unlocked unlocked;
  w.run();
}

static void drain(CUstream_st *s) {
  while (known(s) && (s->busy || !s->queue.empty())) run_first(s);
}

// Those of the thread's GPU. Side by side, for they may wait for each other.
void drain_all() {
  std::vector<CUstream_st *> left;
  for (CUstream_st *s : state().streams)
    if (s->device == current_device() && (s->busy || !s->queue.empty())) left.push_back(s);
  std::vector<std::thread> others;
  for (size_t i = 1; i < left.size(); i++)
    others.emplace_back([s = left[i]] {
      Lock lock;
      drain(s);
    });
  if (!left.empty()) drain(left[0]);
  Unlocked unlocked;
  for (std::thread &t : others) t.join();
}

bool pending_on(const char *p, size_t bytes) {
  if (state().sticky != cudaSuccess) return false;
  for (const CUstream_st *s : state().streams)
    for (const Work &w : s->queue)
      if (w.host.lo && w.host.lo < p + bytes && p < w.host.hi) return true;
  return false;
}

bool break_capture() {
  bool broke = false;
  for (CUstream_st *s : state().streams) {
    const bool mine = s->recorder == std::this_thread::get_id();
    if (!s->graph || s->mode == cudaStreamCaptureModeRelaxed) continue;
    if (s->mode == cudaStreamCaptureModeThreadLocal && !mine) continue;
    s->broken = broke = true;
  }
  return broke;
}

void drop_streams() {
  State &s = state();
  for (CUstream_st *x : s.streams) delete x->graph, delete x;
  for (CUevent_st *x : s.events) delete x;
  for (CUgraph_st *x : s.graphs) delete x;
  for (CUgraphExec_st *x : s.execs) delete x;
  s.streams.clear();
  s.events.clear();
  s.graphs.clear();
  s.execs.clear();
}

// What nobody has waited for may have happened all the same.
static void maybe_early(CUstream_st *s) {
  if (state().streams.size() > 1) return;
  if ((int)(random() & 255) >= state().config.early) return;
  for (size_t n = (size_t)(random() % (s->queue.size() + 1)); n > 0 && !s->queue.empty(); n--) run_first(s);
}

cudaError_t enqueue(cudaStream_t s, Work w) {
  if (!known(s)) {
    misuse("%s on stream %p, which is none of ours", w.name, (void *)s);
    return fail(cudaErrorInvalidResourceHandle);
  }
  if (s->device != current_device()) return fail(cudaErrorInvalidResourceHandle);
  if (s->broken) return fail(cudaErrorStreamCaptureInvalidated);
  if (s->graph) {
    s->graph->nodes.push_back(std::move(w));
    return cudaSuccess;
  }
  s->queue.push_back(std::move(w));
  maybe_early(s);
  return cudaSuccess;
}

// Kernels: what CU_LAUNCH calls. Its result is what the launcher's cudaGetLastError gives.
void launch(cudaStream_t stream, std::function<void()> work) {
  Lock lock;
  State &s = state();
  if (s.sticky != cudaSuccess) {
    fail(s.sticky);
    return;
  }
  s.counts.n_launches++;
  if (s.launch.at && --s.launch.at == 0) {
    const cudaError_t error = s.launch.error;
    s.failed = "kernel";
    if (!s.launch.when_it_runs) {
      fail(error);
      return;
    }
    enqueue(stream, Work{"kernel", [error] { state().sticky = error; }, Span()});
    return;
  }
  enqueue(stream, Work{"kernel", std::move(work), Span(), true});
}

// Waiting is not for streams that are recorded.
static bool refused(CUstream_st *s) {
  if (!s->graph) return false;
  s->broken = true;
  return true;
}

}  // namespace shim

extern "C" {

cudaError_t cu_shim_enqueue(cudaStream_t stream, void (*fn)(void *), void *ctx) {
  SHIM_CALL(cu_shim_enqueue);
  state().counts.n_launches++;
  return enqueue(stream, Work{"kernel", [=] { fn(ctx); }, Span(), true});
}

// ---- streams ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int) {
  Lock lock;
  const cudaError_t e = enter_unsafe("cudaStreamCreateWithFlags");
  if (e != cudaSuccess) return e;
  CUstream_st *s = new CUstream_st;
  s->device = current_device();
  state().streams.insert(s);
  *stream = s;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock;
  const cudaError_t e = enter("cudaStreamDestroy");
  if (!known(stream)) {
    misuse("cudaStreamDestroy of an unknown stream");
    return fail(cudaErrorInvalidResourceHandle);
  }
  drain(stream);
  delete stream->graph;
  state().streams.erase(stream);
  delete stream;
  return e;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  SHIM_CALL(cudaStreamSynchronize);
  if (!known(stream)) return fail(cudaErrorInvalidResourceHandle);
  if (refused(stream)) return fail(cudaErrorStreamCaptureUnsupported);
  state().counts.n_waits++;
  drain(stream);
  return fail(state().sticky);
}

// Somebody who asks again and again gets on: each question lets one thing happen.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  SHIM_CALL(cudaStreamQuery);
  if (!known(stream)) return fail(cudaErrorInvalidResourceHandle);
  if (refused(stream)) return fail(cudaErrorStreamCaptureUnsupported);
  if (stream->queue.empty() && !stream->busy) return fail(state().sticky);
  run_first(stream);
  return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void) {
  Lock lock;
  const cudaError_t e = enter_unsafe("cudaDeviceSynchronize");
  if (e != cudaSuccess) return e;
  state().counts.n_waits++;
  drain_all();
  return fail(state().sticky);
}

// ---- copies ----

// Not in order with our streams, which do not block the default one: it happens now.
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind) {
  Lock lock;
  const cudaError_t e = enter("cudaMemcpy");
  if (e != cudaSuccess) return e;
  if (break_capture()) return fail(cudaErrorStreamCaptureImplicit);
  memcpy(dst, src, bytes);
  return cudaSuccess;
}

static bool side_ok(const char *what, const void *p, size_t bytes, bool device) {
  const State &s = state();
  if (device) return find(s.device, p, bytes) != nullptr;
  if (find(s.device, p, 1)) return false;
  if (!find(s.pinned, p, bytes)) misuse("cudaMemcpyAsync %s memory that is not pinned would wait", what);
  return true;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  SHIM_CALL(cudaMemcpyAsync);
  if (!bytes) return cudaSuccess;
  const bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyDefault || kind == cudaMemcpyHostToHost) {
    misuse("cudaMemcpyAsync that does not say which way");
    return fail(cudaErrorInvalidValue);
  }
  if (!side_ok("from", src, bytes, from) || !side_ok("to", dst, bytes, to))
    return fail(cudaErrorInvalidValue);
  Span host;
  if (!from) host = Span{(const char *)src, (const char *)src + bytes};
  if (!to) host = Span{(const char *)dst, (const char *)dst + bytes};
  return enqueue(stream, Work{"cudaMemcpyAsync", [=] { memcpy(dst, src, bytes); }, host});
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
  SHIM_CALL(cudaMemsetAsync);
  if (!bytes) return cudaSuccess;
  if (!find(state().device, p, bytes)) return fail(cudaErrorInvalidValue);
  return enqueue(stream, Work{"cudaMemsetAsync", [=] { memset(p, value, bytes); }, Span()});
}

// ---- events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int) {
  SHIM_CALL(cudaEventCreateWithFlags);
  CUevent_st *ev = new CUevent_st;
  state().events.insert(ev);
  *event = ev;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock;
  const cudaError_t e = enter("cudaEventDestroy");
  if (!state().events.erase(event)) {
    misuse("cudaEventDestroy of an unknown event");
    return fail(cudaErrorInvalidResourceHandle);
  }
  delete event;
  return e;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  SHIM_CALL(cudaEventRecord);
  if (!state().events.count(event) || !known(stream)) return fail(cudaErrorInvalidResourceHandle);
  auto done = std::make_shared<bool>(false);
  event->captured = stream->graph != nullptr;
  event->stream = stream;
  event->done = done;
  return enqueue(stream, Work{"cudaEventRecord", [done] { *done = true; }, Span()});
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  SHIM_CALL(cudaEventQuery);
  if (!state().events.count(event)) return fail(cudaErrorInvalidResourceHandle);
  if (event->captured) return break_capture(), fail(cudaErrorCapturedEvent);
  if (break_capture()) return fail(cudaErrorStreamCaptureUnsupported);
  if (!event->done || *event->done) return fail(state().sticky);
  CUstream_st *const of = event->stream;
  if (known(of) && (of->busy || !of->queue.empty())) run_first(of);
  return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  SHIM_CALL(cudaEventSynchronize);
  if (!state().events.count(event)) return fail(cudaErrorInvalidResourceHandle);
  if (event->captured) return break_capture(), fail(cudaErrorCapturedEvent);
  if (break_capture()) return fail(cudaErrorStreamCaptureUnsupported);
  state().counts.n_waits++;
  const std::shared_ptr<bool> done = event->done;
  CUstream_st *const of = event->stream;
  while (!*done && known(of) && (of->busy || !of->queue.empty())) run_first(of);
  return fail(state().sticky);
}

// ---- records ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  SHIM_CALL(cudaStreamBeginCapture);
  if (!known(stream)) return fail(cudaErrorInvalidResourceHandle);
  if (stream->graph) return fail(cudaErrorIllegalState);
  stream->graph = new CUgraph_st;
  stream->broken = false;
  stream->mode = mode;
  stream->recorder = std::this_thread::get_id();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  Lock lock;
  const cudaError_t e = enter("cudaStreamEndCapture");
  *graph = nullptr;
  if (!known(stream)) return fail(cudaErrorInvalidResourceHandle);
  CUgraph_st *made = stream->graph;
  stream->graph = nullptr;
  const bool broken = stream->broken;
  stream->broken = false;
  if (!made) return fail(cudaErrorIllegalState);
  if (broken || e != cudaSuccess) {
    delete made;
    return e != cudaSuccess ? e : fail(cudaErrorStreamCaptureInvalidated);
  }
  state().graphs.insert(made);
  *graph = made;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  SHIM_CALL(cudaStreamIsCapturing);
  if (!known(stream)) return fail(cudaErrorInvalidResourceHandle);
  *status = !stream->graph   ? cudaStreamCaptureStatusNone
            : stream->broken ? cudaStreamCaptureStatusInvalidated
                             : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
  Lock lock;
  const cudaError_t e = enter_unsafe("cudaGraphInstantiate");
  if (e != cudaSuccess) return e;
  if (!state().graphs.count(graph)) return fail(cudaErrorInvalidValue);
  CUgraphExec_st *x = new CUgraphExec_st;
  x->nodes = graph->nodes;
  state().execs.insert(x);
  *exec = x;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Lock lock;
  const cudaError_t e = enter("cudaGraphDestroy");
  if (!state().graphs.erase(graph)) {
    misuse("cudaGraphDestroy of an unknown graph");
    return fail(cudaErrorInvalidValue);
  }
  delete graph;
  return e;
}

// What is under way of it goes on (CUDA Runtime API, cudaGraphExecDestroy).
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Lock lock;
  const cudaError_t e = enter("cudaGraphExecDestroy");
  if (!state().execs.erase(exec)) {
    misuse("cudaGraphExecDestroy of an unknown record");
    return fail(cudaErrorInvalidValue);
  }
  delete exec;
  return e;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  SHIM_CALL(cudaGraphLaunch);
  if (!state().execs.count(exec)) {
    misuse("cudaGraphLaunch of an unknown record");
    return fail(cudaErrorInvalidValue);
  }
  state().counts.n_graph_launches++;
  for (const Work &w : exec->nodes) {
    const cudaError_t e = enqueue(stream, w);
    if (e != cudaSuccess) return e;
  }
  return cudaSuccess;
}

}  // extern "C"
