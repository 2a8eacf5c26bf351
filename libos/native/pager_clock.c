/* Clock: a hand sweeps over the pages, clears accessed bits, and stops at the first page not used since it last came
 * by.
 *
 * A new page is put behind the hand, to be looked at last.  If every page was used, the hand comes round to where it
 * began and takes that page.  Source: F. J. Corbato, A Paging Experiment with the Multics System, MAC-M-384, 1968.
 */
#include "ring.h"

static struct ring ring;
static uint32_t hand = RING_NONE;

void pager_start(uint32_t pages, uint32_t frames, uint64_t seed) {
    (void)frames, (void)seed;
    ring_start(&ring, pages);
}

void pager_admit(uint32_t page) {
    ring_insert(&ring, page, hand);
    if (hand == RING_NONE)
        hand = page;
}

void pager_forget(uint32_t page) {
    uint32_t after = ring_remove(&ring, page);
    if (hand == page)
        hand = after;
}

uint32_t pager_victim(void) {
    uint32_t page = hand;
    for (uint32_t left = ring.size; left && page_accessed(page); left--) {
        page_clear_accessed(page);
        page = ring.after[page];
    }
    return hand = page;
}
