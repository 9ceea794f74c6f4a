// Memory, and pieces of it.

static void *memory(size_t bytes) {
    void *p = 0;
    if (posix_memalign(&p, 64, bytes ? bytes : 64)) abort();
    return p;
}

// Memory taken from one block, each piece on a cache line of its own.
typedef struct { float *next; } Arena;

static float *take(Arena *arena, int64_t floats) {
    float *p = arena->next;
    arena->next += (floats + 15) / 16 * 16;
    return p;
}
