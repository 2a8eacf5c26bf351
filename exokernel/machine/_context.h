/* The Python type of a context: 20 words, and 512 bytes of vector state that are fetched when somebody asks for them. */
#ifndef EXOKERNEL_CONTEXT_H
#define EXOKERNEL_CONTEXT_H

#include "_vector.h"

static void fresh(Context *c) {
    static const uint8_t start[4] = {0x80, 0x1f, 0, 0};
    detach(c);
    drop_kept(c);
    c->half.engine = 0;
    memset(c->words, 0, 8 * WORDS);
    memset(c->vector, 0, 512);
    c->words[RFLAGS] = FLAGS_ALWAYS;
    put16(c->vector, 0x37f);
    memcpy(c->vector + 24, start, 4);
}

/* A memoryview of `size` new bytes, with the address of the bytes. */
static PyObject *storage(Py_ssize_t size, const char *format, void *address) {
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, size), *view, *cast;
    if (!bytes)
        return NULL;
    *(char **)address = PyByteArray_AS_STRING(bytes);
    view = PyMemoryView_FromObject(bytes);
    Py_DECREF(bytes);
    if (!view)
        return NULL;
    cast = PyObject_CallMethod(view, "cast", "s", format);
    Py_DECREF(view);
    return cast;
}

static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    Context *c = (Context *)type->tp_alloc(type, 0);
    (void)args, (void)kwargs;
    if (!c)
        return NULL;
    c->words_view = storage(8 * WORDS, "Q", &c->words);
    c->vector_view = c->words_view ? storage(512, "B", &c->vector) : NULL;
    if (!c->vector_view) {
        Py_DECREF(c);
        return NULL;
    }
    fresh(c);
    return (PyObject *)c;
}

static void context_dealloc(PyObject *self) {
    Context *c = (Context *)self;
    detach(c);
    free(c->kept);
    Py_XDECREF(c->words_view);
    Py_XDECREF(c->vector_view);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *context_vector(PyObject *self, void *closure) {
    Context *c = (Context *)self;
    (void)closure;
    settle_vector(c);
    return Py_NewRef(c->vector_view);
}

static PyObject *context_clear(PyObject *self, PyObject *none) {
    (void)none;
    fresh((Context *)self);
    Py_RETURN_NONE;
}

/* take(source, pairs): copies words of another context, each pair of bytes being the word here and the word there. */
static PyObject *context_take(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Context *c = (Context *)self;
    const uint8_t *pairs;
    if (count != 2 || !PyObject_TypeCheck(args[0], Py_TYPE(self)) || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take needs a context and pairs of bytes");
        return NULL;
    }
    pairs = (const uint8_t *)PyBytes_AS_STRING(args[1]);
    for (Py_ssize_t i = 0; i + 1 < PyBytes_GET_SIZE(args[1]); i += 2)
        if (pairs[i] < WORDS && pairs[i + 1] < WORDS)
            c->words[pairs[i]] = ((Context *)args[0])->words[pairs[i + 1]];
    Py_RETURN_NONE;
}

static PyMethodDef context_methods[] = {
    {"take", (PyCFunction)(void (*)(void))context_take, METH_FASTCALL, NULL},
    {"clear", context_clear, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef context_members[] = {
    {"words", T_OBJECT_EX, offsetof(Context, words_view), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef context_getset[] = {
    {"vector", context_vector, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyTypeObject ContextType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "exokernel.machine._engine.Context",
    .tp_basicsize = sizeof(Context),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = context_new,
    .tp_dealloc = context_dealloc,
    .tp_methods = context_methods,
    .tp_members = context_members,
    .tp_getset = context_getset,
};

#endif
