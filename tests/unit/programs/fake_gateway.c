/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for weir-gateway: does what FAKE_DO says, and writes to FAKE_REPORT what it was given. */
#include <dirent.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

extern char **environ;

static void report(const char *path, int argc, char **argv) {
  char temp[512], line[512];
  snprintf(temp, sizeof temp, "%s.part", path);
  FILE *f = fopen(temp, "w");
  if (!f) exit(90);
  for (int i = 1; i < argc; i++) fprintf(f, "arg %s\n", argv[i]);
  for (char **p = environ; *p; p++)
    if (!strncmp(*p, "WEIR_", 5)) fprintf(f, "env %s\n", *p);
  for (int i = 1; i + 1 < argc; i++) {
    FILE *keys = !strcmp(argv[i], "--api-key-file") ? fopen(argv[i + 1], "r") : NULL;
    while (keys && fgets(line, sizeof line, keys)) fprintf(f, "key %s", line);
    if (keys) fclose(keys);
  }
  fprintf(f, "group %d\n", getpgrp() == getpid());
  for (int fd = 3; fd < 64; fd++) { /* what was left open by who started us, but for the keys */
    char name[64], what[256];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    const ssize_t n = fd == fileno(f) ? -1 : readlink(name, what, sizeof what - 1);
    if (n < 0) continue;
    what[n] = '\0';
    if (!strstr(what, "memfd:")) fprintf(f, "open %s\n", what);
  }
  fclose(f);
  if (rename(temp, path) != 0) exit(91);
}

int main(int argc, char **argv) {
  const char *todo = getenv("FAKE_DO"), *path = getenv("FAKE_REPORT"), *port = NULL;
  if (path) report(path, argc, argv);
  if (!todo) return 92;
  if (!strncmp(todo, "exit", 4)) return atoi(todo + 4);
  if (!strcmp(todo, "deaf")) {
    pause();
    return 0;
  }
  for (int i = 1; i + 1 < argc; i++)
    if (!strcmp(argv[i], "--listen")) port = strrchr(argv[i + 1], ':');
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  if (!port || fd < 0) return 93;
  a.sin_port = htons((unsigned short)atoi(port + 1));
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!strcmp(todo, "stubborn")) signal(SIGTERM, SIG_IGN);
  if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 8) != 0) return 94;
  for (;;) pause();
}
