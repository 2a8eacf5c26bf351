/* What the files of the native library OS know of one another.
 *
 * Rules for everything here:
 *
 *   - All of the library's memory is resident and reserved, so up-call handlers and everything between enter() and
 *     leave() run without page faults.  They run on the library's own stack and touch the program's memory only through
 *     zero_words, copy_words and load_entry, which survive a page that has just been taken by force.
 *   - Whatever touches the state of pages runs between enter() and leave().  A request that comes meanwhile is honoured
 *     by leave().  Other threads may come in between wherever wait_for waits; the pages in hand then are BUSY.
 *   - The kernel may take any frame of the program at any instruction.  A refusal (EXO_DENIED, EXO_NO_SUCH_FRAME) of a
 *     down-call on a frame means that it has been taken; the records in the own page say what became of the contents.
 *     Only who controls children may not rely on that: a frame taken from it may be a child's a moment later, and is
 *     then not refused.  So such an environment pins a frame, which only its holder can, for as long as it is in hand.
 *     One with threads does too: another thread may be given the frame meanwhile.
 */
#ifndef LIBRARY_H
#define LIBRARY_H
#include <exo.h>
#include <libos.h>
#include <startup.h>
#include "pager.h"
#include "threads.h"

#pragma GCC visibility push(hidden)

#define NO_REQUEST (-1)
#define ENTRY_PRESENT 0x1
#define ENTRY_FRAME(entry) (((entry) & 0xffffffffff000) >> EXO_PAGE_SHIFT)

/* The state of a page is one byte: its place, and flags. */
enum place { PLACE_ZERO, PLACE_SWAP, PLACE_FILE, PLACE_RESIDENT, PLACE_LOST };
#define PLACE(state) ((enum place)((state) & 7))
#define PAGE_COPY 0x08         /* its place in the swap extent has what the page had when it was last clean */
#define PAGE_DIRTY 0x10        /* written since, although the page-table entry may not show it */
#define PAGE_COW 0x20          /* of a resident page: mapped read-only because its frame may have another holder */
#define PAGE_BUSY 0x20         /* of a page that is not: on its way in or out, and whoever needs it waits */
#define PAGE_RECOMPUTABLE 0x40 /* never written to swap */
#define PAGE_PROTECTED 0x80    /* the program may do less with it than its region allows */
#define PAGE_STAYS (PAGE_RECOMPUTABLE | PAGE_PROTECTED) /* what is true of a page wherever it is */

static inline int is_busy(uint8_t state) {
    return PLACE(state) != PLACE_RESIDENT && state & PAGE_BUSY;
}

/* What an up-call interrupted. */
struct interrupted {
    uint64_t rip, cs, rflags, rsp, ss;
};

/* A page on its way out: its frame, still held, and the request that saves its contents or NO_REQUEST. */
struct departure {
    uint32_t page;
    uint32_t frame;
    int64_t request;
};

/* entry.S */
void entry_page_fault(void), entry_please_release_page(void), entry_pages_taken(void), entry_trap(void);
void entry_event(void);
void fork_entry(void);
int64_t on_library_stack(void *function, uint64_t a, uint64_t b, uint64_t c);
extern const char load_entry_at[], zero_words_at[], copy_words_at[], absent_entry[], absent_page[];
uint64_t load_entry(uint64_t address);             /* the page-table entry there, 0 if there is no table */
int zero_words(uint64_t va, uint64_t words);       /* 0, or -1 if the page has gone */
int copy_words(uint64_t to, uint64_t from, uint64_t words); /* 0, or -1 if a page has gone */
void *memset(void *to, int byte, size_t size);

/* startup.c */
extern struct start_block *start;
extern uint64_t library_stack_top;
void library_begin(struct start_block *block);
void become_ready(uint64_t environment);
void *library_memory(size_t size);
void *more_library_memory(size_t size);
uint64_t library_stack_page(void);
uint32_t private_pages(uint64_t *addresses, uint32_t room);

/* critical.c */
void enter(void);
void leave(void);
_Noreturn void segmentation_fault(uint64_t va, uint64_t access, const struct interrupted *at);
int64_t handle_page_fault(uint64_t va, uint64_t access, uint64_t unused, struct interrupted *at);
void handle_please_release_page(uint64_t count, uint64_t frame, uint64_t deadline);
void handle_pages_taken(uint64_t count);
void handle_trap(uint64_t reason, uint64_t code, uint64_t detail, const struct interrupted *at);

/* regions.c */
struct start_region *region_at(uint64_t va);
struct start_region *region_of(uint32_t page);
uint64_t page_address(uint32_t page);
uint64_t mapped_address(uint32_t page); /* where it is mapped if it is resident */
uint64_t entry_at(uint64_t va);
uint64_t page_entry(uint32_t page);
int swappable(const struct start_region *region);
const void *serve_file(uint64_t file, uint64_t size);

/* paging.c */
extern uint8_t *page_state;
extern uint32_t resident, coming;
void paging_begin(void);
int registers_backing(void);
int name_backing(uint32_t page, uint32_t frame);
extern int controls_children;
int pin(uint32_t frame);
void unpin(uint32_t frame);
uint32_t take_frame(int *zeroed); /* pinned */
int64_t map(uint64_t va, uint32_t frame, uint64_t rights);
void bring_in(uint32_t page, int write);
void absent(uint32_t page, uint8_t state);

/* departure.c */
uint32_t choose_victim(void);
int depart(uint32_t page, struct departure *departure);
void finish(const struct departure *departure);
extern int releasing;
int release_one(void);
void release(uint64_t count, uint64_t frame);

/* swap.c */
uint64_t swap_sector(uint32_t page);
int64_t begin_write(uint32_t frame, uint64_t sector);
int64_t begin_read(uint32_t frame, uint64_t sector, uint64_t sectors);
void wait_for(int64_t request);

/* taken.c */
void settle_taken(void);
void settle_missing(uint32_t page);
void forget_records(void);

/* fork.c */
int64_t fork_environment(uint64_t stack_pointer);
extern int newborn;
void begin_anew(void);
void fork_begin(void);
void break_sharing(uint32_t page);

/* shared.c */
#define SHARED_MAXIMUM 8
uint64_t shared_address(uint32_t place);
uint32_t shared_frame(uint32_t place);
int64_t share_page(void);
void drop_shared_page(uint32_t place);

/* pipe.c */
int give_pipes(uint64_t child);

/* window.c */
char *file_data(void); /* a null pointer without a window */
int64_t file_call(uint64_t operation, uint64_t a, uint64_t b, uint64_t c);
int make_window(void);
int give_files(uint64_t child);
void forget_window(void);
void renew_window(void);
int fill_from_file(uint64_t file, uint64_t offset, uint32_t frame);

/* files.c */
const void *map_served_file(const char *name, size_t *size);

/* advice.c */
int64_t advise(uint64_t begin, uint64_t past, uint64_t advice);

/* protection.c */
int is_hidden(uint32_t page);
int withheld(uint32_t page, uint64_t access);
uint64_t rights_of(uint32_t page, const struct start_region *region);
uint64_t call_handler(uint64_t va, uint64_t access, struct interrupted *at);
void no_handler(void);

/* run_handler.S */
void run_handler(void);

/* console.c */
void say(const char *text);
void say_hex(uint64_t value);
void say_number(uint64_t value);
_Noreturn void end(int status);

enum { END_LIBRARY = 134, END_LOST = 135, END_TRAP = 132, END_SEGMENT = 139 };

#pragma GCC visibility pop
#endif
