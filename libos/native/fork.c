/* os_fork: a second environment with a copy of this one, made by down-calls alone.
 *
 * What the library needs in order to run is copied at once into frames the child holds.  Resident pages of the program
 * become co-held and read-only on both sides, and whoever writes first gets a copy (PAGE_COW).  Pages in the swap
 * extent are copied to the child's own.  Shared text is mapped by the capability in START_SHARED_SLOT, which the
 * child is given.
 *
 * The child differs from its copy only in what begin_anew changes.  It may be asked for frames as soon as it has been
 * started, so its up-calls are set before, and whichever of them or fork_begin comes first makes it begin anew.
 *
 * A program that has begun threads cannot be forked.
 *
 * While pages are being shared, room is made only with pages whose turn has not come: those before it are in the
 * child's tables already.
 */
#include "library.h"

#define PRIVATE_MAXIMUM 64
#define PATIENCE 20000000
#define FIRST_TABLES 5
#define READ_WRITE (EXO_RIGHTS_READ | EXO_RIGHTS_WRITE)
#define EVERYTHING (READ_WRITE | EXO_RIGHTS_CONTROL)

int newborn;
static uint64_t child;
static uint64_t child_swap;
static uint32_t next_page;
static uint64_t deadline;

/* Gives back one frame whose page is not the child's yet, or waits for somebody else to; -1 if that is hopeless.  The
 * patience is for all of a fork: where several starve, frames come free and are gone again all the time. */
static int make_room(int64_t refusal, uint64_t seen) {
    if (refusal != EXO_NO_FRAME)
        return -1;
    for (uint32_t page = next_page; page < start->pages; page++) {
        struct departure leaving;
        if (PLACE(page_state[page]) == PLACE_RESIDENT && depart(page, &leaving)) {
            finish(&leaving);
            exo_dealloc_page(leaving.frame, EXO_SELF);
            return 0;
        }
    }
    uint64_t now = (uint64_t)exo_time();
    if (!deadline)
        deadline = now + PATIENCE;
    return now >= deadline || cpu_block(EXO_EVENT_FRAMES, seen, deadline) < 0 ? -1 : 0;
}

/* A frame that `environment` holds and that is never taken, or a refusal. */
static int64_t frame_for(uint64_t environment) {
    for (;;) {
        uint64_t seen = EXO_OWN->events[EXO_EVENT_FRAMES];
        int64_t frame = exo_alloc_page(EXO_ANY, environment);
        int64_t refusal = frame < 0 ? frame : exo_reserve_page((uint64_t)frame, 1, environment);
        if (!refusal)
            return frame;
        if (frame >= 0)
            exo_dealloc_page((uint64_t)frame, environment);
        if (frame < 0 ? make_room(frame, seen) < 0 : refusal == EXO_TOO_MANY)
            return refusal;
    }
}

/* A new environment, or -1.  The kernel takes its first page tables all at once; for want of them they are collected
 * one by one, which makes it ask for them, and let go. */
static int64_t make_environment(void) {
    for (;;) {
        int64_t environment = exo_create_environment(EXO_ANY), frames[FIRST_TABLES];
        if (environment != EXO_NO_FRAME)
            return environment < 0 ? -1 : environment;
        int collected = 0;
        while (collected < FIRST_TABLES && (frames[collected] = frame_for(EXO_SELF)) >= 0)
            collected++;
        for (int i = 0; i < collected; i++)
            exo_dealloc_page((uint64_t)frames[i], EXO_SELF);
        if (collected < FIRST_TABLES)
            return -1;
    }
}

static int map_for_child(uint64_t va, uint64_t frame, uint64_t rights) {
    for (;;) {
        uint64_t seen = EXO_OWN->events[EXO_EVENT_FRAMES];
        int64_t refusal = exo_create_mapping(va, frame, rights, child);
        if (!refusal)
            return 0;
        if (make_room(refusal, seen) < 0)
            return -1;
    }
}

static int copy_into(uint32_t frame, uint64_t va) {
    int copied = map(start->window, frame, READ_WRITE) < 0 ? -1 : copy_words(start->window, va, EXO_PAGE_SIZE / 8);
    exo_remove_mapping(start->window, EXO_SELF);
    return copied;
}

/* The page's place in the child's swap extent. */
static uint64_t swap_place(uint32_t page) {
    return child_swap + (uint64_t)page * EXO_SECTORS_PER_PAGE;
}

/* Shares the frame of a page, which is pinned meanwhile. */
static int share_resident(uint32_t page, uint64_t entry) {
    const struct start_region *region = region_of(page);
    uint64_t va = mapped_address(page), frame = ENTRY_FRAME(entry);
    if (exo_share_page(frame, child, EXO_SHARING_HOLD, EVERYTHING) < 0)
        return -1;
    if (registers_backing() && swappable(region) && exo_set_backing(frame, swap_place(page), child) < 0)
        return -1;
    if (map_for_child(va, frame, EXO_RIGHTS_READ) < 0 || map(va, (uint32_t)frame, EXO_RIGHTS_READ) < 0)
        return -1;
    if (entry & EXO_PAGE_BITS_DIRTY)
        page_state[page] |= PAGE_DIRTY;
    if (region->rights & EXO_RIGHTS_WRITE)
        page_state[page] |= PAGE_COW;
    return 0;
}

static int copy_swapped(uint32_t page, uint32_t frame) {
    int64_t request = begin_read(frame, swap_sector(page), EXO_SECTORS_PER_PAGE);
    if (request < 0)
        return -1;
    wait_for(request);
    request = begin_write(frame, swap_place(page));
    if (request < 0)
        return -1;
    wait_for(request);
    return 0;
}

/* Gives the child one page; makes no progress (`next_page` stays) if the page has just been taken. */
static int give_page(uint32_t page, int64_t *between) {
    if (PLACE(page_state[page]) == PLACE_RESIDENT) {
        uint64_t entry = page_entry(page);
        if (!(entry & ENTRY_PRESENT) || pin((uint32_t)ENTRY_FRAME(entry)) < 0) {
            settle_missing(page);
            return 0;
        }
        next_page++;
        int result = share_resident(page, entry);
        unpin((uint32_t)ENTRY_FRAME(entry));
        return result;
    }
    if (PLACE(page_state[page]) == PLACE_SWAP) {
        if (*between < 0)
            *between = frame_for(EXO_SELF);
        if (*between < 0 || copy_swapped(page, (uint32_t)*between) < 0)
            return -1;
    }
    next_page++;
    return 0;
}

static int give_pages(void) {
    int64_t between = -1;
    int result = 0;
    next_page = 0;
    while (result == 0 && next_page < start->pages)
        result = give_page(next_page, &between);
    if (between >= 0)
        exo_dealloc_page((uint64_t)between, EXO_SELF);
    return result;
}

static int give_shared(void) {
    for (uint64_t i = 0; i < start->region_count; i++) {
        const struct start_region *region = &start->regions[i];
        for (uint64_t page = 0; region->kind == REGION_SHARED && page < region->pages; page++) {
            uint64_t va = region->va + page * EXO_PAGE_SIZE;
            if (map_for_child(va, ENTRY_FRAME(load_entry(EXO_PAGE_TABLES + (va >> 9))), region->rights) < 0)
                return -1;
        }
    }
    return 0;
}

/* Shared pages are the child's as they are; it holds them itself. */
static int give_shared_pages(void) {
    for (uint32_t place = 0; place < SHARED_MAXIMUM; place++) {
        uint64_t frame = shared_frame(place);
        if (frame && (exo_share_page(frame, child, EXO_SHARING_HOLD, EVERYTHING) < 0 ||
                      exo_reserve_page(frame, 1, child) < 0 ||
                      map_for_child(shared_address(place), frame, READ_WRITE) < 0))
            return -1;
    }
    return give_pipes(child);
}

static int give_everything(uint64_t stack_pointer) {
    uint64_t addresses[PRIVATE_MAXIMUM];
    int64_t frames[PRIVATE_MAXIMUM];
    uint32_t count = private_pages(addresses, PRIVATE_MAXIMUM);
    if (exo_give_capability(child, START_SHARED_SLOT, EXO_RIGHTS_READ | EXO_RIGHTS_EXECUTE, START_SHARED_SLOT) < 0)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        frames[i] = frame_for(child);
        if (frames[i] < 0 || map_for_child(addresses[i], (uint64_t)frames[i], READ_WRITE) < 0)
            return -1;
    }
    if (start->swap_pages && exo_share_sectors(child_swap, child, EXO_SHARING_HOLD, EVERYTHING) < 0)
        return -1;
    if (give_shared() < 0 || give_shared_pages() < 0 || give_files(child) < 0 || give_pages() < 0)
        return -1;
    newborn = 1;
    int copied = 0;
    for (uint32_t i = 0; i < count && copied == 0; i++)
        copied = copy_into((uint32_t)frames[i], addresses[i]);
    newborn = 0;
    if (copied < 0)
        return -1;
    become_ready(child);
    return exo_start(child, (uint64_t)fork_entry, library_stack_top, stack_pointer) < 0 ? -1 : 0;
}

/* The parent's side; gives the child's number, or -1 having undone everything but the marks of copying on write. */
int64_t fork_environment(uint64_t stack_pointer) {
    int64_t result = -1;
    if (threading)
        return -1;
    enter();
    controls_children = 1;
    next_page = 0;
    deadline = 0;
    int64_t sectors = start->swap_pages ? exo_alloc_sectors(start->swap_pages * EXO_SECTORS_PER_PAGE, EXO_ANY) : 0;
    int64_t environment = sectors < 0 ? -1 : make_environment();
    if (environment >= 0) {
        child = (uint64_t)environment;
        child_swap = (uint64_t)sectors;
        if (give_everything(stack_pointer) == 0)
            result = environment;
    }
    if (environment >= 0 && result < 0)
        exo_destroy((uint64_t)environment);
    if (start->swap_pages && sectors >= 0)
        exo_free_sectors((uint64_t)sectors);
    leave();
    return result;
}

/* The child's side, before it does anything with its pages: its own swap extent has copies only of those that were not
 * resident. */
void begin_anew(void) {
    newborn = 0;
    forget_records();
    start->swap_sector = child_swap;
    controls_children = 0;
    forget_window();
    for (uint32_t page = 0; page < start->pages; page++)
        if (PLACE(page_state[page]) == PLACE_RESIDENT && swappable(region_of(page)))
            page_state[page] = (uint8_t)((page_state[page] & ~PAGE_COPY) | PAGE_DIRTY);
}

void fork_begin(void) {
    enter();
    leave();
    renew_window();
}

long os_wait(long environment) {
    int64_t status = environment > 0 ? wait_in_program(EXO_EVENT_EXIT, (uint64_t)environment) : -1;
    return status < 0 ? -1 : status;
}

/* A write to a page that may be shared: the frame is ours alone by now, or the page gets a copy. */
void break_sharing(uint32_t page) {
    uint64_t va = page_address(page), entry = page_entry(page);
    uint32_t old = (uint32_t)ENTRY_FRAME(entry);
    int zeroed;
    if (!(entry & ENTRY_PRESENT) || pin(old) < 0)
        return;
    if (EXO_FRAME_HOLDERS(EXO_FRAMES[old]) == 1) {
        if (map(va, old, READ_WRITE) == 0)
            page_state[page] &= (uint8_t)~PAGE_COW;
        unpin(old);
        return;
    }
    coming++;
    uint32_t frame = take_frame(&zeroed);
    coming--;
    int still = PLACE(page_state[page]) == PLACE_RESIDENT && ENTRY_FRAME(page_entry(page)) == old;
    if (still && copy_into(frame, va) == 0 && name_backing(page, frame) == 0 && map(va, frame, READ_WRITE) == 0) {
        exo_dealloc_page(old, EXO_SELF);
        page_state[page] &= (uint8_t)~PAGE_COW;
        unpin(frame);
    } else {
        exo_dealloc_page(frame, EXO_SELF);
        if (still)
            unpin(old);
    }
}
