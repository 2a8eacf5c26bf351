/* Random: evicts any resident page, each with the same probability, as the seed decides. */
#include "pager.h"

static uint16_t *resident, *place;
static uint32_t count;
static uint64_t state;

/* SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every seed, zero too, begins a sequence of full period. */
static uint64_t next(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

void pager_start(uint32_t pages, uint32_t frames, uint64_t seed) {
    (void)frames;
    state = seed;
    resident = pager_memory(2 * sizeof(uint16_t) * (size_t)pages);
    place = resident + pages;
}

void pager_admit(uint32_t page) {
    place[page] = (uint16_t)count;
    resident[count++] = (uint16_t)page;
}

void pager_forget(uint32_t page) {
    uint16_t last = resident[--count];
    resident[place[page]] = last;
    place[last] = place[page];
}

uint32_t pager_victim(void) {
    return resident[(next() >> 32) * count >> 32];
}
