/* Pages taken by force: the state of pages is brought in line with the records in the own page.
 *
 * Record n lies at n modulo EXO_TAKEN_RECORDS, so after a long sleep the oldest may be gone.  Then the page tables tell
 * which pages are missing, and where a backing sector is named for every page its place in the swap extent has the
 * contents, whether the kernel had to write them or not.
 */
#include "library.h"

static uint64_t settled;

/* A child's own page has no records yet. */
void forget_records(void) {
    settled = 0;
}

/* What the kernel calls clean is so; PAGE_DIRTY may be set because somebody could have written. */
static void settle(uint32_t page, uint64_t taken) {
    uint8_t state = page_state[page], kept = state & PAGE_STAYS;
    if (!swappable(region_of(page)))
        absent(page, PLACE_FILE | kept);
    else if (kept & PAGE_RECOMPUTABLE)
        absent(page, PLACE_ZERO | kept);
    else if (taken == EXO_TAKEN_SAVED || (taken == EXO_TAKEN_CLEAN && state & PAGE_COPY))
        absent(page, PLACE_SWAP | PAGE_COPY | kept);
    else if (taken == EXO_TAKEN_CLEAN)
        absent(page, PLACE_ZERO | kept);
    else
        absent(page, PLACE_LOST | kept);
}

static int gone(uint32_t page) {
    return PLACE(page_state[page]) == PLACE_RESIDENT && !(page_entry(page) & ENTRY_PRESENT);
}

static void settle_record(uint64_t mapped, uint64_t taken) {
    uint64_t va = mapped & ~START_HIDDEN;
    const struct start_region *region = region_at(va);
    if (!region || region->kind < REGION_DATA)
        return;
    uint32_t page = (uint32_t)(region->first_page + (va - region->va) / EXO_PAGE_SIZE);
    if (gone(page))
        settle(page, taken);
}

void settle_taken(void) {
    volatile struct exo_own_page *own = EXO_OWN;
    int overflow = 0;
    while (settled != own->taken_total) {
        if (own->taken_total - settled > EXO_TAKEN_RECORDS) {
            settled = own->taken_total - EXO_TAKEN_RECORDS;
            overflow = 1;
        }
        volatile struct exo_taken *record = &own->taken[settled++ % EXO_TAKEN_RECORDS];
        settle_record(record->va, record->state);
    }
    for (uint32_t page = 0; overflow && page < start->pages; page++)
        if (gone(page))
            settle(page, registers_backing() ? EXO_TAKEN_SAVED : EXO_TAKEN_LOST);
}

/* Settles a page that is not mapped although it should be, record or not. */
void settle_missing(uint32_t page) {
    settle_taken();
    if (gone(page))
        settle(page, registers_backing() ? EXO_TAKEN_SAVED : EXO_TAKEN_LOST);
}
