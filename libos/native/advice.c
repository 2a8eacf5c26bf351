/* What the program knows of its memory and the kernel cannot: os_advise.
 *
 * Only whole pages inside the range are meant.  A discarded page gives its frame up at once and reads as zeros; a
 * recomputable one is never written out and reads as zeros once it had to go.
 */
#include "library.h"

#define ADVISE_AGAIN (-2)

static struct start_region *anonymous_at(uint64_t va) {
    struct start_region *region = region_at(va);
    return region && swappable(region) ? region : NULL;
}

static void discard(uint32_t page) {
    uint8_t kept = page_state[page] & PAGE_STAYS;
    if (PLACE(page_state[page]) == PLACE_RESIDENT) {
        uint64_t entry = page_entry(page);
        absent(page, PLACE_ZERO | kept);
        if (entry & ENTRY_PRESENT)
            exo_dealloc_page(ENTRY_FRAME(entry), EXO_SELF);
    } else {
        page_state[page] = PLACE_ZERO | kept;
    }
}

/* Gives ADVISE_AGAIN, having done part, if a page is on its way. */
int64_t advise(uint64_t begin, uint64_t past, uint64_t advice) {
    for (uint64_t va = begin; va < past; va += EXO_PAGE_SIZE)
        if (!anonymous_at(va))
            return -1;
    enter();
    for (uint64_t va = begin; va < past; va += EXO_PAGE_SIZE) {
        const struct start_region *region = anonymous_at(va);
        uint32_t page = (uint32_t)(region->first_page + (va - region->va) / EXO_PAGE_SIZE);
        if (is_busy(page_state[page])) {
            leave();
            return ADVISE_AGAIN;
        }
        if (advice == OS_DISCARD)
            discard(page);
        else if (advice == OS_RECOMPUTABLE)
            page_state[page] |= PAGE_RECOMPUTABLE;
        else
            page_state[page] &= (uint8_t)~PAGE_RECOMPUTABLE;
    }
    leave();
    return 0;
}

int os_advise(void *memory, size_t size, int advice) {
    uint64_t va = (uint64_t)memory, begin = (va + EXO_PAGE_SIZE - 1) & -(uint64_t)EXO_PAGE_SIZE;
    uint64_t past = (va + size) & -(uint64_t)EXO_PAGE_SIZE;
    if (va + size < va || begin < va || advice < OS_NEEDED || advice > OS_RECOMPUTABLE)
        return -1;
    int64_t result = begin < past ? on_library_stack(advise, begin, past, (uint64_t)advice) : 0;
    for (; result == ADVISE_AGAIN; result = on_library_stack(advise, begin, past, (uint64_t)advice))
        os_yield();
    return (int)result;
}
