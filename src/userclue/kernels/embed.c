// Item embedding plus position, dropped: one pass instead of two look-ups, a sum and a dropout; and backward, one instead of three.

#include "vector.h"

#define AHEAD 8 // rows of a table too large for any cache, fetched before they are needed

typedef struct {
    int64_t B, D;
    uint32_t dropped; // of 2^16
    float keep_scale;
    int32_t threads;
    uint64_t seed;
    const int64_t *rows;    // [N], where each token's item stands in its table
    const int64_t *offsets; // [B + 1], of the sequences; a token's position is counted from the end of its own
    float *items, *places;  // the tables, or their gradients
    float *x;               // [N, D], the result, or its gradient
} Embedding;

// x = mask * (items[rows] + places[position])
void userclue_embed_forward(const Embedding *g) {
    const int64_t D = g->D, N = g->offsets[g->B];
#pragma omp parallel for schedule(static) num_threads(g->threads) if (g->threads > 1 && N > 256)
    for (int64_t b = 0; b < g->B; b++)
        for (int64_t n = g->offsets[b]; n < g->offsets[b + 1]; n++) {
            const float *item = g->items + g->rows[n] * D, *place = g->places + (g->offsets[b + 1] - 1 - n) * D;
            if (n + AHEAD < N)
                for (int64_t d = 0; d < D; d += 16) __builtin_prefetch(g->items + g->rows[n + AHEAD] * D + d);
            const uint32_t hash = row_seed(g->seed, (uint64_t)n);
            for (int64_t d = 0; d < D; d = next_masked(d)) {
                const Masks both = masks_of(hash, d, g->dropped, g->keep_scale);
                store(g->x + n * D + d, (load(item + d) + load(place + d)) * both.first);
                if (d + HALF < D) store(g->x + n * D + d + HALF, (load(item + d + HALF) + load(place + d + HALF)) * both.second);
            }
        }
}

static inline vf kept(const Embedding *g, int64_t n, int64_t d) {
    return g->dropped ? mask_of(row_seed(g->seed, (uint64_t)n), d, g->dropped, g->keep_scale) : splat(1.0f);
}

// items[rows] += mask * x and places[position] += mask * x. Threads part the columns: each sum is formed in the order of the tokens.
void userclue_embed_backward(const Embedding *g) {
    const int64_t D = g->D, part = g->threads > 1 && g->offsets[g->B] > 256 ? 2 * W : D, parts = (D + part - 1) / part;
#pragma omp parallel for schedule(static) num_threads(g->threads) if (parts > 1)
    for (int64_t first = 0; first < parts * part; first += part)
        for (int64_t b = 0; b < g->B; b++)
            for (int64_t n = g->offsets[b]; n < g->offsets[b + 1]; n++) {
                float *item = g->items + g->rows[n] * D, *place = g->places + (g->offsets[b + 1] - 1 - n) * D;
                for (int64_t d = first; d < D && d < first + part; d += W) {
                    const vf y = load(g->x + n * D + d) * kept(g, n, d);
                    store(item + d, load(item + d) + y);
                    store(place + d, load(place + d) + y);
                }
            }
}
