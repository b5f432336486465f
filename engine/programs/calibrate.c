/* SPDX-License-Identifier: Apache-2.0 */
/* `weir calibrate`: logs what both models say along the large one's texts, replays settings, chooses one. Main
 * thread. */
#include "programs/calibrate.h"

#include "programs/options.h"
#include "programs/out.h"

int weir_main_calibrate(const weir_config *c) {
  weir_err e = {0};
  (void)c;
  weir_fail(&e, WEIR_EUNSUP, "calibrate is not built in yet");
  return weir_tell(&e, WEIR_EXIT_FAILED);
}
