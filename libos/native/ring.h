/* A circle of pages from which any can be removed in constant time, for pagers.
 *
 * Each page is in it at most once; two 16-bit links for each page of the program are all it needs.
 */
#ifndef RING_H
#define RING_H
#include "pager.h"

#define RING_NONE UINT32_MAX

struct ring {
    uint16_t *after, *before;
    uint32_t size;
};

static inline void ring_start(struct ring *ring, uint32_t pages) {
    ring->after = pager_memory(2 * sizeof(uint16_t) * (size_t)pages);
    ring->before = ring->after + pages;
}

/* Puts `page` just before `before`, which is RING_NONE only while the ring is empty. */
static inline void ring_insert(struct ring *ring, uint32_t page, uint32_t before) {
    if (ring->size++ == 0)
        before = ring->before[page] = (uint16_t)page;
    uint16_t neighbour = ring->before[before];
    ring->after[neighbour] = ring->before[before] = (uint16_t)page;
    ring->before[page] = neighbour;
    ring->after[page] = (uint16_t)before;
}

/* Takes `page` out; gives the one that followed it, RING_NONE if it was alone. */
static inline uint32_t ring_remove(struct ring *ring, uint32_t page) {
    uint16_t after = ring->after[page], before = ring->before[page];
    ring->after[before] = after;
    ring->before[after] = before;
    return --ring->size ? after : RING_NONE;
}

#endif
