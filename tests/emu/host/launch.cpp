// SPDX-License-Identifier: Apache-2.0
// Where the emulator's kernel launches come in: they go through the streams of the runtime here.
// The emulator's header comes last: it takes words such as __noinline__ away from C++'s own headers.
#include "shim.h"

#include <cu_emu.h>

namespace shim {

static const bool hooked = [] {
  emu::launch_hook = [](void *stream, std::function<void()> work) {
    shim::launch((cudaStream_t)stream, std::move(work));
  };
  return true;
}();

// Called from where the runtime begins, so that a static library has this file in.
bool launches_come_here() { return hooked; }
}  // namespace shim
