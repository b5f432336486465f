/* SPDX-License-Identifier: Apache-2.0 */
/* Results of a calibration: their memory. Any thread. */
#include "calibrate/result.h"

#include <stdlib.h>

void weir_calibration_fini(weir_calibration *c) {
  for (int32_t i = 0; i < c->n_curves; i++) free(c->curve[i].point);
  free(c->curve);
  free(c->choice.grid);
  free(c->choice.grid_risk);
  *c = (weir_calibration){0};
}
