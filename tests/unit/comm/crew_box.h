/* SPDX-License-Identifier: Apache-2.0 */
/* A crew of a test: what it was told, to be waited for, and messages whose length and bytes follow from their
 * number. */
#ifndef WEIR_TESTS_UNIT_COMM_CREW_BOX_H
#define WEIR_TESTS_UNIT_COMM_CREW_BOX_H
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/crew.h"

enum { BOX_NODES = 8, BOX_PATIENCE_MS = 30000 };

typedef struct crew_box {
  weir_crew *crew;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  /* by node; under the lock */
  int joined[BOX_NODES], lost[BOX_NODES], got[BOX_NODES], wrong[BOX_NODES];
  int64_t lost_ns[BOX_NODES];
  char why[BOX_NODES][256], who[BOX_NODES][WEIR_CREW_WHO_BYTES];
  int tell_fd;            /* 'J' joined, 'L' lost, 'R' refused go there; 0: nowhere */
  bool echo;              /* send back what comes */
  size_t (*size_of)(int); /* of message number i; NULL: not looked at */
} crew_box;

int64_t box_now_ns(void);
/* "127.0.0.1:PORT", where nobody listens just now. */
void box_address(char out[64]);
/* Fills in on_event, ctx. Not opened: box->crew is NULL. */
weir_status box_open(crew_box *, weir_crew_opts, weir_err *e);
void box_close(crew_box *);
/* Until *counter (one of the box's) is `least`; false: it has not come to that. */
bool box_wait(crew_box *, const int *counter, int least);
int box_read(crew_box *, const int *counter);

/* The life of a process that echoes, and tells on its output what happens, until its input ends. Its exit
 * status. */
int box_be_node(weir_crew_opts);

uint8_t box_byte(int message, size_t at);
void box_fill(uint8_t *to, int message, size_t bytes);

#endif
