/* Files of the mounted file system, by calls of the file server: os_open and the rest, and os_map_file of such a file.
 *
 * One thread at a time has the window, and holds `turn` meanwhile.  Copying between the window and the program's memory
 * may page-fault, also on a page of a mapped file, which has a page of the window to itself; a handler that the program
 * has given to os_on_fault must not use files, though.
 */
#include "bytes.h"
#include "library.h"
#include <files.h>

#define CONTENTS(size) ((uint64_t)(size) | (uint64_t)FILES_DATA << FILES_PLACE_SHIFT)
#define PATH_MAXIMUM 4095

static struct os_mutex turn;

/* Takes the window, and makes it if need be; gives 0, or an error without having taken it. */
static int begin(void) {
    os_mutex_lock(&turn);
    int error = make_window();
    if (error)
        os_mutex_unlock(&turn);
    return error;
}

static int64_t finish_call(int64_t result) {
    os_mutex_unlock(&turn);
    return result;
}

/* Puts a path into the window, `at` bytes from where they begin; gives its size or an error. */
static int64_t put_path(const char *path, size_t at) {
    char *to = file_data() + at;
    size_t size = 0;
    for (; path[size]; size++) {
        if (size == PATH_MAXIMUM)
            return -OS_ENAMETOOLONG;
        to[size] = path[size];
    }
    return (int64_t)size;
}

/* A call with one path and two words behind it. */
static int64_t call_path(uint64_t operation, const char *path, uint64_t a, uint64_t b) {
    int error = begin();
    if (error)
        return error;
    int64_t size = put_path(path, 0);
    return finish_call(size < 0 ? size : file_call(operation, (uint64_t)size, a, b));
}

static int64_t call_paths(uint64_t operation, const char *path, const char *second) {
    int error = begin();
    if (error)
        return error;
    int64_t size = put_path(path, 0), more = size < 0 ? size : put_path(second, (size_t)size);
    return finish_call(more < 0 ? more : file_call(operation, (uint64_t)size, (uint64_t)more, 0));
}

static int64_t call_file(uint64_t operation, long file, uint64_t a, uint64_t b) {
    int error = begin();
    return error ? error : finish_call(file_call(operation, (uint64_t)file, a, b));
}

long os_open(const char *path, int flags, int mode) {
    return call_path(FILES_OPEN, path, (uint32_t)flags, (uint32_t)mode);
}

int os_close(long file) {
    return (int)call_file(FILES_CLOSE, file, 0, 0);
}

long os_read_file(long file, void *buffer, size_t size) {
    int64_t result = begin();
    if (result)
        return result;
    size_t done = 0, part;
    do {
        part = least(size - done, FILES_DATA_SIZE);
        result = file_call(FILES_READ, (uint64_t)file, CONTENTS(part), 0);
        if (result < 0 || (uint64_t)result > part)
            break;
        copy((char *)buffer + done, file_data(), (size_t)result);
        done += (size_t)result;
    } while ((uint64_t)result == part && done < size);
    return finish_call(result < 0 && !done ? result : (int64_t)done);
}

long os_write_file(long file, const void *bytes, size_t size) {
    int64_t result = begin();
    if (result)
        return result;
    size_t done = 0, part;
    do {
        part = least(size - done, FILES_DATA_SIZE);
        copy(file_data(), (const char *)bytes + done, part);
        result = file_call(FILES_WRITE, (uint64_t)file, CONTENTS(part), 0);
        if (result < 0 || (uint64_t)result > part)
            break;
        done += (size_t)result;
    } while ((uint64_t)result == part && done < size);
    return finish_call(result < 0 && !done ? result : (int64_t)done);
}

long os_seek(long file, long distance, int from) {
    return call_file(FILES_SEEK, file, (uint64_t)distance, (uint32_t)from);
}

int os_sync(long file, int data_only) {
    return (int)call_file(FILES_SYNC, file, (uint32_t)data_only, 0);
}

int os_truncate(long file, size_t size) {
    return (int)call_file(FILES_TRUNCATE, file, size, 0);
}

int os_stat(const char *path, struct os_file_status *status, int follow) {
    int error = begin();
    if (error)
        return error;
    int64_t size = put_path(path, 0);
    int64_t result = size < 0 ? size : file_call(FILES_STATUS, (uint64_t)size, (uint32_t)follow, 0);
    if (result >= 0)
        copy(status, file_data(), sizeof *status);
    return (int)finish_call(result);
}

long os_list(long directory, struct os_entry *entries, size_t count) {
    int error = begin();
    if (error)
        return error;
    int64_t result = file_call(FILES_LIST, (uint64_t)directory, count, 0);
    if (result > FILES_ENTRIES_AT_ONCE || (result > 0 && (uint64_t)result > count))
        result = -OS_EIO;
    if (result > 0)
        copy(entries, file_data(), (size_t)result * sizeof *entries);
    return finish_call(result);
}

int os_make_directory(const char *path, int mode) {
    return (int)call_path(FILES_MAKE_DIRECTORY, path, (uint32_t)mode, 0);
}

int os_remove(const char *path) {
    return (int)call_path(FILES_REMOVE, path, 0, 0);
}

int os_rename(const char *path, const char *new_path) {
    return (int)call_paths(FILES_RENAME, path, new_path);
}

int os_link(const char *path, const char *new_path) {
    return (int)call_paths(FILES_LINK, path, new_path);
}

int os_symlink(const char *target, const char *path) {
    return (int)call_paths(FILES_SYMLINK, target, path);
}

long os_read_link(const char *path, char *target, size_t size) {
    int error = begin();
    if (error)
        return error;
    int64_t length = put_path(path, 0);
    int64_t result = length < 0 ? length : file_call(FILES_READ_LINK, (uint64_t)length, least(size, FILES_DATA_SIZE), 0);
    if (result > 0)
        copy(target, file_data(), least(least(size, (size_t)result), FILES_DATA_SIZE));
    return finish_call(result);
}

int os_set_mode(const char *path, int mode) {
    return (int)call_path(FILES_SET_MODE, path, (uint32_t)mode, 0);
}

/* A file's size, or -1 for what has no contents to be mapped. */
static long size_of(const char *name, long file) {
    struct os_file_status status;
    if (os_stat(name, &status, 1) < 0 || status.kind != OS_KIND_FILE)
        return -1;
    return os_seek(file, 0, OS_FROM_END);
}

const void *map_served_file(const char *name, size_t *size) {
    long file = start->file_server ? os_open(name, OS_OPEN_READ, 0) : -1;
    if (file < 0)
        return NULL;
    long length = size_of(name, file);
    os_mutex_lock(&turn);
    const void *mapped = length < 0 ? NULL : serve_file((uint64_t)file, (uint64_t)length);
    os_mutex_unlock(&turn);
    if (!mapped || !length)
        os_close(file);
    if (mapped && size)
        *size = (size_t)length;
    return mapped;
}
