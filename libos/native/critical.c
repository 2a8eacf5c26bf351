/* Critical sections, and the up-calls that need one.
 *
 * `critical` in the own page counts the sections the processor is in.  While it is not zero the kernel sends no request;
 * what it wants stands in `frames_wanted`, which it counts down as frames come back.  leave() looks there; what is asked
 * in the instant before the section is open comes as an up-call then.  That the processor itself is wanted stands in
 * `cpu_wanted`, which the end of the up-call sees to.
 */
#include "library.h"

void enter(void) {
    critical_up();
    if (threading)
        lock_pager();
    if (newborn)
        begin_anew();
    settle_taken();
}

void leave(void) {
    volatile struct exo_own_page *own = EXO_OWN;
    for (;;) {
        uint32_t before = resident;
        if (own->frames_wanted && resident)
            release(own->frames_wanted, own->wanted_frame);
        if (threading)
            unlock_pager();
        critical_down();
        if (!own->frames_wanted || resident == before)
            return;
        critical_up();
        if (threading)
            lock_pager();
    }
}

_Noreturn void segmentation_fault(uint64_t va, uint64_t access, const struct interrupted *at) {
    say("segmentation fault at ");
    say_hex(va);
    say(access & EXO_ACCESS_FETCH ? " (execute)" : access & EXO_ACCESS_WRITE ? " (write)" : " (read)");
    say(", rip ");
    say_hex(at->rip);
    say("\n");
    end(END_SEGMENT);
}

/* The page of an access that its region allows; anything else is the program's end. */
static uint32_t page_for(uint64_t va, uint64_t access, const struct interrupted *at) {
    const struct start_region *region = region_at(va);
    uint64_t forbidden = EXO_ACCESS_FETCH;
    if (region && !(region->rights & EXO_RIGHTS_WRITE))
        forbidden |= EXO_ACCESS_WRITE;
    if (!region || region->kind < REGION_DATA || access & forbidden)
        segmentation_fault(va, access, at);
    return (uint32_t)(region->first_page + (va - region->va) / EXO_PAGE_SIZE);
}

/* Gives 1 if the page is on its way already, so that the thread has to wait for it. */
int64_t handle_page_fault(uint64_t va, uint64_t access, uint64_t unused, struct interrupted *at) {
    (void)unused;
    if (at->rip == (uint64_t)load_entry_at) {
        at->rip = (uint64_t)absent_entry;
        return 0;
    }
    if (at->rip == (uint64_t)zero_words_at || at->rip == (uint64_t)copy_words_at || at->rip == (uint64_t)load_word_at) {
        at->rip = (uint64_t)absent_page;
        return 0;
    }
    if (is_locked()) {
        say("The library OS itself faulted: ");
        segmentation_fault(va, access, at);
    }
    enter();
    uint32_t page = page_for(va, access, at);
    if (page_state[page] & PAGE_PROTECTED && withheld(page, access)) {
        uint64_t stack = call_handler(va, access, at);
        if (!stack) {
            leave();
            return 0;
        }
        access = EXO_ACCESS_WRITE;
        page = page_for(stack, access, at);
        if (page_state[page] & PAGE_PROTECTED && withheld(page, access))
            segmentation_fault(stack, access, at);
    }
    int write = (access & EXO_ACCESS_WRITE) != 0;
    if (!(access & EXO_ACCESS_PRESENT))
        settle_missing(page);
    if (is_busy(page_state[page])) {
        this_thread()->key = (uint64_t)&page_state[page];
        leave();
        return 1;
    }
    if (threading)
        may_suspend(1);
    if (PLACE(page_state[page]) != PLACE_RESIDENT)
        bring_in(page, write);
    else if (write && page_state[page] & PAGE_COW)
        break_sharing(page);
    leave();
    if (threading)
        may_suspend(0);
    return 0;
}

void handle_please_release_page(uint64_t count, uint64_t frame, uint64_t deadline) {
    (void)deadline;
    enter();
    if (EXO_OWN->frames_wanted)
        release(count, frame);
    leave();
}

void handle_pages_taken(uint64_t count) {
    (void)count;
    enter();
    leave();
}

void handle_trap(uint64_t reason, uint64_t code, uint64_t detail, const struct interrupted *at) {
    static const char *const names[] = {
        "exception ",
        "privileged instruction, vector ",
        "software interrupt ",
        "foreign system call ",
    };
    (void)detail;
    say("trap: ");
    say(reason < sizeof names / sizeof names[0] ? names[reason] : "unknown ");
    say_number(code);
    say(" at rip ");
    say_hex(at->rip);
    say("\n");
    end(END_TRAP);
}
