/* The run loop: one CPU over Unicorn, entered from Python once per trap.
 *
 * `Engine.run(context, root, budget)` loads the registers of a `Context`, lets guest code run in ring 3 until it traps,
 * stores the registers back and fills the engine's one `Trap`. Rules:
 *
 *  - The clock is exact. A hook before each translated block takes the block's instruction count off the budget. A
 *    block that faults gives back what it did not execute. Where a whole block does not fit the rest of the budget, or
 *    holds an instruction that must be seen before it is executed, the guest is single-stepped with the trap flag
 *    (`stepping`), which the guest neither sees nor loses.
 *  - `space` names the root and the generation of the mappings; counts are never used in another space.
 *  - A context's vector registers stay in the engine while the context is `resident`, and in the state `kept` for it
 *    after that; whoever wants to read them calls `settle_vector` first. Context and engine point at each other without
 *    owning each other.
 *  - Before another context or another root, the whole processor state is replaced, by what this context itself left in
 *    this engine or else by `home`, the state just after ring 3 was entered; so nothing of the one before remains.
 *  - The words go in and out with the first few hundred bytes of the saved state, `front`, which hold all of them;
 *    RFLAGS, which the processor keeps in pieces, by its register number, and RIP as the argument of `emu_start`.
 *  - With `split`, an unlocked read-modify-write instruction at the end of a budget is half done; see `_split.h`.
 *  - Unicorn never resets `old_exception` after an exception; `acknowledge` does, or the next would be a double fault.
 *
 * Unicorn is used through addresses of functions in the library that the `unicorn` package has loaded.
 */
#include "_clock.h"
#include "_context.h"
#include "_record.h"
#include "_split.h"
#include "_vector.h"

static PyObject *MachineError;
static PyTypeObject TrapType;

static void on_block(void *uc, uint64_t pc, uint32_t size, void *data) {
    Engine *e = data;
    Block *b = &e->blocks[slot(e, pc)];
    (void)uc;
    if (b->pc == pc && b->space == e->expected_space && b->match == size && e->remaining >= b->count) {
        e->remaining -= b->count;
        e->current = b;
    } else {
        block_slowly(e, pc, size);
    }
}

static void on_interrupt(void *uc, uint32_t vector, void *data) {
    Engine *e = data;
    (void)uc;
    if (e->halt)
        return;
    if (vector == 1 && e->stepping && e->stepped && e->instruction.kind != SOFTWARE_INTERRUPT) {
        after_step(e);
        return;
    }
    e->vector = vector;
    halt(e, VECTOR, 0);
}

static void on_syscall(void *uc, void *data) {
    Engine *e = data;
    (void)uc;
    if (!e->halt)
        halt(e, SYSCALL, 0);
}

/* These instructions are stopped before they are executed; arriving here means that `decode` missed one. */
static void on_sysenter(void *uc, void *data) {
    (void)uc;
    halt(data, BREACH, 0);
}

static int on_cpuid(void *uc, void *data) {
    (void)uc;
    halt(data, BREACH, 0);
    return 1;
}

static uint32_t on_in(void *uc, uint32_t port, int size, void *data) {
    (void)uc, (void)port, (void)size;
    halt(data, BREACH, 0);
    return 0;
}

static void on_out(void *uc, uint32_t port, int size, uint32_t value, void *data) {
    (void)uc, (void)port, (void)size, (void)value;
    halt(data, BREACH, 0);
}

static void new_space(Engine *e) {
    e->space = e->generation << 20 | e->root >> 12;
    e->salt = (unsigned)(e->space * 0x9e3779b97f4a7c15u >> 32);
}

static void apply_flushes(Engine *e) {
    if (e->flush_code)
        e->uc.ctl(e->handle, CTL_FLUSH_BLOCKS);
    if (e->flush_tlb)
        e->uc.ctl(e->handle, CTL_FLUSH_TLB);
    e->flush_code = e->flush_tlb = 0;
}

static void forget_exception(Engine *e, uint8_t *state) {
    int32_t none = -1;
    memcpy(state + e->old_exception, &none, sizeof none);
}

/* Replaces the whole processor state by that of `c` under `root`, but for the words. */
static void enter(Engine *e, Context *c, uint64_t root) {
    uint8_t *state = e->home;
    if (c->home != e && (c->home || (has_kept(c) && c->kept->engine != e->number)))
        settle_vector(c);
    if (e->resident)
        leave_home(e->resident);
    if (has_kept(c))
        state = c->kept->state;
    forget_exception(e, state);
    memcpy(state + e->cr3, &root, sizeof root);
    e->uc.context_restore(e->handle, state);
    if (state == e->home)
        load_vector(e, c->vector);
    e->uc.context_save(e->handle, e->front);
    if (e->root != root)
        e->flush_tlb = 1;
    e->root = root;
    e->resident = c;
    c->home = e;
}

static void load_words(Engine *e, const uint64_t *words, uint64_t flags) {
    for (unsigned i = 0; i < PLACED; i++)
        memcpy((uint8_t *)e->front + e->word_at[i], &words[placed(i)], sizeof *words);
    e->uc.context_restore(e->handle, e->front);
    e->uc.reg_write(e->handle, X86_EFLAGS, &flags);
}

/* Makes the processor hold the registers of `c` and nothing else. */
static void load(Engine *e, Context *c, uint64_t root) {
    uint64_t flags = (c->words[RFLAGS] & FLAGS_KEPT) | FLAGS_ALWAYS;
    if (e->resident != c || e->root != root)
        enter(e, c, root);
    apply_flushes(e);
    new_space(e);
    load_words(e, c->words, flags);
    e->guest_tf = !!(flags & FLAG_TF);
    e->stepping = e->guest_tf;
    e->low = 0;
    e->high = UINT64_MAX;
    e->stepped = e->watching = 0;
    e->current = NULL;
}

static void store(Engine *e, Context *c, uint64_t rip) {
    uint64_t flags = read_flags(e);
    e->uc.context_save(e->handle, e->front);
    for (unsigned i = 0; i < PLACED; i++)
        memcpy(&c->words[placed(i)], (uint8_t *)e->front + e->word_at[i], sizeof *c->words);
    if (e->stepping)
        flags = (flags & ~(uint64_t)FLAG_TF) | (e->guest_tf ? FLAG_TF : 0);
    c->words[RFLAGS] = (flags & FLAGS_KEPT) | FLAGS_ALWAYS;
    c->words[RIP] = rip;
}

static void set_trap(Engine *e, int kind, long long code, uint64_t address) {
    PyObject *old = e->trap->kind;
    Py_INCREF(e->kinds[kind]);
    e->trap->kind = e->kinds[kind];
    Py_XDECREF(old);
    e->trap->code = code;
    e->trap->address = address;
}

static void begin_stepping(Engine *e) {
    e->guest_tf = !!(read_flags(e) & FLAG_TF);
    if (!e->guest_tf)
        set_trap_flag(e, 1);
    e->stepping = 1;
    e->stepped = 0;
    e->current = NULL;
}

static void end_stepping(Engine *e) {
    set_trap_flag(e, e->guest_tf);
    if (!e->guest_tf)
        e->stepping = 0;
    e->low = 0;
    e->high = UINT64_MAX;
}

/* Makes the processor forget the exception it delivered; returns the error code of that exception. */
static uint32_t acknowledge(Engine *e) {
    uint32_t code;
    e->uc.context_save(e->handle, e->scratch);
    memcpy(&code, (uint8_t *)e->scratch + e->error_code, sizeof code);
    forget_exception(e, e->scratch);
    e->uc.context_restore(e->handle, e->scratch);
    return code;
}

/* Gives back the budget of what the current block did not execute because of a fault at `rip`. */
static void give_back(Engine *e, uint64_t rip) {
    if (e->stepping)
        e->remaining += (uint64_t)e->stepped;
    else if (e->current && rip - e->current->pc < e->current->size)
        e->remaining += e->current->count - count_before(e, e->current, rip);
}

/* Whether a vector that arrived with the processor at `rip` is the `int n` just executed, which leaves rip after it. */
static int was_interrupt(const Engine *e, uint64_t rip) {
    if (e->stepping)
        return e->stepped && e->instruction.kind == SOFTWARE_INTERRUPT && rip == e->step_pc + e->instruction.length;
    return e->current && e->current->kind == BLOCK_INTERRUPTS && rip == e->current->pc + e->current->size;
}

static int in_current(const Engine *e, uint64_t rip) {
    if (e->stepping)
        return e->stepped && rip == e->step_pc;
    return e->current && rip - e->current->pc < e->current->size;
}

/* A vector arrived. Returns 1 if it is the trap, 0 if the guest has to go on to find out. */
static int on_vector(Engine *e, uint64_t *rip) {
    uint64_t address = 0;
    uint32_t code;
    *rip = read_register(e, X86_RIP);
    code = acknowledge(e);
    if (was_interrupt(e, *rip)) {
        set_trap(e, TRAP_INTERRUPT, e->vector, 0);
        return 1;
    }
    if (e->vector == 14)
        address = read_register(e, X86_CR2);
    if (e->vector == 14 ? !!(code & FETCH) : e->vector == 13 && !in_current(e, *rip)) {
        int elsewhere = e->vector == 14 ? address >> 12 != *rip >> 12 : *rip >> 12 == LAST_USER_PAGE;
        if (elsewhere && !e->stepping) {
            /* Translation met the fault ahead of execution: the instructions before it still have to run. */
            begin_stepping(e);
            e->low = *rip;
            e->high = (*rip | (PAGE - 1)) + 1;
            return 0;
        }
        if (!e->remaining) {
            set_trap(e, TRAP_BUDGET, 0, 0);
            return 1;
        }
    } else {
        give_back(e, *rip);
    }
    if (e->vector == 14)
        set_trap(e, TRAP_PAGE_FAULT, code | FAULT_USER, address); /* iretq reads its frame as the supervisor */
    else
        set_trap(e, TRAP_EXCEPTION, e->vector, code);
    return 1;
}

/* The processor refused an instruction: invalid, or `int 6`, which Unicorn does not tell apart. */
static void on_invalid(Engine *e, uint64_t *rip) {
    Instruction found;
    *rip = read_register(e, X86_RIP);
    found = decode(e->bytes, fetch(e, *rip, e->bytes, 15, 0));
    acknowledge(e);
    if (found.kind == SOFTWARE_INTERRUPT) {
        *rip += found.length;
        set_trap(e, TRAP_INTERRUPT, 6, 0);
    } else {
        give_back(e, *rip);
        set_trap(e, TRAP_EXCEPTION, 6, 0);
    }
}

static void before_instruction(Engine *e, uint64_t *rip) {
    *rip = e->halt_pc;
    if (e->instruction.kind == PRIVILEGED) {
        set_trap(e, TRAP_PRIVILEGED, 0, 0);
    } else if (e->instruction.kind == REFUSED) {
        set_trap(e, TRAP_EXCEPTION, 13, 0);
    } else if (e->instruction.kind == INVALID) {
        set_trap(e, TRAP_EXCEPTION, 6, 0);
    } else {
        *rip += e->instruction.length;
        e->remaining--;
        set_trap(e, TRAP_INTERRUPT, 1, 0);
    }
}

/* Answers one stop of the emulation: 1 the trap is set, 0 go on at `rip`, -1 the machine failed. */
static int answer(Engine *e, int error, uint64_t *rip) {
    if (e->halt == NOT && error == ERR_INSN_INVALID) {
        on_invalid(e, rip);
        return 1;
    }
    switch (e->halt) {
    case SPENT:
        *rip = e->halt_pc;
        set_trap(e, TRAP_BUDGET, 0, 0);
        return 1;
    case STEP:
        *rip = e->halt_pc;
        begin_stepping(e);
        return 0;
    case STEPPED:
        *rip = e->halt_pc;
        end_stepping(e);
        return 0;
    case REWIND:
        *rip = e->halt_pc;
        return 0;
    case TRACED:
        *rip = e->halt_pc;
        set_trap(e, TRAP_EXCEPTION, 1, 0);
        return 1;
    case SYSCALL:
        *rip = read_register(e, X86_RIP);
        set_trap(e, TRAP_DOWNCALL, 0, 0);
        return 1;
    case BEFORE:
        before_instruction(e, rip);
        return 1;
    case VECTOR:
        return on_vector(e, rip);
    default:
        *rip = read_register(e, X86_RIP);
        if (e->halt == BREACH)
            PyErr_Format(MachineError, "the guest executed a privileged instruction near %llx that should have "
                         "trapped; this is a bug of the machine", (unsigned long long)*rip);
        else
            PyErr_Format(MachineError, "Unicorn stopped at %llx with error %d; the page tables may lead beyond "
                         "physical memory", (unsigned long long)*rip, error);
        return -1;
    }
}

/* After a failure nothing in the engine is trusted: the next context starts from the state after ring 3 was entered. */
static void forget_resident(Engine *e) {
    if (e->resident)
        detach(e->resident);
    e->root = UINT64_MAX;
    e->flush_tlb = 1;
}

static int execute(Engine *e, uint64_t rip, uint64_t *end) {
    int result, error;
    if (e->stepping)
        begin_stepping(e);
    do {
        e->halt = NOT;
        e->expected_space = e->stepping ? 0 : e->space;
        error = e->uc.emu_start(e->handle, rip, 0, 0, 0);
        result = answer(e, error, &rip);
    } while (!result);
    *end = rip;
    return result;
}

static int arguments(Engine *e, PyObject *const *args, Py_ssize_t count, uint64_t *root, uint64_t *budget) {
    if (count != 3 || !PyObject_TypeCheck(args[0], &ContextType)) {
        PyErr_SetString(PyExc_TypeError, "run takes a MachineContext, a root and a budget");
        return -1;
    }
    *root = PyLong_AsUnsignedLongLong(args[1]);
    if (*root == UINT64_MAX && PyErr_Occurred())
        return -1;
    *budget = PyLong_AsUnsignedLongLong(args[2]);
    if (*budget == UINT64_MAX && PyErr_Occurred())
        return -1;
    if (!e->handle || !e->home || e->running) {
        PyErr_SetString(MachineError, e->running ? "the CPU is already running" : "the CPU is closed");
        return -1;
    }
    if (!*budget || *root % PAGE || *root > e->size - PAGE) {
        PyErr_SetString(PyExc_ValueError, "the budget must be positive and the root the address of a frame");
        return -1;
    }
    return 0;
}

static PyObject *engine_run(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Engine *e = (Engine *)self;
    Context *c;
    uint64_t root, budget, rip, selector;
    int result;
    if (arguments(e, args, count, &root, &budget))
        return NULL;
    c = (Context *)args[0];
    e->running = 1;
    e->runs++;
    load(e, c, root);
    if (e->split)
        store_late(e, c);
    e->remaining = budget;
    result = execute(e, c->words[RIP], &rip);
    e->running = 0;
    selector = read_register(e, X86_CS);
    if (result < 0) {
        forget_resident(e);
        return NULL;
    }
    store(e, c, rip);
    if ((selector & 0xffff) != USER_CODE) {
        forget_resident(e);
        set_trap(e, TRAP_EXCEPTION, 13, 0);
    }
    if (e->split && e->trap->kind == e->kinds[TRAP_BUDGET])
        load_early(e, c);
    if (e->record_failed) {
        e->record_failed = 0;
        return PyErr_NoMemory();
    }
    e->trap->cycles = budget - e->remaining;
    Py_INCREF(e->trap);
    return (PyObject *)e->trap;
}

static int add_hook(Engine *e, int type, void *function, int instruction) {
    size_t id;
    int error = e->uc.hook_add(e->handle, &id, type, function, e, (uint64_t)1, (uint64_t)0, instruction);
    if (error)
        PyErr_Format(MachineError, "Unicorn refused hook %d with error %d; unicorn 2.1.4 is needed", type, error);
    return error ? -1 : 0;
}

static int add_hooks(Engine *e) {
    if (add_hook(e, HOOK_BLOCK, on_block, 0) || add_hook(e, HOOK_INTR, on_interrupt, 0)
        || add_hook(e, HOOK_INSN, on_syscall, INSN_SYSCALL) || add_hook(e, HOOK_INSN, on_sysenter, INSN_SYSENTER)
        || add_hook(e, HOOK_INSN, on_cpuid, INSN_CPUID) || add_hook(e, HOOK_INSN, on_in, INSN_IN)
        || add_hook(e, HOOK_INSN, on_out, INSN_OUT))
        return -1;
    return e->recording ? add_hook(e, HOOK_MEM_READ | HOOK_MEM_WRITE, on_memory, 0) : 0;
}

static int take_functions(Engine *e, PyObject *functions) {
    if (PyTuple_GET_SIZE(functions) != FUNCTIONS) {
        PyErr_Format(PyExc_ValueError, "%d functions are needed", FUNCTIONS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < FUNCTIONS; i++) {
        void *function = PyLong_AsVoidPtr(PyTuple_GET_ITEM(functions, i));
        if (!function)
            return -1;
        memcpy((char *)&e->uc + (size_t)i * sizeof function, &function, sizeof function);
    }
    return 0;
}

static int take_kinds(Engine *e, PyObject *kinds) {
    if (PyTuple_GET_SIZE(kinds) != TRAP_KINDS) {
        PyErr_Format(PyExc_ValueError, "%d kinds are needed", TRAP_KINDS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < TRAP_KINDS; i++)
        e->kinds[i] = Py_NewRef(PyTuple_GET_ITEM(kinds, i));
    e->trap = (Trap *)PyObject_CallObject((PyObject *)&TrapType, NULL);
    if (!e->trap)
        return -1;
    set_trap(e, TRAP_BUDGET, 0, 0);
    return 0;
}

static int take_layout(Engine *e, PyObject *layout) {
    PyObject *places;
    if (!PyArg_ParseTuple(layout, "IIIIO!", &e->old_exception, &e->error_code, &e->cr3, &e->header, &PyTuple_Type,
                          &places))
        return -1;
    if (PyTuple_GET_SIZE(places) != PLACED) {
        PyErr_Format(PyExc_ValueError, "%d places of words are needed", PLACED);
        return -1;
    }
    for (Py_ssize_t i = 0; i < PLACED; i++) {
        unsigned long place = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(places, i));
        if (place == (unsigned long)-1 && PyErr_Occurred())
            return -1;
        e->word_at[i] = (unsigned)place;
    }
    return 0;
}

static int engine_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    Engine *e = (Engine *)self;
    static uint64_t engines;
    PyObject *functions, *kinds, *executed, *layout;
    unsigned long long handle, memory, size, low, high;
    int split;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Engine takes no keyword arguments");
        return -1;
    }
    if (e->handle) {
        PyErr_SetString(PyExc_RuntimeError, "an Engine is initialised once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "KO!KKOO!O!(KK)p", &handle, &PyTuple_Type, &functions, &memory, &size, &executed,
                          &PyTuple_Type, &layout, &PyTuple_Type, &kinds, &low, &high, &split))
        return -1;
    if (take_functions(e, functions) || take_layout(e, layout) || take_kinds(e, kinds)
        || PyObject_GetBuffer(executed, &e->executed, PyBUF_WRITABLE))
        return -1;
    if ((uint64_t)e->executed.len < size / PAGE) {
        PyErr_SetString(PyExc_ValueError, "one byte for each frame is needed");
        return -1;
    }
    e->handle = (void *)(uintptr_t)handle;
    e->memory = (uint8_t *)(uintptr_t)memory;
    e->size = size;
    e->generation = 1;
    e->number = ++engines;
    e->root = UINT64_MAX;
    e->split = split;
    e->record_low = low;
    e->record_high = high;
    e->recording = low < high;
    e->last_reference = UINT64_MAX;
    e->blocks = calloc(BLOCKS, sizeof *e->blocks);
    if (e->recording)
        e->pages = calloc(size / PAGE, sizeof *e->pages);
    if (!e->blocks || (e->recording && !e->pages)) {
        PyErr_NoMemory();
        return -1;
    }
    return add_hooks(e);
}

/* Shortens a saved state, so that saving and restoring stop behind the last of the words. */
static void shorten(Engine *e, void *state) {
    uint64_t size = 0;
    for (unsigned i = 0; i < PLACED; i++)
        if (size < e->word_at[i] + sizeof(uint64_t) - e->header)
            size = e->word_at[i] + sizeof(uint64_t) - e->header;
    memcpy(state, &size, sizeof size);
}

/* Takes the processor's present state, ring 3 just entered, as the one every context starts from. */
static PyObject *engine_adopt(PyObject *self, PyObject *none) {
    Engine *e = (Engine *)self;
    (void)none;
    if (!e->handle || e->home || e->uc.context_alloc(e->handle, &e->home)
        || e->uc.context_alloc(e->handle, &e->scratch) || e->uc.context_alloc(e->handle, &e->front)) {
        PyErr_SetString(MachineError, "the CPU could not save its state");
        return NULL;
    }
    acknowledge(e);
    e->uc.context_save(e->handle, e->home);
    e->state_size = *(uint64_t *)e->home + e->header;
    shorten(e, e->front);
    Py_RETURN_NONE;
}

static PyObject *engine_flush_tlb(PyObject *self, PyObject *none) {
    (void)none;
    ((Engine *)self)->flush_tlb = 1;
    Py_RETURN_NONE;
}

static PyObject *engine_code_changed(PyObject *self, PyObject *none) {
    (void)none;
    ((Engine *)self)->generation++;
    Py_RETURN_NONE;
}

static PyObject *engine_flush_code(PyObject *self, PyObject *none) {
    ((Engine *)self)->flush_code = 1;
    return engine_code_changed(self, none);
}

static PyObject *engine_drain_references(PyObject *self, PyObject *none) {
    Engine *e = (Engine *)self;
    PyObject *taken = PyBytes_FromStringAndSize((char *)e->references, (Py_ssize_t)(e->reference_count * 8));
    (void)none;
    if (taken)
        e->reference_count = 0;
    return taken;
}

/* Gives up everything but the memory of the object itself; may be called again. */
static void shut(Engine *e) {
    void *states[] = {e->home, e->scratch, e->front};
    if (e->resident)
        settle_vector(e->resident);
    for (unsigned i = 0; i < 3; i++)
        if (states[i])
            e->uc.context_free(states[i]);
    if (e->handle)
        e->uc.close(e->handle);
    e->home = e->scratch = e->front = NULL;
    e->handle = NULL;
    free(e->blocks);
    free(e->references);
    free(e->pages);
    e->blocks = NULL;
    e->references = e->pages = NULL;
    e->reference_count = e->reference_room = 0;
    if (e->executed.obj)
        PyBuffer_Release(&e->executed);
}

static PyObject *engine_close(PyObject *self, PyObject *none) {
    Engine *e = (Engine *)self;
    (void)none;
    if (e->running) {
        PyErr_SetString(MachineError, "the CPU is running");
        return NULL;
    }
    shut(e);
    Py_RETURN_NONE;
}

static void engine_dealloc(PyObject *self) {
    Engine *e = (Engine *)self;
    shut(e);
    for (int i = 0; i < TRAP_KINDS; i++)
        Py_XDECREF(e->kinds[i]);
    Py_XDECREF(e->trap);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef engine_methods[] = {
    {"adopt", engine_adopt, METH_NOARGS, NULL},
    {"run", (PyCFunction)(void (*)(void))engine_run, METH_FASTCALL, NULL},
    {"flush_tlb", engine_flush_tlb, METH_NOARGS, NULL},
    {"flush_code", engine_flush_code, METH_NOARGS, NULL},
    {"code_changed", engine_code_changed, METH_NOARGS, NULL},
    {"drain_references", engine_drain_references, METH_NOARGS, NULL},
    {"close", engine_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject EngineType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "exokernel.machine._engine.Engine",
    .tp_basicsize = sizeof(Engine),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_init = engine_init,
    .tp_dealloc = engine_dealloc,
    .tp_methods = engine_methods,
};

static void trap_dealloc(PyObject *self) {
    Py_XDECREF(((Trap *)self)->kind);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef trap_members[] = {
    {"kind", T_OBJECT, offsetof(Trap, kind), 0, NULL},
    {"cycles", T_ULONGLONG, offsetof(Trap, cycles), 0, NULL},
    {"code", T_LONGLONG, offsetof(Trap, code), 0, NULL},
    {"address", T_ULONGLONG, offsetof(Trap, address), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyTypeObject TrapType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "exokernel.machine._engine.Trap",
    .tp_basicsize = sizeof(Trap),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = trap_dealloc,
    .tp_members = trap_members,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_engine", .m_size = -1};

PyMODINIT_FUNC PyInit__engine(void) {
    PyObject *m = PyModule_Create(&module);
    if (!m)
        return NULL;
    for (int i = 0; i < 8; i++)
        vector_ids[i] = X86_FP0 + i;
    vector_ids[8] = X86_FPCW;
    vector_ids[9] = X86_FPSW;
    vector_ids[10] = X86_FPTAG;
    vector_ids[11] = X86_MXCSR;
    for (int i = 0; i < 16; i++)
        vector_ids[12 + i] = X86_XMM0 + i;
    MachineError = PyErr_NewException("exokernel.machine._engine.MachineError", NULL, NULL);
    if (!MachineError || PyModule_AddObjectRef(m, "MachineError", MachineError) || PyModule_AddType(m, &ContextType)
        || PyModule_AddType(m, &TrapType) || PyModule_AddType(m, &EngineType))
        return NULL;
    return m;
}
