/* SPDX-License-Identifier: Apache-2.0 */
/* In place of comm_nccl.c where a build found no nccl.h. */
#include "comm/comm_nccl.h"

static weir_status missing(weir_err *e) {
  return weir_fail(e, WEIR_EUNSUP, "this build found no nccl.h and has no NCCL");
}

static weir_status stub_open(weir_comm_seat *s, char *offer, weir_err *e) {
  (void)s;
  (void)offer;
  return missing(e);
}
static void stub_close(weir_comm_seat *s) { (void)s; }
static weir_status stub_invite(int32_t n_ranks, const char *const *offer, char *out, weir_err *e) {
  (void)n_ranks;
  (void)offer;
  (void)out;
  return missing(e);
}
static weir_status stub_join(weir_comm_seat *s, const char *invite, int32_t n_ranks, int32_t rank,
                             weir_comm **out, weir_err *e) {
  (void)s;
  (void)invite;
  (void)n_ranks;
  (void)rank;
  (void)out;
  return missing(e);
}

const weir_comm_back weir_comm_nccl_back = {
    .device = "cuda",
    .check = missing,
    .open = stub_open,
    .close = stub_close,
    .invite = stub_invite,
    .join = stub_join,
};

void weir_comm_nccl_library(const char *path) { (void)path; }
