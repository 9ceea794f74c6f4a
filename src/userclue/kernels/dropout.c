// Dropout over any tensor, mask and all in one pass: the embedding's, and that of what the blocks' own kernel does not do.

#include "vector.h"

#define BLOCK 1024

static void mask_block(const float *x, float *out, int64_t n, uint32_t dropped, float keep_scale, uint64_t seed, int64_t block) {
    const int64_t start = block * BLOCK, end = n - start < BLOCK ? n - start : BLOCK;
    const uint32_t hash = row_seed(seed, (uint64_t)block);
    for (int64_t j = 0; j < end; j += W) {
        const vf kept = mask_of(hash, j, dropped, keep_scale);
        if (j + W <= end) store(out + start + j, load(x + start + j) * kept);
        else
            for (int64_t i = j; i < end; i++) out[start + i] = x[start + i] * kept[i - j];
    }
}

// out = mask * x. The mask of an element depends on the seed and its place alone.
void userclue_dropout(const float *x, float *out, int64_t n, uint32_t dropped, float keep_scale, uint64_t seed, int threads) {
    const int64_t blocks = (n + BLOCK - 1) / BLOCK;
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && blocks >= 64)
    for (int64_t block = 0; block < blocks; block++) mask_block(x, out, n, dropped, keep_scale, seed, block);
}
