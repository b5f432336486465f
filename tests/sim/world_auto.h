/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs in mode auto in the small world. */
#ifndef WEIR_TESTS_WORLD_AUTO_H
#define WEIR_TESTS_WORLD_AUTO_H
#include "world.h"

/* From here on each floor's mode is any it allows, another in each fourth turn: world_opts.each_turn. The
 * controller itself has no say then. */
void world_shuffle_modes(world *);
/* No token is below the job's floor, what ever mode it was written in: it is the large tier's own, or, with
 * `near`, one that the gate lets pass, or, with `any`, the small tier's own; the receipt says which; and the
 * text ends where it must. */
void world_check_floor(const world *, const world_job *);

#endif
