// Vectors of floats as wide as the machine has, by GCC/Clang vector extensions, and what is computed on them lane by lane.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX__)
#define W 8
#else
#define W 4
#endif
typedef float vf __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), aligned(4), may_alias));

static const uint32_t LANE[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline vf load(const float *p) { return *(const vf *)p; }
static inline void store(float *p, vf x) { *(vf *)p = x; }
static inline vf splat(float x) { return x - (vf){0}; }
static inline vf larger(vf a, vf b) {
    const vi more = a > b;
    return (vf)(((vi)a & more) | ((vi)b & ~more));
}
static inline int64_t padded(int64_t n) { return (n + W - 1) / W * W; }

// e^x for x <= 0, relative error below 4e-7 (degree 5 by least squares of the relative error); 0 below -80, so that no product is a slow
// denormal.
static inline vf exp_(vf x) {
    vf z = x * 1.44269504088896341f + 12582912.0f; // 1.5 * 2^23: the integer nearest to x / ln 2 stands in the low bits
    vf r = x - (z - 12582912.0f) * 0.693147180559945309f;
    vf y = 0.00829030609f + (vf){0};
    y = y * r + 0.0418979764f;
    y = y * r + 0.166676366f;
    y = y * r + 0.499991492f;
    y = y * r + 0.999999707f;
    y = y * r + 1.0f;
    return (vf)((vi)(y * (vf)(((vi)z - 0x4B400000 + 127) << 23)) & (x >= -80.0f));
}

static inline uint64_t splitmix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// A seed of its own for each row, by splitmix64; then one 32-bit hash a lane (the finaliser of MurmurHash3).
static inline uint32_t row_seed(uint64_t seed, uint64_t row) { return (uint32_t)splitmix(seed + (row + 1) * 0x9E3779B97F4A7C15ull); }

// 32 random bits a lane, two masks' worth, for the elements that `counter` and the lane number within what the hash stands for. Nothing
// here or where it is called depends on the width of a vector: every processor draws the same masks.
static inline vu random_bits(uint32_t hash, uint32_t counter) {
    vu x = *(const vu *)LANE * 0x9E3779B9u + (counter * 0x9E3779B9u + hash);
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    return x ^ x >> 16;
}

// 0 where dropped (of 2^16), `scale` where kept, by the lower or the upper half of the bits
static inline vf lower(vu bits, uint32_t dropped, float scale) { return (vf)((vi)((bits & 0xFFFFu) >= dropped) & (vi)splat(scale)); }
static inline vf upper(vu bits, uint32_t dropped, float scale) { return (vf)((vi)(bits >> 16 >= dropped) & (vi)splat(scale)); }

#define HALF 16 // of a row's elements, the first HALF of each two share their bits with the second

// From W elements of a row to the next that no mask was drawn for: a mask comes with that of the elements HALF further on.
static inline int64_t next_masked(int64_t d) { return d % HALF + W == HALF ? d + W + HALF : d + W; }

// Two masks, 0 where dropped and `scale` where kept, that share their bits: both all one where nothing is dropped
typedef struct { vf first, second; } Masks;

static inline Masks masks_of(uint32_t hash, int64_t counter, uint32_t dropped, float scale) {
    if (!dropped) return (Masks){splat(1.0f), splat(1.0f)};
    const vu bits = random_bits(hash, (uint32_t)counter);
    return (Masks){lower(bits, dropped, scale), upper(bits, dropped, scale)};
}

// The mask of elements e..e+W-1 of a row
static inline vf mask_of(uint32_t hash, int64_t e, uint32_t dropped, float scale) {
    const vu bits = random_bits(hash, (uint32_t)(e / (2 * HALF) * 2 * HALF + e % HALF));
    return e / HALF % 2 ? upper(bits, dropped, scale) : lower(bits, dropped, scale);
}

// Halves against halves.
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
static inline float sum(vf x) {
#if W == 16
    const v8 half = ((v8 *)&x)[0] + ((v8 *)&x)[1];
    const v4 y = ((v4 *)&half)[0] + ((v4 *)&half)[1];
#elif W == 8
    const v4 y = ((v4 *)&x)[0] + ((v4 *)&x)[1];
#else
    const v4 y = x;
#endif
    return (y[0] + y[2]) + (y[1] + y[3]);
}

// [rows, cols] by rows of ld → [cols, rows] by rows of ldt
static inline void transpose(const float *x, int64_t ld, int64_t rows, int64_t cols, float *t, int64_t ldt) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const float *from = x + i * ld;
        int64_t j = 0;
        for (; j + 4 <= cols; j += 4) {
            const v4 a = *(const v4 *)(from + j), b = *(const v4 *)(from + ld + j), c = *(const v4 *)(from + 2 * ld + j);
            const v4 d = *(const v4 *)(from + 3 * ld + j);
            const v4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
            const v4 ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            *(v4 *)(t + j * ldt + i) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
            *(v4 *)(t + (j + 1) * ldt + i) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
            *(v4 *)(t + (j + 2) * ldt + i) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
            *(v4 *)(t + (j + 3) * ldt + i) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
        }
        for (; j < cols; j++)
            for (int k = 0; k < 4; k++) t[j * ldt + i + k] = from[k * ld + j];
    }
    for (; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) t[j * ldt + i] = x[i * ld + j];
}
