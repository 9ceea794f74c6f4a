// The distinct rows that a batch's tokens name, rising, and each token's place among them: sorted by eleven bits at a time, from the lowest.
// nn/distinct.py calls it and holds the PyTorch form that it must equal.

#include "vector.h"
#include "arena.h"

#define BITS 11
#define PLACES (1 << BITS)

// rows [N] in 0..V-1; N and V below 2^31. met [N], of which the first *count are filled; places [N]
void userclue_distinct(const int64_t *rows, int64_t N, int64_t V, int64_t *met, int64_t *places, int64_t *count) {
    uint64_t *both = memory((size_t)(2 * N) * sizeof(uint64_t)), *from = both, *to = both + N;
    for (int64_t n = 0; n < N; n++) from[n] = (uint64_t)rows[n] << 32 | (uint64_t)n;
    for (int bit = 0; (V - 1) >> bit; bit += BITS) {
        int64_t starts[PLACES] = {0}, before = 0;
        for (int64_t n = 0; n < N; n++) starts[from[n] >> (32 + bit) & (PLACES - 1)]++;
        for (int i = 0; i < PLACES; i++) {
            const int64_t own = starts[i];
            starts[i] = before;
            before += own;
        }
        for (int64_t n = 0; n < N; n++) to[starts[from[n] >> (32 + bit) & (PLACES - 1)]++] = from[n];
        uint64_t *sorted = to;
        to = from;
        from = sorted;
    }
    int64_t found = 0;
    for (int64_t n = 0; n < N; n++) {
        const int64_t row = (int64_t)(from[n] >> 32);
        if (!found || met[found - 1] != row) met[found++] = row;
        places[from[n] & 0xFFFFFFFFu] = found - 1;
    }
    *count = found;
    free(both);
}
