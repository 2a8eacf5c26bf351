/* The interface of a library OS once more, over the host's C library: the same programs run on the host, as an oracle.
 *
 * There are no calls between processes.  It is as unhelpful as the interface allows.  Memory from os_alloc is full of
 * rubbish, os_write writes a few bytes only, and every os_advise makes all pages forgotten that were ever said to be
 * recomputable.
 */
#define _GNU_SOURCE
#include "libos.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "support.h"

enum { LONGEST_WRITE = 100, RANGES = 16, RUBBISH = 0xa5, PIPES = 4, LISTED = 64 };

static struct {
    char *memory;
    size_t size;
} recomputable[RANGES];
static size_t ranges;

_Noreturn void os_exit(int status) {
    _exit(status);
}

__attribute__((destructor)) static void flush_at_the_end(void) {
    flush();
}

long os_write(const void *text, size_t size) {
    return write(STDOUT_FILENO, text, size < LONGEST_WRITE ? size : LONGEST_WRITE);
}

uint64_t os_time(void) {
    return (uint64_t)clock();
}

void os_yield(void) {
}

void *os_alloc(size_t size) {
    void *memory = malloc(size);
    return memory == NULL ? NULL : memset(memory, RUBBISH, size);
}

void os_free(void *memory) {
    free(memory);
}

void *os_region(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

const void *os_map_file(const char *name, size_t *size) {
    struct stat about;
    const int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
        return NULL;
    }
    const size_t length = (size_t)about.st_size;
    if (size != NULL) {
        *size = length;
    }
    void *memory = length == 0 ? "" : mmap(NULL, length, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

static int forget(char *memory, size_t size) {
    const size_t first = -(uintptr_t)memory % PAGE_SIZE;
    return size < first ? 0 : madvise(memory + first, (size - first) / PAGE_SIZE * PAGE_SIZE, MADV_DONTNEED);
}

int os_advise(void *memory, size_t size, int advice) {
    if (advice == OS_RECOMPUTABLE && ranges < RANGES) {
        recomputable[ranges].memory = memory;
        recomputable[ranges++].size = size;
    }
    for (size_t i = 0; i < ranges; i++) {
        forget(recomputable[i].memory, recomputable[i].size);
    }
    return advice == OS_DISCARD ? forget(memory, size) : 0;
}

long os_fork(void) {
    return fork();
}

void *os_shared(void) {
    void *memory = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static int ends[PIPES][2];
static long pipes;

long os_pipe(void) {
    return pipes < PIPES && pipe(ends[pipes]) == 0 ? pipes++ : -1;
}

long os_pipe_read(long number, void *buffer, size_t size) {
    return read(ends[number][0], buffer, size);
}

long os_pipe_write(long number, const void *bytes, size_t size) {
    return write(ends[number][1], bytes, size);
}

int os_pipe_close(long number, int which) {
    return which == OS_READ_END ? close(ends[number][0]) : close(ends[number][1]);
}

long os_self(void) {
    return getpid();
}

void os_yield_to(long environment) {
    (void)environment;
}

long os_rpc_serve(os_rpc_handler *handler) {
    (void)handler;
    return -1;
}

long os_rpc_call(long server, uint64_t operation, uint64_t a, uint64_t b, uint64_t c, uint64_t *result) {
    (void)server, (void)operation, (void)a, (void)b, (void)c, (void)result;
    return OS_RPC_NOBODY;
}

long os_wait(long child) {
    int status;
    return waitpid((pid_t)child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Threads are the host's.  All that they wait for each other with is words under one lock and one condition. */
enum { THREADS = 256 };

static pthread_mutex_t all = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
    pthread_t thread;
    os_thread_entry *entry;
    void *argument;
    int joined;
} made[THREADS];
static long threads = 1;
static _Thread_local long self;

static void *begin(void *place) {
    self = (long)(intptr_t)place;
    return (void *)(intptr_t)made[self].entry(made[self].argument);
}

long os_thread_create(os_thread_entry *entry, void *argument) {
    pthread_mutex_lock(&all);
    const long number = threads < THREADS ? threads++ : -1;
    pthread_mutex_unlock(&all);
    if (number >= 0) {
        made[number].entry = entry;
        made[number].argument = argument;
        pthread_create(&made[number].thread, NULL, begin, (void *)(intptr_t)number);
    }
    return number;
}

_Noreturn void os_thread_exit(long result) {
    pthread_exit((void *)(intptr_t)result);
}

long os_thread_join(long thread) {
    void *result;
    if (thread < 1 || thread >= threads || thread == self || made[thread].joined) {
        return -1;
    }
    made[thread].joined = 1;
    return pthread_join(made[thread].thread, &result) == 0 ? (long)(intptr_t)result : -1;
}

long os_thread_self(void) {
    return self;
}

void os_thread_yield(void) {
    sched_yield();
}

long os_processors(long count) {
    return count > 0 ? count : sysconf(_SC_NPROCESSORS_ONLN);
}

void os_mutex_lock(struct os_mutex *mutex) {
    pthread_mutex_lock(&all);
    while (mutex->words[0]) {
        pthread_cond_wait(&changed, &all);
    }
    mutex->words[0] = 1;
    pthread_mutex_unlock(&all);
}

void os_mutex_unlock(struct os_mutex *mutex) {
    pthread_mutex_lock(&all);
    mutex->words[0] = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&all);
}

void os_condition_wait(struct os_condition *condition, struct os_mutex *mutex) {
    pthread_mutex_lock(&all);
    const uint64_t seen = condition->words[0];
    mutex->words[0] = 0;
    pthread_cond_broadcast(&changed);
    while (condition->words[0] == seen) {
        pthread_cond_wait(&changed, &all);
    }
    pthread_mutex_unlock(&all);
    os_mutex_lock(mutex);
}

void os_condition_broadcast(struct os_condition *condition) {
    pthread_mutex_lock(&all);
    condition->words[0]++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&all);
}

/* Nobody may count on being the only one that is woken. */
void os_condition_signal(struct os_condition *condition) {
    os_condition_broadcast(condition);
}

int os_barrier_wait(struct os_barrier *barrier, uint64_t count) {
    pthread_mutex_lock(&all);
    const uint64_t round = barrier->words[1];
    const int last = ++barrier->words[0] == count;
    if (last) {
        barrier->words[0] = 0;
        barrier->words[1]++;
        pthread_cond_broadcast(&changed);
    }
    while (barrier->words[1] == round) {
        pthread_cond_wait(&changed, &all);
    }
    pthread_mutex_unlock(&all);
    return last;
}

void os_spin_lock(struct os_spin *lock) {
    while (__atomic_exchange_n(&lock->words[0], 1, __ATOMIC_ACQUIRE)) {
        sched_yield();
    }
}

void os_spin_unlock(struct os_spin *lock) {
    __atomic_store_n(&lock->words[0], 0, __ATOMIC_RELEASE);
}

void os_critical_enter(void) {
}

void os_critical_leave(void) {
}

int os_protect(void *memory, size_t size, int rights) {
    return mprotect(memory, size, (rights & 1 ? PROT_READ : 0) | (rights & 2 ? PROT_WRITE : 0));
}

static int (*fault_handler)(void *address, int write);

static void on_signal(int number, siginfo_t *about, void *context) {
    const ucontext_t *interrupted = context;
    if (fault_handler == NULL || !fault_handler(about->si_addr, interrupted->uc_mcontext.gregs[REG_ERR] >> 1 & 1)) {
        signal(number, SIG_DFL);
    }
}

void os_on_fault(int (*handler)(void *address, int write)) {
    const struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    fault_handler = handler;
    sigaction(SIGSEGV, &action, NULL);
}

int os_dirty(const void *memory) {
    return memory == NULL ? -1 : 1;
}

/* Files are the host's.  The modes are those that the program says, as there is no umask in the interface. */
static int result_of(long result) {
    return result < 0 ? -errno : (int)result;
}

static DIR *listed[LISTED];

long os_open(const char *path, int flags, int mode) {
    umask(0);
    return result_of(open(path, flags | O_CLOEXEC, mode));
}

int os_close(long file) {
    if (file >= 0 && file < LISTED && listed[file] != NULL) {
        closedir(listed[file]);
        listed[file] = NULL;
    }
    return result_of(close((int)file));
}

long os_read_file(long file, void *buffer, size_t size) {
    const long done = read((int)file, buffer, size);
    return done < 0 ? -errno : done;
}

long os_write_file(long file, const void *bytes, size_t size) {
    const long done = write((int)file, bytes, size);
    return done < 0 ? -errno : done;
}

long os_seek(long file, long distance, int from) {
    if (file >= 0 && file < LISTED && listed[file] != NULL) {
        rewinddir(listed[file]);
    }
    const long position = lseek((int)file, distance, from);
    return position < 0 ? -errno : position;
}

int os_sync(long file, int data_only) {
    if (file < 0) {
        sync();
        return 0;
    }
    return result_of(data_only ? fdatasync((int)file) : fsync((int)file));
}

int os_truncate(long file, size_t size) {
    return result_of(ftruncate((int)file, (off_t)size));
}

int os_stat(const char *path, struct os_file_status *status, int follow) {
    struct stat about;
    if ((follow ? stat(path, &about) : lstat(path, &about)) < 0) {
        return -errno;
    }
    *status = (struct os_file_status){
        .inode = about.st_ino,
        .kind = S_ISREG(about.st_mode)   ? OS_KIND_FILE
                : S_ISDIR(about.st_mode) ? OS_KIND_DIRECTORY
                : S_ISLNK(about.st_mode) ? OS_KIND_SYMLINK
                                         : OS_KIND_UNKNOWN,
        .mode = about.st_mode & 07777,
        .links = about.st_nlink,
        .uid = about.st_uid,
        .gid = about.st_gid,
        .size = (uint64_t)about.st_size,
        .sectors = (uint64_t)about.st_blocks,
        .accessed = (uint64_t)about.st_atime,
        .modified = (uint64_t)about.st_mtime,
        .changed = (uint64_t)about.st_ctime,
    };
    return 0;
}

long os_list(long directory, struct os_entry *entries, size_t count) {
    if (directory < 0 || directory >= LISTED) {
        return -EBADF;
    }
    if (listed[directory] == NULL) {
        listed[directory] = fdopendir(dup((int)directory));
    }
    if (listed[directory] == NULL) {
        return -errno;
    }
    size_t done = 0;
    for (struct dirent *entry; done < count && (entry = readdir(listed[directory])) != NULL; done++) {
        entries[done].inode = entry->d_ino;
        entries[done].kind = entry->d_type == DT_REG   ? OS_KIND_FILE
                             : entry->d_type == DT_DIR ? OS_KIND_DIRECTORY
                             : entry->d_type == DT_LNK ? OS_KIND_SYMLINK
                                                       : OS_KIND_UNKNOWN;
        memcpy(entries[done].name, entry->d_name, strlen(entry->d_name) + 1);
    }
    return (long)done;
}

int os_make_directory(const char *path, int mode) {
    umask(0);
    return result_of(mkdir(path, (mode_t)mode));
}

int os_remove(const char *path) {
    struct stat about;
    return result_of(lstat(path, &about) == 0 && S_ISDIR(about.st_mode) ? rmdir(path) : unlink(path));
}

int os_rename(const char *path, const char *new_path) {
    return result_of(rename(path, new_path));
}

int os_link(const char *path, const char *new_path) {
    return result_of(link(path, new_path));
}

int os_symlink(const char *target, const char *path) {
    return result_of(symlink(target, path));
}

long os_read_link(const char *path, char *target, size_t size) {
    char whole[4096];
    const long length = readlink(path, whole, sizeof whole);
    if (length < 0) {
        return -errno;
    }
    memcpy(target, whole, (size_t)length < size ? (size_t)length : size);
    return length;
}

int os_set_mode(const char *path, int mode) {
    return result_of(chmod(path, (mode_t)mode));
}
