/* The beginning of a program: the library makes itself ready, then the application runs.
 *
 * The library's memory is what the loader put there (PRIVATE regions) and what it allocates here, once, from the
 * address space the start block names: all of it resident and reserved by whoever allocated it, so never taken.  The
 * kernel bounds the number of reserved frames; a page of the program costs one byte here and what the pager wants, so
 * the bound is on the size of the program.
 */
#include "library.h"

struct start_block *start;
uint64_t library_stack_top;
static uint64_t memory_used, memory_held, stack_pages;

/* Puts a new frame at `va`; gives 0, or a refusal. */
static int64_t extend(uint64_t va) {
    int64_t frame = exo_alloc_page(EXO_ANY, EXO_SELF);
    int64_t refusal = frame < 0 ? frame : exo_reserve_page((uint64_t)frame, 1, EXO_SELF);
    if (!refusal)
        refusal = exo_create_mapping(va, (uint64_t)frame, EXO_RIGHTS_READ | EXO_RIGHTS_WRITE, EXO_SELF);
    if (refusal && frame >= 0)
        exo_dealloc_page((uint64_t)frame, EXO_SELF);
    return refusal;
}

static _Noreturn void give_up(const char *why) {
    say(why);
    end(END_LIBRARY);
}

/* The end of the address space for library_memory: threads' library stacks lie above it. */
static uint64_t memory_end(void) {
    return start->memory + (start->memory_pages - stack_pages) * EXO_PAGE_SIZE;
}

/* Gives zeroed memory for the library itself; before the application begins, so nothing need be evicted for it. */
void *library_memory(size_t size) {
    uint64_t begin = start->memory + memory_used;
    if (size > memory_end() - begin)
        give_up("The library OS has no address space left for its own data; give the program a smaller heap.\n");
    while (memory_held < memory_used + size) {
        uint64_t seen = EXO_OWN->events[EXO_EVENT_FRAMES];
        int64_t refusal = extend(start->memory + memory_held);
        if (!refusal)
            memory_held += EXO_PAGE_SIZE;
        else if (refusal == EXO_NO_FRAME)
            exo_block(EXO_EVENT_FRAMES, seen, EXO_FOREVER);
        else if (refusal == EXO_TOO_MANY)
            give_up("The library OS may not reserve as many frames as it needs; give the program a smaller heap.\n");
        else if (refusal == EXO_OVER_QUOTA)
            give_up("The program's quota of frames is too small for its library OS.\n");
    }
    memory_used += (size + 15) & ~(size_t)15;
    return (void *)begin;
}

/* One attempt to do the same when the program runs already, between enter() and leave(): 1 if there is a frame now, -1
 * if there will be none.  After 0 another thread may have got the page meanwhile. */
static int extend_later(uint64_t va) {
    uint64_t seen = EXO_OWN->events[EXO_EVENT_FRAMES];
    int64_t refusal = extend(va);
    if (!refusal)
        return 1;
    if (refusal != EXO_NO_FRAME && refusal != EXO_OVER_QUOTA)
        return -1;
    if (release_one())
        return 0;
    if (refusal == EXO_OVER_QUOTA)
        return -1;
    block_unlocked(EXO_EVENT_FRAMES, seen, EXO_FOREVER);
    return 0;
}

/* Zeroed memory between enter() and leave(); a null pointer if there is none. */
void *more_library_memory(size_t size) {
    while (memory_held < memory_used + size) {
        if (start->memory + memory_held >= memory_end())
            return NULL;
        int extended = extend_later(start->memory + memory_held);
        if (extended < 0)
            return NULL;
        if (extended)
            memory_held += EXO_PAGE_SIZE;
    }
    uint64_t begin = start->memory + memory_used;
    memory_used += (size + 15) & ~(size_t)15;
    return (void *)begin;
}

/* A page for another library stack, its address or 0. */
uint64_t library_stack_page(void) {
    for (;;) {
        uint64_t va = memory_end() - EXO_PAGE_SIZE;
        if (va < start->memory + memory_held)
            return 0;
        int extended = extend_later(va);
        if (extended < 0)
            return 0;
        if (extended) {
            stack_pages++;
            return va;
        }
    }
}

void *pager_memory(size_t size) {
    return library_memory(size);
}

/* Lists the library's own pages; gives how many there are, of which no more than `room` are stored. */
uint32_t private_pages(uint64_t *addresses, uint32_t room) {
    uint32_t count = 0;
    for (uint64_t i = 0; i < start->region_count; i++) {
        const struct start_region *region = &start->regions[i];
        for (uint64_t page = 0; region->kind == REGION_PRIVATE && page < region->pages; page++, count++)
            if (count < room)
                addresses[count] = region->va + page * EXO_PAGE_SIZE;
    }
    for (uint64_t offset = 0; offset < memory_held; offset += EXO_PAGE_SIZE, count++)
        if (count < room)
            addresses[count] = start->memory + offset;
    return count;
}

/* Tells the kernel where the up-calls of an environment go: of this one, or of a child with a copy of its memory. */
void become_ready(uint64_t environment) {
    static const struct {
        uint64_t upcall;
        void (*entry)(void);
    } entries[] = {
        {EXO_UPCALL_PAGE_FAULT, entry_page_fault},
        {EXO_UPCALL_PLEASE_RELEASE_PAGE, entry_please_release_page},
        {EXO_UPCALL_PAGES_TAKEN, entry_pages_taken},
        {EXO_UPCALL_TRAP, entry_trap},
    };
    exo_set_upcall_stack(start->library_stack, start->library_stack_size, environment, 0);
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++)
        exo_set_upcall(entries[i].upcall, (uint64_t)entries[i].entry, environment);
}

void library_begin(struct start_block *block) {
    start = block;
    processors[0].stack_top = library_stack_top = block->library_stack + block->library_stack_size;
    become_ready(EXO_SELF);
    if (block->version != START_VERSION) {
        say("The loader's start block is of another version than the library OS; build both from one source.\n");
        end(END_LIBRARY);
    }
    paging_begin();
}
