// What a thread's next chunk will want, fetched into its second-level cache a few lines at a time between the tiles of this one's products:
// memory answers late, and a processor foresees by itself only what lies within a page.

#define RANGES 64
#define LINE 16  // floats
#define LINES 8  // at a time

typedef struct { const float *from; int64_t lines; } Range;
static _Thread_local struct { int64_t next, n; Range range[RANGES]; } ahead;

static inline void fetch_some(void) {
    if (ahead.next == ahead.n) return;
    Range *r = ahead.range + ahead.next;
    for (int i = 0; i < LINES; i++) __builtin_prefetch(r->from + i * LINE, 0, 2);
    r->from += LINES * LINE;
    r->lines -= LINES;
    if (r->lines <= 0) ahead.next++;
}

static void forget_ahead(void) { ahead.next = ahead.n = 0; }

// Row `first` and those that follow it of an array by rows of D, or nothing if it is null
static void fetch_rows(const float *x, int64_t first, int64_t rows, int64_t D) {
    if (x && rows && ahead.n < RANGES) ahead.range[ahead.n++] = (Range){x + first * D, (rows * D + LINE - 1) / LINE};
}
