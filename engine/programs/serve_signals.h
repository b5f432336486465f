/* SPDX-License-Identifier: Apache-2.0 */
/* Signals of a server: SIGTERM and SIGINT ask it to end, SIGCHLD says that its child has, SIGHUP is ignored.
 */
#ifndef WEIR_PROGRAMS_SERVE_SIGNALS_H
#define WEIR_PROGRAMS_SERVE_SIGNALS_H
#include "base/err.h"

/* From here to weir_serve_signals_begin a signal that asks ends the process at once: models are being loaded,
 * and there is nobody yet to whom anything was promised. A SIGINT that is ignored (a job in the background)
 * stays so. */
weir_status weir_serve_signals_init(weir_err *e);
void weir_serve_signals_begin(void);
/* Readable when a signal came since the last weir_serve_signals_asked. */
int weir_serve_signals_fd(void);
/* How many signals have asked for the end. */
int weir_serve_signals_asked(void);

#endif
