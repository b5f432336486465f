/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines on stderr: "weir: warning: text". Text that a user asked for goes to stdout, never here. */
#ifndef WEIR_BASE_LOG_H
#define WEIR_BASE_LOG_H

typedef enum { WEIR_LOG_ERROR, WEIR_LOG_WARN, WEIR_LOG_INFO, WEIR_LOG_DEBUG } weir_log_level;

/* Lines above the level are dropped. Default: INFO. */
void weir_log_set_level(weir_log_level level);
void weir_log(weir_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
