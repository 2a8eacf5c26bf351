/* The x87, MXCSR and XMM registers of a context, between engine and context.
 *
 * A context that makes room for another one leaves the whole state of the processor in `kept`, and coming back to the
 * same engine costs one copy. Only who looks at `vector` makes us write it, in the layout of FXSAVE, register by
 * register; from then on it counts and `kept` does not, because the looker may change it.
 */
#ifndef EXOKERNEL_VECTOR_H
#define EXOKERNEL_VECTOR_H

#include "_state.h"

enum { VECTOR_REGISTERS = 28 };
typedef struct {
    uint64_t fp[8][2];
    uint64_t control, status, tag, mxcsr;
} Floating;
static int vector_ids[VECTOR_REGISTERS];

static void vector_places(Floating *f, uint8_t *vector, void **places) {
    for (int i = 0; i < 8; i++)
        places[i] = f->fp[i];
    places[8] = &f->control;
    places[9] = &f->status;
    places[10] = &f->tag;
    places[11] = &f->mxcsr;
    for (int i = 0; i < 16; i++)
        places[12 + i] = vector + 160 + 16 * i;
}

static void put16(uint8_t *to, uint64_t value) {
    uint16_t word = (uint16_t)value;
    memcpy(to, &word, 2);
}

static uint16_t get16(const uint8_t *from) {
    uint16_t word;
    memcpy(&word, from, 2);
    return word;
}

/* Writes `vector` from an engine or from a saved state, whichever `read_batch` reads. */
static void save_vector(int (*read_batch)(void *, int *, void **, int), void *source, uint8_t *vector) {
    Floating f;
    void *places[VECTOR_REGISTERS];
    unsigned tag = 0;
    uint32_t mxcsr;
    memset(&f, 0, sizeof f);
    vector_places(&f, vector, places);
    read_batch(source, vector_ids, places, VECTOR_REGISTERS);
    for (unsigned i = 0; i < 8; i++) {
        tag |= (unsigned)((f.tag >> 2 * i & 3) != 3) << i;
        memset(vector + 32 + 16 * i, 0, 16);
        memcpy(vector + 32 + 16 * i, f.fp[(i + (f.status >> 11)) & 7], 10);
    }
    memset(vector, 0, 32);
    put16(vector, f.control);
    put16(vector + 2, f.status);
    vector[4] = (uint8_t)tag;
    mxcsr = (uint32_t)f.mxcsr;
    memcpy(vector + 24, &mxcsr, 4);
}

static void load_vector(Engine *e, uint8_t *vector) {
    Floating f;
    void *places[VECTOR_REGISTERS];
    uint32_t mxcsr;
    memset(&f, 0, sizeof f);
    vector_places(&f, vector, places);
    f.control = get16(vector);
    f.status = get16(vector + 2);
    for (unsigned i = 0; i < 8; i++) {
        f.tag |= (uint64_t)(vector[4] >> i & 1 ? 0 : 3) << 2 * i;
        memcpy(f.fp[(i + (f.status >> 11)) & 7], vector + 32 + 16 * i, 10);
    }
    memcpy(&mxcsr, vector + 24, 4);
    f.mxcsr = mxcsr & 0xffff;
    e->uc.reg_write_batch(e->handle, vector_ids, places, VECTOR_REGISTERS);
}

static int has_kept(const Context *c) {
    return c->kept && c->kept->engine;
}

static void drop_kept(Context *c) {
    if (c->kept)
        c->kept->engine = 0;
}

static void detach(Context *c) {
    if (c->home)
        c->home->resident = NULL;
    c->home = NULL;
}

/* Makes `vector` what counts. */
static void settle_vector(Context *c) {
    if (c->home)
        save_vector(c->home->uc.reg_read_batch, c->home->handle, c->vector);
    else if (has_kept(c))
        save_vector(c->kept->read_batch, c->kept->state, c->vector);
    detach(c);
    drop_kept(c);
}

/* Makes the processor free for another context; where memory is short, by way of `vector`. */
static void leave_home(Context *c) {
    Engine *e = c->home;
    if (!c->kept && (c->kept = malloc(sizeof *c->kept + e->state_size)))
        memcpy(c->kept->state, e->home, e->header);
    if (!c->kept) {
        settle_vector(c);
        return;
    }
    e->uc.context_save(e->handle, c->kept->state);
    c->kept->engine = e->number;
    c->kept->read_batch = e->uc.context_read_batch;
    detach(c);
}

#endif
