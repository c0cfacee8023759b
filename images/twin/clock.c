/* libtwinclock.so of the digital twin: for one process, the clocks jump.
 *
 * A container's clock is the machine's, and nobody may set that. Preloaded (LD_PRELOAD) into a process, this library
 * adds what /run/twin/clock says to the clocks that a jump would change: lines of "realtime SECONDS" (somebody set the
 * wall clock) and "boottime SECONDS" (the machine slept). No file, no jump. CLOCK_MONOTONIC is never touched.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define OFFSETS "/run/twin/clock"

/* Seconds to add to the clock called `name`. Read at each call: a test switches it while the process runs. */
static long offset_s(const char *name)
{
    char text[128];
    long found = 0;
    int file = open(OFFSETS, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    const char *line = strstr(text, name);
    if (line != NULL)
        sscanf(line + strlen(name), " %ld", &found);
    return found;
}

/* The kernel is asked directly: the C library's own function is the one replaced here. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    int code = (int)syscall(SYS_clock_gettime, clock, now);
    if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset_s("realtime");
    if (code == 0 && clock == CLOCK_BOOTTIME)
        now->tv_sec += offset_s("boottime");
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    int code = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return code;
}

time_t time(time_t *into)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (into != NULL)
        *into = exact.tv_sec;
    return exact.tv_sec;
}
