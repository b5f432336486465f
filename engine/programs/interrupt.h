/* SPDX-License-Identifier: Apache-2.0 */
/* SIGINT, SIGTERM, SIGHUP and SIGQUIT end a run cleanly: the first asks, the second is not caught. */
#ifndef WEIR_PROGRAMS_INTERRUPT_H
#define WEIR_PROGRAMS_INTERRUPT_H

/* A closed pipe becomes an error of the write instead of a signal. */
void weir_interrupt_ignore_pipe(void);
/* Takes all four; a SIGHUP or SIGQUIT that is ignored (nohup) stays so. Called when models are loaded and a
 * loop begins that looks at them: before, and where nothing looks, a signal ends the program as it does any
 * other. */
void weir_interrupt_init(void);
/* Forgets a signal that came, and leaves them to the system again, as before weir_interrupt_init. */
void weir_interrupt_reset(void);
/* The signal that came, or 0. */
int weir_interrupt_pending(void);

#endif
