/* The record of page references: each change of page, or of reading to writing, in a range of virtual addresses.
 *
 * Unicorn names a frame; `pages` remembers the virtual page it was found at. Where several pages of the range map one
 * frame, any of them stands for it.
 */
#ifndef EXOKERNEL_RECORD_H
#define EXOKERNEL_RECORD_H

#include "_state.h"

static void note_reference(Engine *e, uint64_t page, uint64_t write) {
    uint64_t reference = page << 1 | write;
    if (reference == e->last_reference || (reference | 1) == e->last_reference)
        return;
    if (e->reference_count == e->reference_room) {
        size_t room = e->reference_room ? 2 * e->reference_room : 4096;
        uint64_t *grown = realloc(e->references, room * sizeof *grown);
        if (!grown) {
            e->record_failed = 1;
            return;
        }
        e->references = grown;
        e->reference_room = room;
    }
    e->references[e->reference_count++] = e->last_reference = reference;
}

/* The virtual page under table `table` that maps `frame`, or UINT64_MAX; `page` is the first one the table covers. */
static uint64_t search(Engine *e, uint64_t table, int shift, uint64_t page, uint64_t frame) {
    if (table + PAGE > e->size)
        return UINT64_MAX;
    for (uint64_t i = 0; i < 512; i++, page += (uint64_t)1 << (shift - 12)) {
        uint64_t entry = ((uint64_t *)(e->memory + table))[i], found;
        if (page >= e->record_high >> 12)
            break;
        if (!(entry & 1) || page + ((uint64_t)1 << (shift - 12)) <= e->record_low >> 12)
            continue;
        if (shift == 12) {
            if ((entry & ENTRY_ADDRESS) >> 12 == frame)
                return page;
        } else if ((found = search(e, entry & ENTRY_ADDRESS, shift - 9, page, frame)) != UINT64_MAX) {
            return found;
        }
    }
    return UINT64_MAX;
}

/* The recorded virtual page that maps `frame` in the current space, or UINT64_MAX. */
static uint64_t virtual_page(Engine *e, uint64_t frame) {
    uint64_t *known = &e->pages[frame], page;
    uint8_t *at = *known ? resolve(e, *known << 12) : NULL;
    if (at && (uint64_t)(at - e->memory) >> 12 == frame)
        return *known;
    page = search(e, e->root, 39, 0, frame);
    *known = page == UINT64_MAX ? 0 : page;
    return page;
}

/* Unicorn tells the physical address of an access; one that straddles two pages is told once, by its first byte. */
static void on_memory(void *uc, int type, uint64_t address, int size, int64_t value, void *data) {
    Engine *e = data;
    uint64_t page, write = type == MEM_WRITE;
    (void)uc, (void)value;
    if (address >= e->size || !e->home)
        return;
    page = virtual_page(e, address >> 12);
    if (page == UINT64_MAX)
        return;
    note_reference(e, page, write);
    if ((address & (PAGE - 1)) + (uint64_t)size > PAGE && page + 1 < e->record_high >> 12)
        note_reference(e, page + 1, write);
}

#endif
