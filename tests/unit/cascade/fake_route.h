/* SPDX-License-Identifier: Apache-2.0 */
/* Routing of whole requests, told without the policy's own steps: what a routed request writes, whether one
 * step's effect is what the rows say, and random configurations of that kind. */
#ifndef WEIR_TESTS_FAKE_ROUTE_H
#define WEIR_TESTS_FAKE_ROUTE_H
#include "fake_request.h"

typedef struct fake_route_count fake_route_count;

/* Which tier writes what, by the small model's rows along its own text. */
weir_routed fake_route_oracle(const fake_job *, fake_text *out, fake_route_count *);
/* Of a step of the small tier while it was open: the effect follows from its rows and those before. */
void fake_route_check(fake_req *, const weir_cascade *before, const weir_need *, const weir_row *rows,
                      const weir_effect *);
weir_cascade_cfg fake_any_route(void);

#endif
