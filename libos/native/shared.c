/* os_shared: pages that stay shared when the environment forks.
 *
 * Each lies in a frame of which every environment that has it is a holder, so that it is there for as long as one of
 * them lives; it is reserved in all of them and never leaves.  They lie at the end of the stretch of 2 MiB in which the
 * library has its own memory, where there is a page table already, and at the same address in parent and child.
 */
#include "library.h"

#define STRETCH 0x200000

static uint32_t frames[SHARED_MAXIMUM];

/* Where shared page `place` lies. */
uint64_t shared_address(uint32_t place) {
    return (start->window & -(uint64_t)STRETCH) + STRETCH - (SHARED_MAXIMUM - place) * EXO_PAGE_SIZE;
}

/* The frame of shared page `place`; 0 if there is no such page. */
uint32_t shared_frame(uint32_t place) {
    return frames[place];
}

static int64_t make_page(void) {
    uint32_t place = 0;
    while (place < SHARED_MAXIMUM && frames[place])
        place++;
    if (place == SHARED_MAXIMUM)
        return -1;
    enter();
    int zeroed;
    uint32_t frame = take_frame(&zeroed);
    uint64_t va = shared_address(place);
    if (exo_reserve_page(frame, 1, EXO_SELF) == 0 && map(va, frame, EXO_RIGHTS_READ | EXO_RIGHTS_WRITE) == 0 &&
        (zeroed || zero_words(va, EXO_PAGE_SIZE / 8) == 0)) {
        frames[place] = frame;
        leave();
        return place;
    }
    exo_dealloc_page(frame, EXO_SELF);
    leave();
    return -1;
}

/* Makes a shared page; gives its place, or -1. */
int64_t share_page(void) {
    return on_library_stack((void *)make_page, 0, 0, 0);
}

/* Lets go of a shared page; whoever else has it keeps it. */
void drop_shared_page(uint32_t place) {
    exo_dealloc_page(frames[place], EXO_SELF);
    frames[place] = 0;
}

void *os_shared(void) {
    int64_t place = share_page();
    return place < 0 ? NULL : (void *)shared_address((uint32_t)place);
}
