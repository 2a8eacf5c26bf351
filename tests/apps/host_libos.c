/* The interface of a library OS once more, over the host's C library: the same programs run on the host, as an oracle.
 *
 * It is as unhelpful as the interface allows.  Memory from os_alloc is full of rubbish, os_write writes a few bytes only,
 * and every os_advise makes all pages forgotten that were ever said to be recomputable.
 */
#define _GNU_SOURCE
#include "libos.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

enum { LONGEST_WRITE = 100, RANGES = 16, RUBBISH = 0xa5 };

static struct {
    char *memory;
    size_t size;
} recomputable[RANGES];
static size_t ranges;

_Noreturn void os_exit(int status) {
    _exit(status);
}

__attribute__((destructor)) static void flush_at_the_end(void) {
    flush();
}

long os_write(const void *text, size_t size) {
    return write(STDOUT_FILENO, text, size < LONGEST_WRITE ? size : LONGEST_WRITE);
}

uint64_t os_time(void) {
    return (uint64_t)clock();
}

void os_yield(void) {
}

void *os_alloc(size_t size) {
    void *memory = malloc(size);
    return memory == NULL ? NULL : memset(memory, RUBBISH, size);
}

void os_free(void *memory) {
    free(memory);
}

void *os_region(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

const void *os_map_file(const char *name, size_t *size) {
    struct stat about;
    const int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
        return NULL;
    }
    *size = (size_t)about.st_size;
    void *memory = *size == 0 ? "" : mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

static int forget(char *memory, size_t size) {
    const size_t first = -(uintptr_t)memory % PAGE_SIZE;
    return size < first ? 0 : madvise(memory + first, (size - first) / PAGE_SIZE * PAGE_SIZE, MADV_DONTNEED);
}

int os_advise(void *memory, size_t size, int advice) {
    if (advice == OS_RECOMPUTABLE && ranges < RANGES) {
        recomputable[ranges].memory = memory;
        recomputable[ranges++].size = size;
    }
    for (size_t i = 0; i < ranges; i++) {
        forget(recomputable[i].memory, recomputable[i].size);
    }
    return advice == OS_DISCARD ? forget(memory, size) : 0;
}

long os_fork(void) {
    return fork();
}

long os_wait(long child) {
    int status;
    return waitpid((pid_t)child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
