/* The regions a heap grows by, for a heap on the host: one area, with a gap after every region if the test wants it. */
#include <setjmp.h>
#include <string.h>
#include "libos.h"

static char area[4 << 20] __attribute__((aligned(4096)));
static size_t used;
size_t gap, complaints;
static jmp_buf before;

void *os_region(size_t size) {
    size = (size + 4095) & ~(size_t)4095;
    if (size > sizeof area - used)
        return NULL;
    void *region = area + used;
    used += size + gap < sizeof area - used ? size + gap : sizeof area - used;
    return region;
}

long os_write(const void *text, size_t size) {
    (void)text;
    complaints++;
    return (long)size;
}

void os_mutex_lock(struct os_mutex *mutex) {
    (void)mutex;
}

void os_mutex_unlock(struct os_mutex *mutex) {
    (void)mutex;
}

_Noreturn void os_exit(int status) {
    longjmp(before, status);
}

size_t area_used(void) {
    return used;
}

/* Frees memory that must not be freed; gives the status with which the program would have ended. */
int try_to_free(void *memory) {
    int status = setjmp(before);
    if (status == 0)
        os_free(memory);
    return status;
}
