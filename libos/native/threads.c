/* Threads: flows of control of one program, switched by the library, on one or more virtual processors.
 *
 * A thread is either on a processor or described wholly by its block, in one of three ways:
 *
 *   - It has given up the processor by calling a function (thread_call): its few registers are in the block, everything
 *     else is on its own stack.  The functions here run on the processor's library stack and leave nothing there.
 *   - It has been preempted: all its registers have been copied from the library stack into the block.
 *   - It waits for the disk inside the page-fault handler: the library stack with the handler's frames stays with it
 *     (suspend), and the processor takes up-calls on a spare one from then on.  There are few spare ones, and a small
 *     memory is better not shared by many; failing that the processor itself waits in the kernel.
 *
 * So a library stack is never shared, no thread's own stack is touched under a lock (it can be paged out), and a thread
 * goes on on any processor.  Preempted in the library's own code, on the library stack, a processor only yields.
 *
 * `lock` guards the queues; it is held for a few instructions, in a critical section, and is taken after the pager's if
 * both are.  A processor with nothing to do waits in the kernel for a predicate: something is ready, a disk request has
 * ended, frames are wanted.  While it runs, the up-call `event` tells it the same.
 * (Anderson, Bershad, Lazowska and Levy, Scheduler activations, SOSP 1991; Kaashoek et al., SOSP 1997, section 3.2.)
 *
 * The environment cannot be forked once threads have begun.
 */
#include "library.h"

#define STACK_SIZE (16 * EXO_PAGE_SIZE)
#define LIBRARY_STACK_SIZE EXO_PAGE_SIZE
#define SPARE_STACKS 8
#define BUCKETS 16
#define PAGES_OF_ONE 8
#define RESET_MXCSR 0x1f80
#define RESET_FCW 0x37f
#define REGISTER_RDI 5

struct queue {
    struct thread *first, *last;
};

static uint64_t lock_word;
static struct thread *threads;
static struct thread *unused_threads;
static long last_number;
static uint32_t living = 1;
static struct queue ready, waiting, *parked;
static uint64_t ready_count; /* the processors' predicates look at it */
static uint32_t suspended;
static uint32_t processor_count = 1;
static int watched;
static uint64_t spare_stacks[SPARE_STACKS];
static uint32_t spare_count, spare_total;

#define CRITICAL (*(volatile uint64_t *)(OWN_CRITICAL + gs_base()))

static void lock(void) {
    while (exchange(&lock_word, 1))
        __asm__ volatile("pause");
}

static void unlock(void) {
    __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
}

/* Queues. */

static void append(struct queue *queue, struct thread *thread) {
    thread->next = NULL;
    if (queue->first)
        queue->last->next = thread;
    else
        queue->first = thread;
    queue->last = thread;
}

static void take_out(struct queue *queue, struct thread *before, struct thread *thread) {
    if (before)
        before->next = thread->next;
    else
        queue->first = thread->next;
    if (queue->last == thread)
        queue->last = before;
}

static void make_ready(struct thread *thread) {
    append(&ready, thread);
    ready_count++;
}

static void make_ready_first(struct thread *thread) {
    thread->next = ready.first;
    if (!ready.first)
        ready.last = thread;
    ready.first = thread;
    ready_count++;
}

static struct queue *bucket(uint64_t key) {
    return &parked[(key ^ key >> 4) % BUCKETS];
}

static void park_thread(struct thread *thread, uint64_t key) {
    thread->key = key;
    append(bucket(key), thread);
}

static int64_t unpark_threads(uint64_t key, uint64_t most) {
    struct queue *queue = bucket(key);
    uint64_t count = 0;
    for (struct thread *thread = queue->first, *before = NULL, *next; thread && count < most; thread = next) {
        next = thread->next;
        if (thread->key != key) {
            before = thread;
            continue;
        }
        take_out(queue, before, thread);
        thread->key = 0;
        make_ready(thread);
        count++;
    }
    return (int64_t)count;
}

int others_ready(void) {
    return *(struct thread *volatile *)&ready.first != NULL;
}

/* Waiting for events. */

/* Looks whether what a thread waits for has happened, and makes it ready if so. */
static int has_ended(struct thread *thread) {
    int64_t status = exo_block(thread->event, thread->value, 0);
    if (status == EXO_TIMED_OUT)
        return 0;
    thread->result = status;
    return 1;
}

static void look_at_events(void) {
    for (struct thread *thread = waiting.first, *before = NULL, *next; thread; thread = next) {
        next = thread->next;
        if (has_ended(thread)) {
            take_out(&waiting, before, thread);
            make_ready_first(thread);
        } else {
            before = thread;
        }
    }
}

void handle_event(uint64_t event, uint64_t value, uint64_t status) {
    (void)status;
    critical_up();
    lock();
    for (struct thread *thread = waiting.first, *before = NULL; thread; before = thread, thread = thread->next)
        if (thread->event == event && thread->value == value) {
            if (has_ended(thread)) {
                take_out(&waiting, before, thread);
                make_ready_first(thread);
            }
            break;
        }
    unlock();
    critical_down();
}

/* Choosing whom to run. */

static struct exo_predicate_term changed(uint64_t tag, const volatile uint64_t *word, uint64_t seen) {
    return (struct exo_predicate_term){tag, (uint64_t)word, EXO_COMPARE_NOT_EQUAL, seen};
}

/* Waits until there may be something to do.  One processor watches for all. */
static void idle(void) {
    volatile struct exo_own_page *own = EXO_OWN;
    struct exo_predicate_term terms[4] = {changed(0, &ready_count, 0)};
    uint32_t count = 1;
    int watch = !watched;
    if (watch) {
        if (own->frames_wanted && resident && !releasing) {
            unlock();
            enter();
            leave();
            lock();
            return;
        }
        terms[count++] = changed(1, &own->events[EXO_EVENT_DISK], own->events[EXO_EVENT_DISK]);
        terms[count++] = changed(2, &own->events[EXO_EVENT_CHILD], own->events[EXO_EVENT_CHILD]);
        terms[count++] = changed(3, &own->frames_wanted, own->frames_wanted);
        look_at_events();
        if (ready.first)
            return;
        watched = 1;
    }
    unlock();
    processor_trap(EXO_CALL_BLOCK_UNTIL, (uint64_t)terms, count, EXO_FOREVER);
    lock();
    if (watch)
        watched = 0;
}

/* A suspended thread brings its library stack back; the one this processor has had is in use until it goes on. */
static void take_stack(uint64_t stack) {
    here()->stack_top = stack + LIBRARY_STACK_SIZE;
    if (stack == start->library_stack)
        here()->stack_top = stack + start->library_stack_size;
    state()->stack = stack;
    exo_set_upcall_stack(stack, here()->stack_top - stack, EXO_SELF, gs_base() / EXO_CONTEXT_SIZE);
}

/* The thread to go on with: locked when called, not afterwards.  Waits if there is none. */
static struct thread *next_thread(void) {
    while (!ready.first)
        idle();
    struct thread *thread = ready.first;
    take_out(&ready, NULL, thread);
    ready_count--;
    here()->thread = thread;
    CRITICAL = thread->critical + 1;
    if (thread->library_stack) {
        state()->left = state()->stack;
        take_stack(thread->library_stack);
        thread->library_stack = 0;
    }
    unlock();
    return thread;
}

/* The calling thread is about to be left, by thread_call or preempted. */
static struct thread *leaving(void) {
    struct thread *thread = here()->thread;
    thread->critical = CRITICAL - 1;
    return thread;
}

static struct thread *stay(int64_t result) {
    struct thread *thread = here()->thread;
    thread->result = result;
    unlock();
    return thread;
}

static struct thread *yield_first(void) {
    processor_trap(EXO_CALL_YIELD, 0, 0, 0);
    lock();
    return next_thread();
}

static struct thread *next_of_all(void) {
    lock();
    return next_thread();
}

/* A new processor's first thread. */
struct thread *first_thread(void) {
    return next_of_all();
}

/* Giving up the processor. */

static struct thread *release_processor(void) {
    lock();
    if (!ready.first) {
        unlock();
        processor_trap(EXO_CALL_YIELD, 0, 0, 0);
        lock();
        return stay(0);
    }
    make_ready(leaving());
    unlock();
    return yield_first();
}

/* The processor is wanted, and this was a critical section or a function of the library until now. */
void honour(void) {
    thread_call(release_processor, 0, 0, 0);
}

/* The slice is over, or the thread must wait for a page that is on its way already.  Comes back if it is to go on. */
int64_t handle_please_release_cpu(struct everything *at) {
    struct thread *thread = here()->thread;
    uint64_t key = thread->key;
    thread->key = 0;
    if (at->rsp - state()->stack <= here()->stack_top - state()->stack) {
        processor_trap(EXO_CALL_YIELD, 0, 0, 0);
        return 0;
    }
    lock();
    int page_comes = key && is_busy(*(volatile uint8_t *)key), yield = !page_comes;
    if (key && !page_comes && !own_word(OWN_CPU_WANTED)) {
        unlock();
        return 0;
    }
    if (yield && !ready.first) {
        unlock();
        processor_trap(EXO_CALL_YIELD, 0, 0, 0);
        lock();
        if (!ready.first) {
            unlock();
            return 0;
        }
        yield = 0;
    }
    void *to = &thread->everything;
    uint64_t words = EVERYTHING_SIZE / 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(at), "+c"(words) : : "memory");
    thread->preempted = 1;
    leaving();
    if (page_comes)
        park_thread(thread, key);
    else
        make_ready(thread);
    unlock();
    __asm__ volatile("andq %0, %%gs:(%1)" : : "i"(~(1 << EXO_UPCALL_PLEASE_RELEASE_CPU)), "r"(OWN_ACTIVE) : "memory");
    start_over(yield ? yield_first : next_of_all);
}

void wake_page(const uint8_t *state) {
    lock();
    unpark_threads((uint64_t)state, UINT64_MAX);
    unlock();
}

static struct thread *after_suspending(void) {
    struct thread *thread = here()->thread;
    take_stack(state()->left);
    append(&waiting, thread);
    return next_thread();
}

/* Waits for an event, for a disk request say, in a critical section with the pager's lock, which is open meanwhile. */
int64_t wait_in_library(uint64_t event, uint64_t value) {
    uint32_t could = may_suspend(0);
    lock();
    struct thread *thread = here()->thread;
    uint32_t pages = PAGES_OF_ONE * (suspended + 1 + processor_count);
    if (!could || CRITICAL != 1 || !spare_count || resident < pages ||
        (!ready.first && !waiting.first && processor_count == 1)) {
        unlock();
        int64_t status = block_unlocked(event, value, EXO_FOREVER);
        may_suspend(could);
        return status;
    }
    thread->event = event;
    thread->value = value;
    if (has_ended(thread)) {
        unlock();
        may_suspend(could);
        return thread->result;
    }
    suspended++;
    unlock_pager();
    thread->critical = CRITICAL;
    thread->library_stack = state()->stack;
    state()->left = spare_stacks[--spare_count];
    suspend(thread, state()->left + LIBRARY_STACK_SIZE, after_suspending);
    lock();
    suspended--;
    spare_stacks[spare_count++] = state()->left;
    int64_t status = thread->result;
    unlock();
    lock_pager();
    may_suspend(1);
    return status;
}

static struct thread *wait_for_event(uint64_t event, uint64_t value) {
    lock();
    struct thread *thread = leaving();
    thread->event = event;
    thread->value = value;
    if (has_ended(thread))
        return stay(thread->result);
    append(&waiting, thread);
    return next_thread();
}

/* The same for a function of the interface, on the thread's own stack. */
int64_t wait_in_program(uint64_t event, uint64_t value) {
    return threading ? thread_call(wait_for_event, event, value, 0) : exo_block(event, value, EXO_FOREVER);
}

/* Waiting for words of memory: what thread_sync.c is built on. */

static struct thread *park_if(const volatile uint64_t *word, uint64_t expected) {
    uint64_t value;
    lock();
    if (load_word(word, &value) < 0)
        return stay(-1);
    if (value != expected)
        return stay(0);
    struct thread *thread = leaving();
    thread->result = 0;
    park_thread(thread, (uint64_t)word);
    return next_thread();
}

static struct thread *unpark_some(uint64_t key, uint64_t most) {
    lock();
    return stay(unpark_threads(key, most));
}

/* Waits until somebody calls unpark for this word, unless it is no longer `expected`; may come back for no reason. */
int64_t park(const volatile uint64_t *word, uint64_t expected) {
    begin_threading();
    return thread_call(park_if, (uint64_t)word, expected, 0);
}

/* Lets up to `most` threads go on that wait for the word; gives how many. */
int64_t unpark(const volatile uint64_t *word, uint64_t most) {
    return threading ? thread_call(unpark_some, (uint64_t)word, most, 0) : 0;
}

/* The interface. */

/* What is needed when threads begin, and not before. */
struct beginning {
    struct thread thread;
    struct processor_state states[EXO_MAXIMUM_CONTEXTS];
    struct queue parked[BUCKETS];
};

static struct beginning *memory_to_begin(void) {
    enter();
    struct beginning *memory = more_library_memory(sizeof *memory);
    leave();
    return memory;
}

/* Turns the program into one with a thread. */
void begin_threading(void) {
    if (threading)
        return;
    struct beginning *memory = (struct beginning *)on_library_stack((void *)memory_to_begin, 0, 0, 0);
    if (!memory) {
        say("The library OS may not reserve the frames that threads need; give the program a smaller heap.\n");
        end(END_LIBRARY);
    }
    states = memory->states;
    parked = memory->parked;
    threads = processors[0].thread = &memory->thread;
    states[0].stack = start->library_stack;
    exo_set_upcall(EXO_UPCALL_EVENT, (uint64_t)entry_event, EXO_SELF);
    exo_set_upcall(EXO_UPCALL_RESUME_CPU, (uint64_t)entry_resume_cpu, EXO_SELF);
    threading = 1;
    exo_set_upcall(EXO_UPCALL_PLEASE_RELEASE_CPU, (uint64_t)entry_please_release_cpu, EXO_SELF);
}

static int64_t make_processors(uint64_t count) {
    enter();
    while (processor_count < count) {
        uint64_t stack = library_stack_page();
        int64_t context = stack ? exo_create_context((uint64_t)processor_begin, stack + LIBRARY_STACK_SIZE, 0,
                                                     EXO_BEGIN_STOPPED, EXO_SELF)
                                : -1;
        if (context < 0)
            break;
        states[context].stack = stack;
        processors[context].stack_top = stack + LIBRARY_STACK_SIZE;
        EXO_OWN->contexts[context].critical = 1;
        exo_set_upcall_stack(stack, LIBRARY_STACK_SIZE, EXO_SELF, (uint64_t)context);
        exo_set_register((uint64_t)context, REGISTER_RDI, (uint64_t)context, EXO_SELF);
        exo_resume((uint64_t)context);
        processor_count++;
    }
    leave();
    return processor_count;
}

long os_processors(long count) {
    if (last_number > 0 || processor_count > 1 || count < 0)
        return processor_count;
    if (count == 0)
        count = (long)EXO_MACHINE->cpus;
    if (start->frames && (uint64_t)count > start->frames / PAGES_OF_ONE)
        count = (long)(start->frames / PAGES_OF_ONE);
    if (count > EXO_MAXIMUM_CONTEXTS - 1)
        count = EXO_MAXIMUM_CONTEXTS - 1;
    begin_threading();
    return (long)on_library_stack((void *)make_processors, (uint64_t)count, 0, 0);
}

/* A block for a thread, and a spare library stack if there are few; a null pointer if there is no room. */
static struct thread *thread_block(void) {
    enter();
    lock();
    struct thread *thread = unused_threads;
    if (thread)
        unused_threads = thread->next;
    unlock();
    if (!thread)
        thread = more_library_memory(sizeof *thread);
    if (thread && spare_total < SPARE_STACKS) {
        uint64_t stack = library_stack_page();
        lock();
        if (stack) {
            spare_total++;
            spare_stacks[spare_count++] = stack;
        }
        unlock();
    }
    leave();
    return thread;
}

static struct thread *give_back(struct thread *thread) {
    lock();
    thread->next = unused_threads;
    unused_threads = thread;
    return stay(0);
}

static struct thread *launch(struct thread *thread) {
    lock();
    thread->number = ++last_number;
    thread->sibling = threads;
    threads = thread;
    living++;
    make_ready(thread);
    return stay(thread->number);
}

long os_thread_create(os_thread_entry *entry, void *argument) {
    begin_threading();
    struct thread *thread = (struct thread *)on_library_stack((void *)thread_block, 0, 0, 0);
    if (!thread)
        return -1;
    if (!thread->stack && !(thread->stack = os_region(STACK_SIZE))) {
        thread_call(give_back, (uint64_t)thread, 0, 0);
        return -1;
    }
    uint64_t *top = (uint64_t *)(thread->stack + STACK_SIZE) - 1;
    *top = (uint64_t)thread_begin;
    thread->rsp = (uint64_t)top;
    thread->rbx = (uint64_t)entry;
    thread->r12 = (uint64_t)argument;
    thread->mxcsr = RESET_MXCSR;
    thread->fcw = RESET_FCW;
    thread->ended = thread->preempted = thread->critical = thread->fs = 0;
    return thread_call(launch, (uint64_t)thread, 0, 0);
}

static struct thread *finish_thread(long outcome) {
    struct thread *thread = here()->thread;
    lock();
    if (living == 1)
        end(0);
    living--;
    thread->outcome = outcome;
    thread->ended = 1;
    unpark_threads((uint64_t)&thread->ended, UINT64_MAX);
    return next_thread();
}

_Noreturn void os_thread_exit(long result) {
    begin_threading();
    for (;;)
        thread_call(finish_thread, (uint64_t)result, 0, 0);
}

static struct thread *join(uint64_t number) {
    lock();
    struct thread *self = here()->thread, *thread = threads, *before = NULL;
    for (; thread && (uint64_t)thread->number != number; before = thread, thread = thread->sibling)
        ;
    self->again = 0;
    if (!thread || thread == self)
        return stay(-1);
    if (thread->ended) {
        if (before)
            before->sibling = thread->sibling;
        else
            threads = thread->sibling;
        thread->next = unused_threads;
        unused_threads = thread;
        return stay(thread->outcome);
    }
    leaving()->again = 1;
    park_thread(self, (uint64_t)&thread->ended);
    return next_thread();
}

long os_thread_join(long number) {
    int64_t result;
    begin_threading();
    do
        result = thread_call(join, (uint64_t)number, 0, 0);
    while (this_thread()->again);
    return result;
}

long os_thread_self(void) {
    return threading ? this_thread()->number : 0;
}

static struct thread *yield_to_others(void) {
    lock();
    if (!ready.first)
        return stay(0);
    make_ready(leaving());
    return next_thread();
}

void os_thread_yield(void) {
    if (others_ready())
        thread_call(yield_to_others, 0, 0, 0);
}
