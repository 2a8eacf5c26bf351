/* The regions of the program: which page lies where.
 *
 * Pages are numbered through the pageable regions in the order of the start block.  A HEAP region is the program's up
 * to the break, and a FILE region from the moment it was asked for.  These two, and the table of regions itself, are
 * written only by os_region and os_map_file.  A file of the mounted file system becomes a FILE region, without sectors and
 * with the server's number for its name, at the beginning of the FILES region, which is the rest from then on.
 */
#include "library.h"

static volatile uint64_t heap_break;
static uint64_t mapped_files;

/* The pageable region that was found last; most often it is looked for again.  Read once, as another thread may find
 * another meanwhile. */
static struct start_region *volatile last;

static int contains(const struct start_region *region, uint64_t va) {
    return va - region->va < region->pages * EXO_PAGE_SIZE;
}

/* Whether an address in a region is the program's by now. */
static int handed_out(const struct start_region *region, uint64_t va) {
    if (region->kind == REGION_HEAP)
        return va < region->va + heap_break;
    if (region->kind == REGION_FILES)
        return 0;
    return region->kind != REGION_FILE || mapped_files >> (region - start->regions) & 1;
}

/* The region of an address that is the program's; a null pointer if it is nobody's. */
struct start_region *region_at(uint64_t va) {
    struct start_region *found = last;
    if (found && contains(found, va))
        return handed_out(found, va) ? found : NULL;
    for (uint64_t i = 0; i < start->region_count; i++) {
        struct start_region *region = &start->regions[i];
        if (!contains(region, va))
            continue;
        if (region->kind >= REGION_DATA)
            last = region;
        return handed_out(region, va) ? region : NULL;
    }
    return NULL;
}

struct start_region *region_of(uint32_t page) {
    struct start_region *found = last;
    if (found && page - found->first_page < found->pages)
        return found;
    for (uint64_t i = 0; i < start->region_count; i++) {
        struct start_region *region = &start->regions[i];
        if (region->kind >= REGION_DATA && page - region->first_page < region->pages)
            return last = region;
    }
    return NULL;
}

uint64_t page_address(uint32_t page) {
    const struct start_region *region = region_of(page);
    return region->va + (page - region->first_page) * EXO_PAGE_SIZE;
}

uint64_t mapped_address(uint32_t page) {
    return page_address(page) + (page_state[page] & PAGE_PROTECTED && is_hidden(page) ? START_HIDDEN : 0);
}

uint64_t entry_at(uint64_t va) {
    return load_entry(EXO_PAGE_TABLES + (va >> 9));
}

uint64_t page_entry(uint32_t page) {
    return entry_at(mapped_address(page));
}

/* Whether the pages have places in the swap extent. */
int swappable(const struct start_region *region) {
    return region->kind >= REGION_DATA && region->kind < REGION_FILE;
}

void *os_region(size_t size) {
    if (!size || size > SIZE_MAX - EXO_PAGE_SIZE)
        return NULL;
    size = (size + EXO_PAGE_SIZE - 1) & -(size_t)EXO_PAGE_SIZE;
    for (uint64_t i = 0; i < start->region_count; i++) {
        const struct start_region *region = &start->regions[i];
        uint64_t begin = heap_break;
        while (region->kind == REGION_HEAP && size <= region->pages * EXO_PAGE_SIZE - begin)
            if (__atomic_compare_exchange_n(&heap_break, &begin, begin + size, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                return (void *)(region->va + begin);
    }
    return NULL;
}

static int same(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

const void *os_map_file(const char *name, size_t *size) {
    for (uint64_t i = 0; i < start->region_count; i++) {
        const struct start_region *region = &start->regions[i];
        if (region->kind == REGION_FILE && region->sector != EXO_ANY && same(name, start->names + region->name)) {
            __atomic_fetch_or(&mapped_files, 1ull << i, __ATOMIC_SEQ_CST);
            if (size)
                *size = region->size;
            return (const void *)region->va;
        }
    }
    return map_served_file(name, size);
}

/* Makes a region of a file from the server; a null pointer if there is no room.  One thread at a time.  The region is there
 * before the rest is cut off, and nobody knows its address until it is handed out. */
const void *serve_file(uint64_t file, uint64_t size) {
    uint64_t pages = (size + EXO_PAGE_SIZE - 1) / EXO_PAGE_SIZE, place = start->region_count;
    for (uint64_t i = 0; i < start->region_count; i++) {
        struct start_region *space = &start->regions[i];
        if (space->kind != REGION_FILES || pages > space->pages || (pages && place == START_REGIONS))
            continue;
        uint64_t va = space->va;
        if (!pages)
            return (const void *)va;
        struct start_region *made = &start->regions[place];
        *made = *space;
        made->kind = REGION_FILE;
        made->pages = pages;
        made->size = size;
        made->name = file;
        space->first_page += pages;
        space->va += pages * EXO_PAGE_SIZE;
        space->pages -= pages;
        last = NULL;
        __atomic_fetch_or(&mapped_files, 1ull << place, __ATOMIC_SEQ_CST);
        __atomic_store_n(&start->region_count, place + 1, __ATOMIC_SEQ_CST);
        return (const void *)va;
    }
    return NULL;
}
