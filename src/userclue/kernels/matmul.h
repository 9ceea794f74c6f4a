// Matrix products on blocks that lie in cache: C (+)= A B, where row i, column p of A stands at a[i * rs + p * cs], so that A may be
// transposed for nothing, and the n columns of B and C, a multiple of W, lie side by side.

#include "ahead.h"

#if defined(__AVX512F__) || defined(__aarch64__)
#define PANEL 4 // vectors side by side in a tile: 6 x 4 sums, 4 loads and a factor fit 32 registers
#else
#define PANEL 2 // ... and 6 x 2 fit 16
#endif

// What becomes of what stood in C: overwritten, added to, or overwritten by bias (a row of n) plus the product.
typedef enum { SET, ADD, BIAS } Into;

static inline __attribute__((always_inline)) void tile(const int rows, const int vectors, int64_t k, const float *a, int64_t rs, int64_t cs,
                                                       const float *b, int64_t ldb, float *c, int64_t ldc, Into into, const float *bias) {
    vf s[8][PANEL];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) s[i][v] = into == ADD ? load(c + i * ldc + v * W) : into == BIAS ? load(bias + v * W) : (vf){0};
    for (int64_t p = 0; p < k; p++) {
        vf x[PANEL];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) x[v] = load(b + p * ldb + v * W);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            const float factor = a[i * rs + p * cs];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) s[i][v] += factor * x[v];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(c + i * ldc + v * W, s[i][v]);
}

// One panel of `vectors` columns, all m rows. A narrow panel takes more rows at a time, for sums enough to hide the latency of an FMA.
static inline __attribute__((always_inline)) void panel(const int vectors, int64_t m, int64_t k, const float *a, int64_t rs, int64_t cs,
                                                        const float *b, int64_t ldb, float *c, int64_t ldc, Into into, const float *bias) {
    int64_t i = 0;
    const int most = vectors == 1 ? 8 : 6;
    for (; i + most <= m; i += most) {
        fetch_some();
        tile(most, vectors, k, a + i * rs, rs, cs, b, ldb, c + i * ldc, ldc, into, bias);
    }
    if (m - i >= 4) {
        tile(4, vectors, k, a + i * rs, rs, cs, b, ldb, c + i * ldc, ldc, into, bias);
        i += 4;
    }
    switch (m - i) {
    case 3: tile(3, vectors, k, a + i * rs, rs, cs, b, ldb, c + i * ldc, ldc, into, bias); break;
    case 2: tile(2, vectors, k, a + i * rs, rs, cs, b, ldb, c + i * ldc, ldc, into, bias); break;
    case 1: tile(1, vectors, k, a + i * rs, rs, cs, b, ldb, c + i * ldc, ldc, into, bias); break;
    default: break;
    }
}

static inline __attribute__((always_inline)) void matmul_(int64_t m, int64_t n, int64_t k, const float *a, int64_t rs, int64_t cs,
                                                          const float *b, int64_t ldb, float *c, int64_t ldc, Into into, const float *bias) {
    int64_t j = 0;
    for (; j + PANEL * W <= n; j += PANEL * W) panel(PANEL, m, k, a, rs, cs, b + j, ldb, c + j, ldc, into, bias + j);
    switch ((n - j) / W) {
#if PANEL == 4
    case 3: panel(3, m, k, a, rs, cs, b + j, ldb, c + j, ldc, into, bias + j); break;
    case 2: panel(2, m, k, a, rs, cs, b + j, ldb, c + j, ldc, into, bias + j); break;
#endif
    case 1: panel(1, m, k, a, rs, cs, b + j, ldb, c + j, ldc, into, bias + j); break;
    default: break;
    }
}

#define WIDE 32 // of the matrix below

// [m, k] by rows of WIDE, times [k, n]: rows at distances known beforehand need no address each
__attribute__((noinline)) static void matmul_wide(int64_t m, int64_t n, int64_t k, const float *a, const float *b, int64_t ldb, float *c,
                                                  int64_t ldc, Into into) {
    matmul_(m, n, k, a, WIDE, 1, b, ldb, c, ldc, into, c);
}

// [m, k] by rows of lda, times [k, n]
__attribute__((noinline)) static void matmul(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                                             int64_t ldc, Into into, const float *bias) {
    matmul_(m, n, k, a, lda, 1, b, ldb, c, ldc, into, bias);
}

#define DEPTH 64 // rows at a time, so that those of a panel, all at one distance, do not drive each other out of the nearest cache

// [k, m] transposed, times [k, n]
__attribute__((noinline)) static void matmul_t(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                                               int64_t ldc, Into into) {
    for (int64_t p = 0; p < k; p += DEPTH)
        matmul_(m, n, k - p < DEPTH ? k - p : DEPTH, a + p * lda, 1, lda, b + p * ldb, ldb, c, ldc, p ? ADD : into, c);
}
