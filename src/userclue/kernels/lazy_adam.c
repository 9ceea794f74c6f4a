// Adam on some rows of a table, in one pass: each row with its two moments is far away in memory, and comes and goes once.

#include "vector.h"

#define AHEAD 8 // rows fetched before they are needed

typedef struct {
    int64_t U, D;
    int32_t threads;
    float beta1, beta2, rate, scale, epsilon; // row -= rate * mean / (scale * sqrt(square) + epsilon)
    const int64_t *rows;                      // [U], each once
    const float *gradient;                    // [U, D]
    float *table, *mean, *square;             // [V, D]
    float *poison;                            // one number, NaN once anything in a gradient was none
} Update;

static void update_row(int64_t D, const float *restrict g, float *restrict x, float *restrict m, float *restrict v, const Update *u) {
    const float beta1 = u->beta1, beta2 = u->beta2, rate = u->rate, scale = u->scale, epsilon = u->epsilon;
    for (int64_t d = 0; d < D; d++) {
        m[d] += (1.0f - beta1) * (g[d] - m[d]);
        v[d] = beta2 * v[d] + (1.0f - beta2) * g[d] * g[d];
        x[d] -= rate * m[d] / (scale * sqrtf(v[d]) + epsilon);
    }
}

void userclue_lazy_adam(const Update *u) {
    const int64_t D = u->D;
    int32_t finite = 1;
#pragma omp parallel for schedule(static) reduction(& : finite) num_threads(u->threads) if (u->threads > 1 && u->U > 256)
    for (int64_t i = 0; i < u->U; i++) {
        if (i + AHEAD < u->U)
            for (int64_t d = 0; d < D; d += 16) {
                const int64_t at = u->rows[i + AHEAD] * D + d;
                __builtin_prefetch(u->table + at, 1);
                __builtin_prefetch(u->mean + at, 1);
                __builtin_prefetch(u->square + at, 1);
            }
        const int64_t at = u->rows[i] * D;
        update_row(D, u->gradient + i * D, u->table + at, u->mean + at, u->square + at, u);
        for (int64_t d = 0; d < D; d++) finite &= u->gradient[i * D + d] - u->gradient[i * D + d] == 0.0f;
    }
    if (!finite) *u->poison = NAN;
}
