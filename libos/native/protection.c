/* What the program may do with its own pages is its own affair: os_protect, os_on_fault, os_dirty.
 *
 * A page is PAGE_PROTECTED while the program may do less with it than its region allows, and hidden if it may not even
 * be read.  Both are true of a page wherever it is.  A resident page that may be read is mapped read-only; a hidden one
 * is mapped read-only START_HIDDEN above its place, so that its page-table entry still says which frame it has and
 * whether that has been taken.
 *
 * An access that is forbidden changes nothing, not even which page is resident: the program's handler is called, outside
 * of the critical section and on the thread's own stack, so it may fault, protect, wait and fork as any other code may.
 *
 * (A. W. Appel and K. Li, Virtual Memory Primitives for User Programs, ASPLOS 1991.)
 */
#include "library.h"

#define AT_ONCE 32
#define HANDLER_WORDS 4
#define RED_ZONE 128
#define PROTECT_AGAIN (-2)

/* One call of a batch.  Arguments that the call does not have are whatever lay there. */
struct call {
    uint64_t number, arguments[6];
    int64_t result;
};

static uint64_t fault_handler;
static uint8_t *hidden;

int is_hidden(uint32_t page) {
    return page_state[page] & PAGE_PROTECTED && hidden && hidden[page / 8] >> page % 8 & 1;
}

/* Whether the program has forbidden itself this access to a protected page. */
int withheld(uint32_t page, uint64_t access) {
    return access & EXO_ACCESS_WRITE || is_hidden(page);
}

uint64_t rights_of(uint32_t page, const struct start_region *region) {
    if (!(page_state[page] & PAGE_PROTECTED))
        return region->rights;
    return is_hidden(page) ? OS_NO_ACCESS : OS_READ;
}

static void set_rights(uint32_t page, const struct start_region *region, uint64_t rights) {
    page_state[page] &= (uint8_t)~PAGE_PROTECTED;
    if (rights != region->rights)
        page_state[page] |= PAGE_PROTECTED;
    if (hidden)
        hidden[page / 8] &= (uint8_t)~(1 << page % 8);
    if (rights == OS_NO_ACCESS)
        hidden[page / 8] |= (uint8_t)(1 << page % 8);
}

static uint64_t place_of(uint64_t va, uint64_t rights) {
    return rights == OS_NO_ACCESS ? va + START_HIDDEN : va;
}

static uint64_t mapping_of(uint32_t page, uint64_t rights) {
    return rights == OS_READ_WRITE && !(page_state[page] & PAGE_COW) ? OS_READ_WRITE : OS_READ;
}

static void make(struct call *calls, uint32_t count) {
    if (count)
        exo_batch((uint64_t)calls, count);
}

/* The call that makes the mapping of a page fit other rights; gives 0 if there is nothing to do, and -1 if the page turns
 * out to have been taken. */
static int remapping(uint32_t page, uint64_t va, uint64_t had, uint64_t rights, struct call *call) {
    if (PLACE(page_state[page]) != PLACE_RESIDENT)
        return 0;
    if (place_of(va, had) == place_of(va, rights) && mapping_of(page, had) == mapping_of(page, rights))
        return 0;
    uint64_t entry = entry_at(place_of(va, had)), frame = ENTRY_FRAME(entry);
    if (!(entry & ENTRY_PRESENT) || pin((uint32_t)frame) < 0) {
        settle_missing(page);
        return -1;
    }
    /* Another thread may write until the entry is replaced, so a page that it could write to counts as written. */
    if (entry & EXO_PAGE_BITS_DIRTY || (threading && mapping_of(page, had) == OS_READ_WRITE))
        page_state[page] |= PAGE_DIRTY;
    call->number = EXO_CALL_CREATE_MAPPING;
    call->arguments[0] = place_of(va, rights);
    call->arguments[1] = frame;
    call->arguments[2] = mapping_of(page, rights);
    call->arguments[3] = EXO_SELF;
    return 1;
}

static void removal(uint64_t va, struct call *call) {
    call->number = EXO_CALL_REMOVE_MAPPING;
    call->arguments[0] = va;
    call->arguments[1] = EXO_SELF;
}

/* Changes the rights of a few pages, the mappings of all of them in one trap and, if pages are hidden or shown, a second.
 * Gives -1 if a page table could not be had for some page, which is then as it was, and PROTECT_AGAIN if a page is on its
 * way. */
static int change(const struct start_region *region, uint64_t begin, uint32_t count, uint64_t rights) {
    struct call calls[AT_ONCE];
    uint32_t made = 0, moved = 0, first = (uint32_t)(region->first_page + (begin - region->va) / EXO_PAGE_SIZE);
    int result = 0;
    for (uint32_t page = first; page < first + count; page++)
        if (is_busy(page_state[page]))
            return PROTECT_AGAIN;
    for (uint32_t page = first; page < first + count; page++) {
        uint64_t va = begin + (uint64_t)(page - first) * EXO_PAGE_SIZE, had = rights_of(page, region);
        if (had != rights && remapping(page, va, had, rights, &calls[made]) > 0)
            calls[made++].arguments[4] = page;
        else
            set_rights(page, region, rights);
    }
    make(calls, made);
    for (uint32_t i = 0; i < made; i++) {
        uint32_t page = (uint32_t)calls[i].arguments[4], frame = (uint32_t)calls[i].arguments[1];
        uint64_t va = begin + (uint64_t)(page - first) * EXO_PAGE_SIZE, had = rights_of(page, region);
        int64_t refusal = calls[i].result;
        unpin(frame);
        if (refusal == EXO_NO_FRAME || refusal == EXO_OVER_QUOTA) {
            result = -1;
            continue;
        }
        if (refusal < 0)
            settle_missing(page);
        else if (place_of(va, had) != place_of(va, rights))
            removal(place_of(va, had), &calls[moved++]);
        set_rights(page, region, rights);
    }
    make(calls, moved);
    return result;
}

/* Makes sure that it can be noted which pages are hidden; -1 if there is no room. */
static int note_hidden(void) {
    if (!hidden) {
        uint8_t *memory = more_library_memory((start->pages + 7) / 8);
        if (!hidden)
            hidden = memory;
    }
    return hidden ? 0 : -1;
}

/* Gives PROTECT_AGAIN, having done part, if a page is on its way. */
static int64_t protect(uint64_t begin, uint64_t past, uint64_t rights) {
    const struct start_region *region;
    uint64_t end;
    for (uint64_t va = begin; va < past; va = end) {
        region = region_at(va);
        if (!region || region->kind < REGION_DATA || rights & ~region->rights)
            return -1;
        end = region->va + region->pages * EXO_PAGE_SIZE;
        if (end > past)
            end = past;
        if (region_at(end - EXO_PAGE_SIZE) != region)
            return -1;
    }
    enter();
    int64_t result = rights == OS_NO_ACCESS ? note_hidden() : 0;
    for (uint64_t va = begin; va < past && result == 0; va = end) {
        region = region_at(va);
        end = region->va + region->pages * EXO_PAGE_SIZE;
        if (end > past)
            end = past;
        if (end > va + AT_ONCE * EXO_PAGE_SIZE)
            end = va + AT_ONCE * EXO_PAGE_SIZE;
        while ((result = change(region, va, (uint32_t)((end - va) / EXO_PAGE_SIZE), rights)) == -1)
            release_one();
    }
    leave();
    return result;
}

int os_protect(void *memory, size_t size, int rights) {
    uint64_t begin = (uint64_t)memory, past = begin + size;
    if (past < begin || (begin | past) % EXO_PAGE_SIZE)
        return -1;
    if (rights != OS_NO_ACCESS && rights != OS_READ && rights != OS_READ_WRITE)
        return -1;
    int64_t result = on_library_stack(protect, begin, past, (uint64_t)rights);
    for (; result == PROTECT_AGAIN; result = on_library_stack(protect, begin, past, (uint64_t)rights))
        os_yield();
    return (int)result;
}

void os_on_fault(int (*handler)(void *address, int write)) {
    fault_handler = (uint64_t)handler;
}

void no_handler(void) {
    fault_handler = 0;
}

/* Lets the interrupted thread go on in the program's handler, inside the section.  The words for it go to the thread's own
 * stack: gives 0, or the address there of a page that has to be brought in first. */
uint64_t call_handler(uint64_t va, uint64_t access, struct interrupted *at) {
    uint64_t words[HANDLER_WORDS] = {fault_handler, va, access & EXO_ACCESS_WRITE ? 1 : 0, at->rip};
    uint64_t begin = at->rsp - RED_ZONE - sizeof words;
    if (!fault_handler)
        segmentation_fault(va, access, at);
    for (uint32_t i = 0; i < HANDLER_WORDS; i++)
        if (copy_words(begin + i * sizeof words[i], (uint64_t)&words[i], 1) < 0)
            return begin + i * sizeof words[i];
    at->rsp = begin;
    at->rip = (uint64_t)run_handler;
    return 0;
}

int os_dirty(const void *memory) {
    uint64_t va = (uint64_t)memory;
    const struct start_region *region = region_at(va);
    if (!region || region->kind < REGION_DATA)
        return -1;
    return page_dirty((uint32_t)(region->first_page + (va - region->va) / EXO_PAGE_SIZE));
}
