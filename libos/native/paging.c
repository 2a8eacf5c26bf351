/* Demand paging: how a page comes in.
 *
 * `page_state` has one byte for each page of the program; a page is RESIDENT exactly while the pager knows it, and
 * then, unless it has been taken by force a moment ago, it is mapped and its frame stands in its page-table entry.  A
 * clean page equals what it came from: its place in the swap extent if PAGE_COPY is set, else its file, else zeros.
 *
 * When a backing sector is named for each frame (START_REGISTER_BACKING), three things keep the place in the swap
 * extent the truth at every instant: the frame has its contents before the backing is named, the backing is named
 * before the frame is mapped, and a page of zeros is written to at once, so that after a forced taking nobody asks
 * whether it still was zeros.
 */
#include "library.h"

/* With fewer resident pages than one instruction may touch, exchanging one's own for one another leads nowhere. */
#define FEWEST 8
#define PATIENCE 1000000

uint8_t *page_state;
uint32_t resident, coming;
int controls_children;

int registers_backing(void) {
    return (start->flags & START_REGISTER_BACKING) != 0;
}

void paging_begin(void) {
    page_state = library_memory(start->pages);
    for (uint64_t i = 0; i < start->region_count; i++) {
        const struct start_region *region = &start->regions[i];
        int state = region->kind == REGION_DATA ? PLACE_SWAP | PAGE_COPY : region->kind >= REGION_FILE ? PLACE_FILE : 0;
        if (region->kind >= REGION_DATA)
            memset(page_state + region->first_page, state, region->pages);
    }
    pager_start((uint32_t)start->pages, (uint32_t)start->frames, start->seed);
}

/* The page has left, or was taken; `state` is what it is from now on. */
void absent(uint32_t page, uint8_t state) {
    pager_forget(page);
    resident--;
    page_state[page] = state;
}

/* Tells the kernel where a page would have to be saved, if that is wanted; gives 0, or -1 if the frame has been
 * taken. */
int name_backing(uint32_t page, uint32_t frame) {
    return registers_backing() && exo_set_backing(frame, swap_sector(page), EXO_SELF) < 0 ? -1 : 0;
}

/* Makes sure that a frame is ours and stays so; gives 0, or -1 if it has been taken. */
int pin(uint32_t frame) {
    int64_t refusal = controls_children || threading ? exo_reserve_page(frame, 1, EXO_SELF) : 0;
    return refusal == 0 || refusal == EXO_TOO_MANY ? 0 : -1;
}

/* Lets the kernel take the frame again; letting go of a frame does so too. */
void unpin(uint32_t frame) {
    if (controls_children || threading)
        exo_reserve_page(frame, 0, EXO_SELF);
}

/* Waits for frames when none can be had and nothing is left to give. */
static void wait_for_frames(int64_t refusal, uint64_t seen) {
    if (refusal == EXO_OVER_QUOTA) {
        say("The program's quota of frames is too small for it to run.\n");
        end(END_LIBRARY);
    }
    block_unlocked(EXO_EVENT_FRAMES, seen, coming > 1 ? (uint64_t)exo_time() + PATIENCE : EXO_FOREVER);
}

/* Others have been asked for frames; gives 1 if some came free before patience was at an end. */
static int wait_a_while(uint64_t seen) {
    return block_unlocked(EXO_EVENT_FRAMES, seen, (uint64_t)exo_time() + PATIENCE) >= 0;
}

/* A frame of our own without a page: a new one within the bound, or the victim's.  The frames of pages that are coming
 * count as theirs. */
uint32_t take_frame(int *zeroed) {
    for (;;) {
        uint64_t seen = EXO_OWN->events[EXO_EVENT_FRAMES];
        int64_t frame = EXO_NO_FRAME;
        if (!start->frames || resident + coming <= start->frames) {
            frame = exo_alloc_page(EXO_ANY, EXO_SELF);
            if (frame >= 0 && pin((uint32_t)frame) == 0) {
                *zeroed = 1;
                return (uint32_t)frame;
            }
            if (frame >= 0)
                continue;
        }
        if (!resident) {
            wait_for_frames(frame, seen);
            continue;
        }
        if (resident < FEWEST && frame == EXO_NO_FRAME && (wait_a_while(seen) || !resident))
            continue;
        struct departure leaving;
        if (!depart(choose_victim(), &leaving))
            continue;
        finish(&leaving);
        if (!registers_backing() && EXO_FRAME_HOLDERS(EXO_FRAMES[leaving.frame]) == 1) {
            *zeroed = 0;
            return leaving.frame;
        }
        exo_dealloc_page(leaving.frame, EXO_SELF);
    }
}

/* Maps a frame, making room for a page table if need be; gives 0 or a refusal that more frames would not mend. */
int64_t map(uint64_t va, uint32_t frame, uint64_t rights) {
    for (;;) {
        uint64_t seen = EXO_OWN->events[EXO_EVENT_FRAMES];
        int64_t refusal = exo_create_mapping(va, frame, rights, EXO_SELF);
        if (refusal != EXO_NO_FRAME && refusal != EXO_OVER_QUOTA) {
            give_way();
            return refusal;
        }
        if (!release_one())
            wait_for_frames(refusal, seen);
    }
}

/* Puts zeros into a frame before it has a place in the program; gives 0, or -1 if the frame has been taken. */
static int zero_frame(uint32_t frame) {
    int gone = map(start->window, frame, EXO_RIGHTS_READ | EXO_RIGHTS_WRITE) < 0 ||
               zero_words(start->window, EXO_PAGE_SIZE / 8) < 0;
    exo_remove_mapping(start->window, EXO_SELF);
    return gone ? -1 : 0;
}

/* Puts what lies on the disk into a frame; gives 0, or -1 if the frame has been taken. */
static int fill(uint32_t page, const struct start_region *region, uint32_t frame, int zeroed) {
    uint64_t sector = swap_sector(page), sectors = EXO_SECTORS_PER_PAGE;
    if (PLACE(page_state[page]) == PLACE_FILE && region->sector == EXO_ANY)
        return fill_from_file(region->name, (page - region->first_page) * EXO_PAGE_SIZE, frame);
    if (PLACE(page_state[page]) == PLACE_FILE) {
        uint64_t first = (page - region->first_page) * EXO_SECTORS_PER_PAGE;
        uint64_t all = (region->size + EXO_SECTOR_SIZE - 1) / EXO_SECTOR_SIZE;
        sector = region->sector + first;
        sectors = all - first < sectors ? all - first : sectors;
        if (sectors < EXO_SECTORS_PER_PAGE && !zeroed && zero_frame(frame) < 0)
            return -1;
    } else {
        EXO_OWN->swap_in++;
    }
    int64_t request = begin_read(frame, sector, sectors);
    if (request < 0)
        return -1;
    wait_for(request);
    return 0;
}

/* Asked again each time: kept in memory, the answer would be stored by setcc, and the machine single-steps a block with
 * that (docs/design.md). */
static int is_empty(uint32_t page) {
    return PLACE(page_state[page]) == PLACE_ZERO;
}

/* Whether somebody else may store to the page as soon as it is mapped, or somebody may who should not. */
static int guarded(uint32_t page) {
    return threading || page_state[page] & PAGE_PROTECTED;
}

/* Maps such a page, which has its contents.  Nobody can write before it is known for clean, nor afterwards if it is
 * protected. */
static int64_t map_guarded(uint32_t page, uint64_t va, uint32_t frame, uint64_t rights, int zeroed) {
    if (is_empty(page) && zeroed)
        return map(va, frame, rights);
    int64_t refusal = map(va, frame, EXO_RIGHTS_READ);
    if (refusal < 0)
        return refusal;
    exo_clear_page_bits(va, 1, EXO_PAGE_BITS_DIRTY);
    return rights == EXO_RIGHTS_READ ? 0 : map(va, frame, rights);
}

/* One attempt; gives 0, or -1 if the frame was taken meanwhile. */
static int bring_into(uint32_t page, uint32_t frame, int zeroed, int write) {
    const struct start_region *region = region_of(page);
    uint64_t va = page_address(page);
    if (!is_empty(page) && fill(page, region, frame, zeroed) < 0)
        return -1;
    if (is_empty(page) && guarded(page) && (!zeroed || registers_backing()) && zero_frame(frame) < 0)
        return -1;
    if (swappable(region) && name_backing(page, frame) < 0)
        return -1;
    if (guarded(page))
        return map_guarded(page, va, frame, rights_of(page, region), zeroed) < 0 ? -1 : 0;
    if (map(va, frame, region->rights) < 0)
        return -1;
    if (is_empty(page) && !zeroed) {
        if (zero_words(va, EXO_PAGE_SIZE / 8) < 0)
            return -1;
        if (!write)
            exo_clear_page_bits(va, 1, EXO_PAGE_BITS_DIRTY);
    } else if (is_empty(page) && registers_backing()) {
        if (zero_words(va, 1) < 0)
            return -1;
    } else if (!is_empty(page)) {
        exo_clear_page_bits(va, 1, EXO_PAGE_BITS_DIRTY);
    }
    return 0;
}

/* Brings in a page that is not resident. */
void bring_in(uint32_t page, int write) {
    if (PLACE(page_state[page]) == PLACE_LOST) {
        say("The page at ");
        say_hex(page_address(page));
        say(" was taken by force and its contents are lost.\n");
        end(END_LOST);
    }
    int zeroed;
    page_state[page] |= PAGE_BUSY;
    coming++;
    uint32_t frame = take_frame(&zeroed);
    while (bring_into(page, frame, zeroed, write) < 0) {
        exo_dealloc_page(frame, EXO_SELF);
        settle_taken();
        frame = take_frame(&zeroed);
    }
    coming--;
    page_state[page] = (uint8_t)(PLACE_RESIDENT | (page_state[page] & (PAGE_COPY | PAGE_STAYS)));
    resident++;
    pager_admit(page);
    unpin(frame);
    if (threading)
        wake_page(&page_state[page]);
}
