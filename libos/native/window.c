/* The window to the file server: frames of this environment's, reserved, that the server maps too, and calls about what
 * is in them (libos/files/protocol.py).
 *
 * The window lies just below the shared pages.  Its first page is for faults on mapped files alone, which come while a
 * call has the others.  A forked child has the addresses and not the frames, and makes itself another window before
 * its program runs.
 */
#include "library.h"
#include <files.h>

#define READ_WRITE (EXO_RIGHTS_READ | EXO_RIGHTS_WRITE)
#define FILES_EIO (-OS_EIO)

static uint32_t frames[FILES_WINDOW_PAGES];
static uint32_t made, attached;
static int needed; /* files are or have been used */

static uint64_t window(void) {
    return shared_address(0) - FILES_WINDOW_PAGES * EXO_PAGE_SIZE;
}

char *file_data(void) {
    return (char *)window() + FILES_DATA;
}

/* Calls the server, which is given the rest of the slice and asked again while it is busy. */
int64_t file_call(uint64_t operation, uint64_t a, uint64_t b, uint64_t c) {
    for (;;) {
        uint64_t words[4] = {operation, a, b, c};
        int64_t refusal = exo_call(start->file_server, EXO_FOREVER, words);
        if (!refusal)
            return (int64_t)words[0];
        if (refusal != EXO_BUSY && refusal != EXO_NOT_SERVING)
            return FILES_EIO;
        cpu_yield(start->file_server);
    }
}

/* Puts a frame of zeros at the next page of the window; gives 0 or -1. */
static int64_t extend_window(void) {
    int zeroed;
    uint64_t va = window() + made * EXO_PAGE_SIZE;
    enter();
    uint32_t frame = take_frame(&zeroed);
    if (exo_reserve_page(frame, 1, EXO_SELF) == 0 && map(va, frame, READ_WRITE) == 0 &&
        (zeroed || zero_words(va, EXO_PAGE_SIZE / 8) == 0)) {
        frames[made++] = frame;
        leave();
        return 0;
    }
    exo_dealloc_page(frame, EXO_SELF);
    leave();
    return -1;
}

/* Lends the server the frames of the window, once; gives 0 or an error. */
int make_window(void) {
    if (!start->file_server)
        return -OS_ENOSYS;
    for (; attached < FILES_WINDOW_PAGES; attached++) {
        if (made == attached && on_library_stack((void *)extend_window, 0, 0, 0) < 0)
            return -OS_ENOMEM;
        if (exo_share_page(frames[attached], start->file_server, EXO_SHARING_LOAN, READ_WRITE) < 0)
            return FILES_EIO;
        int64_t refusal = file_call(FILES_ATTACH, attached, frames[attached], 0);
        if (refusal < 0)
            return (int)refusal;
    }
    needed = 1;
    return 0;
}

/* Lets a child that has not been started have every file that is open here; gives 0 or -1. */
int give_files(uint64_t child) {
    return needed && file_call(FILES_INHERIT, child, 0, 0) < 0 ? -1 : 0;
}

/* In a child: the window is the parent's. */
void forget_window(void) {
    made = attached = 0;
}

/* In a child, before its program runs, and on the library stack: a fault on a mapped file wants a window, and cannot make
 * one.  If there is no room the fault says so. */
void renew_window(void) {
    if (!needed)
        return;
    while (made < FILES_WINDOW_PAGES && extend_window() == 0)
        ;
    if (made == FILES_WINDOW_PAGES)
        make_window();
}

static _Noreturn void no_page(void) {
    say("A page of a mapped file cannot be read.\n");
    end(END_LIBRARY);
}

/* Puts a page of a file into a frame that has no place in the program yet; gives 0, or -1 if the frame was taken. */
int fill_from_file(uint64_t file, uint64_t offset, uint32_t frame) {
    if (attached < FILES_WINDOW_PAGES)
        no_page();
    int64_t size = file_call(FILES_READ_AT, file, EXO_PAGE_SIZE, offset);
    if (size < 0 || size > EXO_PAGE_SIZE)
        no_page();
    memset((char *)window() + size, 0, EXO_PAGE_SIZE - (size_t)size);
    int gone = map(start->window, frame, READ_WRITE) < 0 ||
               copy_words(start->window, window(), EXO_PAGE_SIZE / 8) < 0;
    exo_remove_mapping(start->window, EXO_SELF);
    return gone ? -1 : 0;
}
