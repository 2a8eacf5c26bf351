/* How pages go: chosen by the pager, written only if they must be, and given back when the kernel asks.
 *
 * A page is taken out of the tables first, as another processor may write to it until then, and what the kernel says of
 * its bits in the end decides whether it is written.  It is held until the write has ended; a frame that is taken by force
 * before the write is under way is saved by the kernel if its backing is named.
 */
#include "library.h"

#define AT_ONCE 16

int releasing;

/* Pages whose accessed bits the pager wants cleared, as one run: neighbours cost one down-call together. */
static uint64_t clear_from, clear_count;

static void clear_run(void) {
    if (!clear_count)
        return;
    exo_clear_page_bits(clear_from, clear_count, EXO_PAGE_BITS_ACCESSED | EXO_PAGE_BITS_ACCESSED_BEFORE);
    clear_count = 0;
    give_way();
}

/* A hidden page has not been used, and what was written before is in its state: the place it is mapped at instead need
 * not be looked for. */
int page_accessed(uint32_t page) {
    return (entry_at(page_address(page)) & (EXO_PAGE_BITS_ACCESSED | EXO_PAGE_BITS_ACCESSED_BEFORE)) != 0;
}

int page_dirty(uint32_t page) {
    return page_state[page] & PAGE_DIRTY || entry_at(page_address(page)) & EXO_PAGE_BITS_DIRTY;
}

void page_clear_accessed(uint32_t page) {
    uint64_t va = page_address(page);
    if (clear_count && va == clear_from + clear_count * EXO_PAGE_SIZE) {
        clear_count++;
    } else if (clear_count && va + EXO_PAGE_SIZE == clear_from) {
        clear_from = va;
        clear_count++;
    } else {
        clear_run();
        clear_from = va;
        clear_count = 1;
    }
}

/* The pager's choice; at least one page is resident. */
uint32_t choose_victim(void) {
    uint32_t page = pager_victim();
    clear_run();
    if (page >= start->pages || PLACE(page_state[page]) != PLACE_RESIDENT) {
        say("The pager named page ");
        say_number(page);
        say(" as its victim, which is not resident.\n");
        end(END_LIBRARY);
    }
    return page;
}

/* Takes a resident page out of memory; gives 0 if it turns out to have been taken already. */
int depart(uint32_t page, struct departure *departure) {
    volatile struct exo_own_page *own = EXO_OWN;
    uint64_t va = mapped_address(page), entry = entry_at(va);
    uint8_t state = page_state[page], kept = state & PAGE_STAYS;
    departure->page = page;
    departure->frame = (uint32_t)ENTRY_FRAME(entry);
    departure->request = NO_REQUEST;
    if (!(entry & ENTRY_PRESENT) || pin(departure->frame) < 0) {
        settle_missing(page);
        return 0;
    }
    int64_t bits = exo_remove_mapping(va, EXO_SELF);
    if (bits < 0) {
        settle_missing(page);
        return 0;
    }
    uint8_t place = state & PAGE_COPY ? PLACE_SWAP | PAGE_COPY : swappable(region_of(page)) ? PLACE_ZERO : PLACE_FILE;
    if (state & PAGE_RECOMPUTABLE) {
        place = PLACE_ZERO;
    } else if (state & PAGE_DIRTY || bits & EXO_PAGE_BITS_DIRTY) {
        departure->request = begin_write(departure->frame, swap_sector(page));
        if (departure->request < 0) {
            settle_missing(page);
            return 0;
        }
        own->swap_out++;
        place = PLACE_SWAP | PAGE_COPY;
    }
    absent(page, place | kept | PAGE_BUSY);
    own->evictions++;
    give_way();
    return 1;
}

/* Waits until the frame of a page that has left may be used for something else. */
void finish(const struct departure *departure) {
    if (departure->request != NO_REQUEST)
        wait_for(departure->request);
    page_state[departure->page] &= (uint8_t)~PAGE_BUSY;
    if (threading)
        wake_page(&page_state[departure->page]);
}

/* Gives back one frame of the pager's choice; 0 if there is none. */
int release_one(void) {
    struct departure leaving;
    if (!resident)
        return 0;
    if (depart(choose_victim(), &leaving)) {
        finish(&leaving);
        exo_dealloc_page(leaving.frame, EXO_SELF);
    }
    return 1;
}

/* Gives back the very frame the kernel wants, if a page of the program lies in it. */
static void release_frame(uint64_t frame) {
    for (uint32_t page = 0; page < start->pages; page++) {
        struct departure leaving;
        if (PLACE(page_state[page]) != PLACE_RESIDENT)
            continue;
        uint64_t entry = page_entry(page);
        if (!(entry & ENTRY_PRESENT) || ENTRY_FRAME(entry) != frame)
            continue;
        if (depart(page, &leaving)) {
            finish(&leaving);
            exo_dealloc_page(leaving.frame, EXO_SELF);
        }
        return;
    }
}

/* Gives back `count` frames of the pager's choice, or this very one; fewer if there are not so many.  The writes of a
 * bunch of victims are begun together, for the disk to put in order. */
void release(uint64_t count, uint64_t frame) {
    struct departure leaving[AT_ONCE];
    if (releasing)
        return;
    releasing = 1;
    if (frame != EXO_ANY)
        release_frame(frame);
    while (frame == EXO_ANY && count && resident) {
        uint32_t bunch = 0;
        while (bunch < AT_ONCE && bunch < count && resident)
            bunch += (uint32_t)depart(choose_victim(), &leaving[bunch]);
        for (uint32_t i = 0; i < bunch; i++) {
            finish(&leaving[i]);
            exo_dealloc_page(leaving[i].frame, EXO_SELF);
        }
        count -= bunch;
    }
    releasing = 0;
}
