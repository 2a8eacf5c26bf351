/* First in, first out: evicts the page that has been resident longest, used or not. */
#include "ring.h"

static struct ring ring;
static uint32_t oldest = RING_NONE;

void pager_start(uint32_t pages, uint32_t frames, uint64_t seed) {
    (void)frames, (void)seed;
    ring_start(&ring, pages);
}

void pager_admit(uint32_t page) {
    ring_insert(&ring, page, oldest);
    if (oldest == RING_NONE)
        oldest = page;
}

void pager_forget(uint32_t page) {
    uint32_t after = ring_remove(&ring, page);
    if (oldest == page)
        oldest = after;
}

uint32_t pager_victim(void) {
    return oldest;
}
