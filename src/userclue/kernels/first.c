// What a stack's first block makes of each item and of each position, where nothing is dropped and nothing learned. With e and p centred,
//
//     W norm(e + p) + b = (W' e + W' p) / deviation(e + p) + b'        W' = W diag(norm's weight), b' = b + W (norm's bias)
//
// or post-norm without all of the norm, so that queries, keys and values are a product an item and not one a token. block.c adds them up.

#include "vector.h"
#include "matmul.h"
#include "arena.h"
#include "job.h"
#include "rows.h"

typedef struct {
    int64_t D, n_items, n_places;
    int32_t threads;
    const float *items, *places;      // [n, D] each
    const float *qkv_w, *qkv_b;       // [3D, D], [3D]
    const float *norm_w, *norm_b;     // [D] each, or both null: post-norm
    float *item_out, *place_out, *bias; // [n, 3D] each, [3D]
} First;

#define ROWS 192 // at a time, so that they stay in cache

static void products(const First *g, const float *x, int64_t n, const float *qkv_t, float *out) {
    const int64_t D = g->D;
#pragma omp parallel num_threads(g->threads) if (g->threads > 1 && n > ROWS)
    {
        float *centred = memory((size_t)(ROWS * D) * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t first = 0; first < n; first += ROWS) {
            const int64_t rows = n - first < ROWS ? n - first : ROWS;
            for (int64_t i = 0; i < rows; i++) {
                const float *xi = x + (first + i) * D, mean = g->norm_w ? mean_of(xi, D) : 0.0f;
                for (int64_t d = 0; d < D; d += W) store(centred + i * D + d, load(xi + d) - mean);
            }
            matmul(rows, 3 * D, D, centred, D, qkv_t, 3 * D, out + first * 3 * D, 3 * D, SET, 0);
        }
        free(centred);
    }
}

void userclue_first(const First *g) {
    const int64_t D = g->D;
    float *qkv_t = memory((size_t)(3 * D * D) * sizeof(float));
    transpose(g->qkv_w, D, 3 * D, D, qkv_t, 3 * D);
    if (g->norm_w) {
        matmul(1, 3 * D, D, g->norm_b, D, qkv_t, 3 * D, g->bias, 3 * D, BIAS, g->qkv_b);
        for (int64_t d = 0; d < D; d++)
            for (int64_t i = 0; i < 3 * D; i += W) store(qkv_t + d * 3 * D + i, load(qkv_t + d * 3 * D + i) * g->norm_w[d]);
    } else memcpy(g->bias, g->qkv_b, (size_t)(3 * D) * sizeof(float));
    products(g, g->items, g->n_items, qkv_t, g->item_out);
    products(g, g->places, g->n_places, qkv_t, g->place_out);
    free(qkv_t);
}
