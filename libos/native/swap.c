/* The disk, as far as paging needs it.
 *
 * The swap extent gives each page a place of its own, by its index, so there is no map to keep.  Requests are
 * asynchronous; a handler that must wait blocks, and the processor goes to somebody else.
 */
#include "library.h"

#define RETRY_AFTER 100000

uint64_t swap_sector(uint32_t page) {
    return start->swap_sector + (uint64_t)page * EXO_SECTORS_PER_PAGE;
}

/* While too many requests are under way, which may be somebody else's fault, time is all that helps. */
static void wait_a_little(void) {
    cpu_block(EXO_EVENT_TIME, 0, (uint64_t)exo_time() + RETRY_AFTER);
}

/* Whether a refusal means that the frame has been taken; other refusals are the end. */
static int taken(int64_t refusal) {
    if (refusal == EXO_DENIED || refusal == EXO_NO_SUCH_FRAME)
        return 1;
    say("The kernel refuses the library OS a page's sectors, error ");
    say_number((uint64_t)-refusal);
    say(".\n");
    end(END_LIBRARY);
}

/* Gives the request, or -1 if the frame has been taken. */
static int64_t begin(uint64_t call, uint32_t frame, uint64_t sector, uint64_t sectors) {
    for (;;) {
        int64_t request = exo_downcall(call, sector, sectors, frame, 0, 0, 0);
        if (request >= 0)
            return request;
        if (request == EXO_TOO_MANY)
            wait_a_little();
        else if (taken(request))
            return -1;
    }
}

int64_t begin_write(uint32_t frame, uint64_t sector) {
    return begin(EXO_CALL_WRITE_SECTORS, frame, sector, EXO_SECTORS_PER_PAGE);
}

int64_t begin_read(uint32_t frame, uint64_t sector, uint64_t sectors) {
    return begin(EXO_CALL_READ_SECTORS, frame, sector, sectors);
}

/* Meanwhile another thread may have the pager. */
void wait_for(int64_t request) {
    if ((threading ? wait_in_library(EXO_EVENT_DISK, (uint64_t)request)
                   : exo_block(EXO_EVENT_DISK, (uint64_t)request, EXO_FOREVER)) < 0) {
        say("The disk reported an error while the library OS was moving a page.\n");
        end(END_LIBRARY);
    }
}
