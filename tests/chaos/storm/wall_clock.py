"""A wall clock that can be set while processes read it, where there is a C compiler.

Only what ``date`` shows moves; the monotonic clock goes on, as it does when somebody sets a machine's time. (Debian's
libfaketime cannot be used: under it Python's ``time.sleep`` fails with EINVAL when the monotonic clock is left alone.)
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_FILE_VARIABLE = "TASKER_CHAOS_CLOCK"

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *seconds;

static int64_t ahead(void) {
    static const int64_t none;
    if (!seconds) {
        const char *path = getenv("TASKER_CHAOS_CLOCK");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *found = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        seconds = found == MAP_FAILED ? &none : found;
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, now);
    if (!answer && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return answer;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void) zone;
    int answer = clock_gettime(CLOCK_REALTIME, &found);
    if (!answer && now) { now->tv_sec = found.tv_sec; now->tv_usec = found.tv_nsec / 1000; }
    return answer;
}

time_t time(time_t *where) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (where) *where = found.tv_sec;
    return found.tv_sec;
}
"""


class WallClock:
    """The clock of all processes that are started with ``environment``.

    Args:
        folder: of the library, and of the file from which processes learn the time.
    """

    def __init__(self, folder: Path) -> None:
        self._library = folder / "wall_clock.so"
        self._file = folder / "wall_clock"
        self._file.write_bytes(bytes(mmap.PAGESIZE))
        self.can_be_set = self._build()
        """Whether there is a compiler to make it with."""

    def _build(self) -> bool:
        compiler = shutil.which("cc")
        if compiler is None:
            return False
        source = self._library.with_suffix(".c")
        source.write_text(_SOURCE)
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def environment(self) -> dict[str, str]:
        """For the processes."""
        return {"LD_PRELOAD": str(self._library), _FILE_VARIABLE: str(self._file)} if self.can_be_set else {}

    def jump(self, seconds: int) -> None:
        """Let it be that far ahead of the real time, or behind."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
            shared[:8] = struct.pack("q", seconds)
