// Matrix products that leave out the zeros of one factor: ReLU and dropout make half to three quarters of it zero. What is left is summed in
// the order of the other products, so that the bits are the same whichever is taken.

#if defined(__AVX__)
#include <immintrin.h>
#endif
#ifndef SKIPS
#if defined(__AVX__)
#define SKIPS 1
#else
#define SKIPS 0 // zeros are found one lane after another, which takes longer than the product
#endif
#endif

#define ABREAST 8 // vectors: sums enough to hide the latency of an FMA

// Whether it pays to leave out the zeros of rows of D, half of them or more
static inline int skips(int64_t D) { return SKIPS && D % (ABREAST * W) == 0; }

// A bit a lane, set where it is not zero
static inline uint64_t nonzero(vf x) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_NEQ_UQ);
#elif defined(__AVX__)
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, _mm256_setzero_ps(), _CMP_NEQ_UQ));
#else
    uint64_t bits = 0;
    for (int i = 0; i < W; i++) bits |= (uint64_t)(x[i] != 0.0f) << i;
    return bits;
#endif
}

#define BITS 64

static inline uint64_t marks_of(const float *x) {
    uint64_t bits = 0;
#pragma GCC unroll 16
    for (int j = 0; j < BITS; j += W) bits |= nonzero(load(x + j)) << j;
    return bits;
}

// sums += every marked one of a, which lie `stride` apart, times its row of b
static inline __attribute__((always_inline)) void add_marked(uint64_t marks, const float *a, int64_t stride, const float *b, int64_t ldb, vf *sums) {
    for (; marks; marks &= marks - 1) {
        const int64_t j = __builtin_ctzll(marks);
        const float factor = a[j * stride];
#pragma GCC unroll 8
        for (int v = 0; v < ABREAST; v++) sums[v] += factor * load(b + j * ldb + v * W);
    }
}

// As matmul of [m, D] and [D, D], the zeros of the first left out; bias may be null
__attribute__((noinline)) static void matmul_sparse(int64_t m, int64_t D, const float *a, const float *b, float *c, const float *bias) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < D; j += ABREAST * W) {
            vf sums[ABREAST];
            for (int v = 0; v < ABREAST; v++) sums[v] = bias ? load(bias + j + v * W) : (vf){0};
            for (int64_t p = 0; p < D; p += BITS) add_marked(marks_of(a + i * D + p), a + i * D + p, 1, b + p * D + j, D, sums);
            for (int v = 0; v < ABREAST; v++) store(c + i * D + j + v * W, sums[v]);
        }
}

// 64 rows of 64 bits, transposed in place: halves are exchanged, then quarters, and so on.
static void transpose_bits(uint64_t *rows) {
    uint64_t mask = UINT32_MAX;
    for (int step = BITS / 2; step; step /= 2, mask ^= mask << step)
        for (int i = 0; i < BITS; i = (i + step + 1) & ~step) {
            const uint64_t t = ((rows[i] >> step) ^ rows[i + step]) & mask;
            rows[i] ^= t << step;
            rows[i + step] ^= t;
        }
}

// c [D, D] += a, [m, D], transposed, times b, [m, D], the zeros of a left out: as matmul_t
__attribute__((noinline)) static void matmul_t_sparse(int64_t m, int64_t D, const float *a, const float *b, float *c) {
    for (int64_t p = 0; p < m; p += BITS)
        for (int64_t i = 0; i < D; i += BITS) {
            uint64_t marks[BITS] = {0};
            for (int64_t row = 0; row < BITS && p + row < m; row++) marks[row] = marks_of(a + (p + row) * D + i);
            transpose_bits(marks);
            for (int64_t column = 0; column < BITS; column++)
                for (int64_t j = 0; j < D; j += ABREAST * W) {
                    float *to = c + (i + column) * D + j;
                    vf sums[ABREAST];
                    for (int v = 0; v < ABREAST; v++) sums[v] = load(to + v * W);
                    add_marked(marks[column], a + p * D + i + column, D, b + p * D + j, D, sums);
                    for (int v = 0; v < ABREAST; v++) store(to + v * W, sums[v]);
                }
        }
}
