/* Most recently used: evicts the page used last, which is right for a loop over more pages than there are frames.
 *
 * Between two faults the hardware tells only whether a page was used at all, so: among the used ones the page admitted
 * last goes, and if none was used simply the last.  The SPARE newest pages are kept, because one instruction may need
 * several pages at once, and a pager that always took the newest would exchange them for one another for ever; no
 * instruction without vector gathers touches more than eight.
 */
#include "ring.h"

#define SPARE 8

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
    uint32_t first = ring.before[oldest];
    for (uint32_t spare = 0; spare < SPARE && first != oldest; spare++)
        first = ring.before[first];
    for (uint32_t page = first;; page = ring.before[page]) {
        if (page_accessed(page))
            return page;
        if (page == oldest)
            return first;
    }
}
