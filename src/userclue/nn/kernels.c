// Attention and dropout on packed float32 sequences, for CPUs: what PyTorch's own kernels spend most of a step on at these sizes.
// Plain C with GCC/Clang vector extensions; native.py compiles it on the machine it runs on, attention.py and dropout.py call it and
// hold the PyTorch forms that it must equal.
//
// Sequences lie packed: rows off[b]..off[b+1] of k and v are sequence b; rows qoff[b]..qoff[b+1] of q are its queries. The result of a
// sequence depends on no other sequence and on no thread, so any number of threads gives the same bits.

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
#define ROWS 4 // queries treated together: they share every load of a key or value
typedef float vf __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), aligned(4), may_alias));

static const uint32_t LANE[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline vf load(const float *p) { return *(const vf *)p; }
static inline void store(float *p, vf x) { *(vf *)p = x; }
static inline vf splat(float x) { return x - (vf){0}; }

// e^x for x <= 0, relative error below 2e-7 (Cody-Waite reduction, degree 6); 0 below -80, so that no product is a slow denormal.
static inline vf exp_(vf x) {
    const vi low = x < -80.0f;
    x = (vf)((vi)x & ~low);
    vf z = x * 1.44269504088896341f + 12582912.0f; // 1.5 * 2^23: the integer nearest to x / ln 2 stands in the low bits
    vf n = z - 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf y = 1.0f / 720 + (vf){0};
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    return (vf)((vi)(y * (vf)(((vi)z - 0x4B400000 + 127) << 23)) & ~low);
}

// A seed of its own for each row, by splitmix64; then one 32-bit hash a lane (the finaliser of MurmurHash3).
static inline uint32_t row_seed(uint64_t seed, uint64_t row) {
    uint64_t z = seed + (row + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (uint32_t)(z ^ (z >> 31));
}

// 0 where dropped, `scale` where kept, for elements j..j+15 of a row.
static inline vf keep(uint32_t row, uint32_t j, uint32_t dropped, float scale) {
    vu x = (*(const vu *)LANE + j) * 0x9E3779B9u + row;
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    x ^= x >> 16;
    return (vf)((vi)(x >= dropped) & (vi)splat(scale));
}

// Halves against halves, so that the chain is four operations long and not sixteen.
static inline float sum(vf x) {
    float s[W];
    store(s, x);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}
static inline float max_(vf x) {
    float s[W];
    store(s, x);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] = s[i] > s[i + half] ? s[i] : s[i + half];
    return s[0];
}

typedef struct {
    const float *q, *k, *v, *dout;
    float *out, *stats, *dq, *dk, *dv;
    const int64_t *qoff, *off;
    int64_t q_stride, kv_stride, out_stride, dq_stride, dkv_stride, B, H, D;
    float scale, keep_scale;
    uint32_t dropped;
    uint64_t seed;
} Job;

static float *grow(float *buffer, size_t *held, size_t wanted) {
    if (wanted <= *held) return buffer;
    free(buffer);
    *held = wanted;
    void *p = 0;
    if (posix_memalign(&p, 64, wanted * sizeof(float))) abort();
    return p;
}

// rows of head h, zero-padded to Dp columns; and, with `t`, transposed to [Dp][Lp].
static void gather(const float *x, int64_t stride, int64_t L, int64_t D, int64_t Dp, int64_t Lp, float *rows, float *t) {
    for (int64_t i = 0; i < L; i++) {
        const float *from = x + i * stride;
        if (rows) {
            float *to = rows + i * Dp;
            memcpy(to, from, (size_t)D * sizeof(float));
            if (D < Dp) memset(to + D, 0, (size_t)(Dp - D) * sizeof(float));
        }
        if (t) for (int64_t d = 0; d < D; d++) t[d * Lp + i] = from[d];
    }
    if (t)
        for (int64_t d = 0; d < D; d++)
            for (int64_t i = L; i < Lp; i++) t[d * Lp + i] = 0;
}

// s[i][j] = scale * a[i] · t[:, j], for the block's rows and all j
static inline void times(const float *a, const float *t, int64_t D, int64_t Dp, int64_t Lp, float scale, float *s) {
    int64_t j = 0;
    for (; j + 2 * W <= Lp; j += 2 * W) {
        vf x[ROWS] = {0}, y[ROWS] = {0};
        for (int64_t d = 0; d < D; d++) {
            const vf t0 = load(t + d * Lp + j), t1 = load(t + d * Lp + j + W);
            for (int i = 0; i < ROWS; i++) {
                x[i] += a[i * Dp + d] * t0;
                y[i] += a[i * Dp + d] * t1;
            }
        }
        for (int i = 0; i < ROWS; i++) {
            store(s + i * Lp + j, x[i] * scale);
            store(s + i * Lp + j + W, y[i] * scale);
        }
    }
    for (; j < Lp; j += W) {
        vf x[ROWS] = {0};
        for (int64_t d = 0; d < D; d++)
            for (int i = 0; i < ROWS; i++) x[i] += a[i * Dp + d] * load(t + d * Lp + j);
        for (int i = 0; i < ROWS; i++) store(s + i * Lp + j, x[i] * scale);
    }
}

// out[i][d] = sum over j of p[i][j] * x[j][d], for the block's first `rows` rows
static inline void weighted(const float *p, int64_t Lp, const float *x, int64_t L, int64_t D, int64_t Dp, float *out, int64_t stride,
                            int64_t rows) {
    for (int64_t d = 0; d < Dp; d += W) {
        vf even[ROWS] = {0}, odd[ROWS] = {0};
        int64_t j = 0;
        for (; j + 2 <= L; j += 2) {
            const vf x0 = load(x + j * Dp + d), x1 = load(x + (j + 1) * Dp + d);
            for (int i = 0; i < ROWS; i++) {
                even[i] += p[i * Lp + j] * x0;
                odd[i] += p[i * Lp + j + 1] * x1;
            }
        }
        if (j < L)
            for (int i = 0; i < ROWS; i++) even[i] += p[i * Lp + j] * load(x + j * Dp + d);
        for (int64_t i = 0; i < rows; i++) {
            const vf y = even[i] + odd[i];
            if (d + W <= D) store(out + i * stride + d, y);
            else for (int64_t e = d; e < D; e++) out[i * stride + e] = y[e - d];
        }
    }
}

// x[j] += sum over the block's rows of w[i][j] * a[i], for all j
static inline void spread(const float *w, int64_t Lp, const float *a, int64_t Dp, int64_t L, float *x) {
    for (int64_t d = 0; d < Dp; d += W)
        for (int64_t j = 0; j < L; j++) {
            vf y = load(x + j * Dp + d);
            for (int i = 0; i < ROWS; i++) y += w[i * Lp + j] * load(a + i * Dp + d);
            store(x + j * Dp + d, y);
        }
}

// rows first..first+rows-1 of head h into [ROWS][Dp], the rest zero
static inline void take_rows(const float *x, int64_t stride, int64_t rows, int64_t D, int64_t Dp, float *to) {
    if (rows < ROWS || D < Dp) memset(to, 0, ROWS * (size_t)Dp * sizeof(float));
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * Dp, x + i * stride, (size_t)D * sizeof(float));
}

static void forward_part(const Job *g, int64_t from, int64_t to) {
    float *buffer = 0;
    size_t held = 0;
    const int64_t D = g->D, Dp = (D + W - 1) / W * W;
    for (int64_t b = from; b < to; b++) {
        const int64_t o = g->off[b], L = g->off[b + 1] - o, Lp = (L + W - 1) / W * W;
        buffer = grow(buffer, &held, (size_t)(D * Lp + L * Dp + ROWS * Lp + ROWS * Dp));
        float *kt = buffer, *v = kt + D * Lp, *s = v + L * Dp, *q = s + ROWS * Lp;
        for (int64_t h = 0; h < g->H; h++) {
            gather(g->k + o * g->kv_stride + h * D, g->kv_stride, L, D, Dp, Lp, 0, kt);
            gather(g->v + o * g->kv_stride + h * D, g->kv_stride, L, D, Dp, Lp, v, 0);
            for (int64_t first = g->qoff[b]; first < g->qoff[b + 1]; first += ROWS) {
                const int64_t rows = g->qoff[b + 1] - first < ROWS ? g->qoff[b + 1] - first : ROWS;
                take_rows(g->q + first * g->q_stride + h * D, g->q_stride, rows, D, Dp, q);
                times(q, kt, D, Dp, Lp, g->scale, s);
                for (int64_t i = 0; i < rows; i++) {
                    float *si = s + i * Lp;
                    const int64_t r = (first + i) * g->H + h;
                    for (int64_t j = L; j < Lp; j++) si[j] = -INFINITY;
                    vf top = load(si);
                    for (int64_t j = W; j < Lp; j += W) {
                        const vf x = load(si + j);
                        const vi more = x > top;
                        top = (vf)(((vi)x & more) | ((vi)top & ~more));
                    }
                    const float m = max_(top);
                    const uint32_t row = row_seed(g->seed, (uint64_t)r);
                    vf total = {0};
                    for (int64_t j = 0; j < Lp; j += W) {
                        const vf e = exp_(load(si + j) - m);
                        total += e;
                        if (g->dropped) store(si + j, e * keep(row, (uint32_t)j, g->dropped, g->keep_scale));
                        else store(si + j, e);
                    }
                    const float inverse = 1.0f / sum(total);
                    for (int64_t j = 0; j < Lp; j += W) store(si + j, load(si + j) * inverse);
                    if (g->stats) {
                        g->stats[r * 2] = m;
                        g->stats[r * 2 + 1] = inverse;
                    }
                }
                weighted(s, Lp, v, L, D, Dp, g->out + first * g->out_stride + h * D, g->out_stride, rows);
            }
        }
    }
    free(buffer);
}

static void backward_part(const Job *g, int64_t from, int64_t to) {
    float *buffer = 0;
    size_t held = 0;
    const int64_t D = g->D, Dp = (D + W - 1) / W * W;
    for (int64_t b = from; b < to; b++) {
        const int64_t o = g->off[b], L = g->off[b + 1] - o, Lp = (L + W - 1) / W * W;
        buffer = grow(buffer, &held, (size_t)(2 * D * Lp + 3 * L * Dp + 2 * ROWS * Lp + 2 * ROWS * Dp));
        float *kt = buffer, *vt = kt + D * Lp, *k = vt + D * Lp, *dk = k + L * Dp, *dv = dk + L * Dp;
        float *p = dv + L * Dp, *ds = p + ROWS * Lp, *q = ds + ROWS * Lp, *dout = q + ROWS * Dp;
        for (int64_t h = 0; h < g->H; h++) {
            gather(g->k + o * g->kv_stride + h * D, g->kv_stride, L, D, Dp, Lp, k, kt);
            gather(g->v + o * g->kv_stride + h * D, g->kv_stride, L, D, Dp, Lp, 0, vt);
            memset(dk, 0, 2 * (size_t)(L * Dp) * sizeof(float));
            for (int64_t first = g->qoff[b]; first < g->qoff[b + 1]; first += ROWS) {
                const int64_t rows = g->qoff[b + 1] - first < ROWS ? g->qoff[b + 1] - first : ROWS;
                take_rows(g->q + first * g->q_stride + h * D, g->q_stride, rows, D, Dp, q);
                take_rows(g->dout + first * g->out_stride + h * D, g->out_stride, rows, D, Dp, dout);
                times(q, kt, D, Dp, Lp, g->scale, p);
                times(dout, vt, D, Dp, Lp, 1.0f, ds);
                for (int64_t i = 0; i < rows; i++) {
                    float *pi = p + i * Lp, *si = ds + i * Lp;
                    const int64_t r = (first + i) * g->H + h;
                    const float m = g->stats[r * 2], inverse = g->stats[r * 2 + 1];
                    for (int64_t j = L; j < Lp; j++) pi[j] = -INFINITY;
                    const uint32_t row = row_seed(g->seed, (uint64_t)r);
                    vf total = {0};
                    // ds holds probability * gradient from here on: what is left of it is minus probability * delta
                    for (int64_t j = 0; j < Lp; j += W) {
                        const vf x = exp_(load(pi + j) - m) * inverse;
                        vf d = x * load(si + j);
                        if (g->dropped) d *= keep(row, (uint32_t)j, g->dropped, g->keep_scale);
                        total += d;
                        store(si + j, d);
                        store(pi + j, x);
                    }
                    const float delta = sum(total);
                    for (int64_t j = 0; j < Lp; j += W) {
                        const vf x = load(pi + j);
                        store(si + j, (load(si + j) - x * delta) * g->scale);
                        if (g->dropped) store(pi + j, x * keep(row, (uint32_t)j, g->dropped, g->keep_scale));
                    }
                }
                // rows beyond the last carry a zero query and a zero gradient, so they spread nothing
                weighted(ds, Lp, k, L, D, Dp, g->dq + first * g->dq_stride + h * D, g->dq_stride, rows);
                spread(ds, Lp, q, Dp, L, dk);
                spread(p, Lp, dout, Dp, L, dv);
            }
            for (int64_t j = 0; j < L; j++) {
                memcpy(g->dk + (o + j) * g->dkv_stride + h * D, dk + j * Dp, (size_t)D * sizeof(float));
                memcpy(g->dv + (o + j) * g->dkv_stride + h * D, dv + j * Dp, (size_t)D * sizeof(float));
            }
        }
    }
    free(buffer);
}

#define CHUNK 8 // sequences taken at a time: batches are bucketed by length, but not perfectly

// OpenMP, because PyTorch uses it: its threads are there already, and a second pool would fight them for the cores.
static void run(const Job *job, void (*part)(const Job *, int64_t, int64_t), int threads) {
    const int64_t chunks = (job->B + CHUNK - 1) / CHUNK;
    (void)threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1 && chunks > 1)
    for (int64_t c = 0; c < chunks; c++) part(job, c * CHUNK, c * CHUNK + CHUNK < job->B ? c * CHUNK + CHUNK : job->B);
}

void userclue_attention_forward(const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int64_t *qoff,
                                const int64_t *off, int64_t B, int64_t H, int64_t D, float scale, uint32_t dropped, float keep_scale,
                                uint64_t seed, float *out, int64_t out_stride, float *stats, int threads) {
    Job job = {.q = q, .k = k, .v = v, .out = out, .stats = stats, .qoff = qoff, .off = off, .q_stride = q_stride, .kv_stride = kv_stride,
               .out_stride = out_stride, .B = B, .H = H, .D = D, .scale = scale, .keep_scale = keep_scale, .dropped = dropped, .seed = seed};
    run(&job, forward_part, threads);
}

void userclue_attention_backward(const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int64_t *qoff,
                                 const int64_t *off, int64_t B, int64_t H, int64_t D, float scale, uint32_t dropped, float keep_scale,
                                 uint64_t seed, const float *dout, int64_t out_stride, const float *stats, float *dq, int64_t dq_stride,
                                 float *dk, float *dv, int64_t dkv_stride, int threads) {
    Job job = {.q = q, .k = k, .v = v, .dout = dout, .stats = (float *)stats, .dq = dq, .dk = dk, .dv = dv, .qoff = qoff, .off = off,
               .q_stride = q_stride, .kv_stride = kv_stride, .out_stride = out_stride, .dq_stride = dq_stride, .dkv_stride = dkv_stride,
               .B = B, .H = H, .D = D, .scale = scale, .keep_scale = keep_scale, .dropped = dropped, .seed = seed};
    run(&job, backward_part, threads);
}

typedef struct {
    const float *x, *add;
    float *out;
    int64_t n;
    uint32_t dropped;
    float keep_scale;
    uint64_t seed;
    int relu;
} Masking;

#define BLOCK 1024

static void mask_block(const Masking *g, int64_t block) {
    const int64_t start = block * BLOCK, n = g->n - start < BLOCK ? g->n - start : BLOCK;
    const uint32_t row = row_seed(g->seed, (uint64_t)block);
    for (int64_t j = 0; j < n; j += W) {
        const vf kept = keep(row, (uint32_t)j, g->dropped, g->keep_scale);
        if (j + W <= n) {
            vf x = load(g->x + start + j);
            if (g->relu) x = (vf)((vi)x & (x > 0.0f));
            x *= kept;
            if (g->add) x += load(g->add + start + j);
            store(g->out + start + j, x);
        } else {
            for (int64_t i = j; i < n; i++) {
                float x = g->x[start + i];
                if (g->relu && !(x > 0)) x = 0;
                x *= kept[i - j];
                g->out[start + i] = g->add ? x + g->add[start + i] : x;
            }
        }
    }
}

// dx = gradient of mask * relu(x): `out` is positive exactly where x was positive and kept
void userclue_relu_dropout_backward(const float *dout, const float *out, float *dx, int64_t n, float keep_scale) {
    for (int64_t i = 0; i < n; i++) dx[i] = out[i] > 0 ? dout[i] * keep_scale : 0;
}

// out = add + mask * relu?(x); `add` may be null. The mask of an element depends on the seed and its place alone.
void userclue_dropout(const float *x, const float *add, float *out, int64_t n, uint32_t dropped, float keep_scale, uint64_t seed, int relu,
                      int threads) {
    const Masking job = {x, add, out, n, dropped, keep_scale, seed, relu};
    const int64_t blocks = (n + BLOCK - 1) / BLOCK;
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && blocks >= 64)
    for (int64_t block = 0; block < blocks; block++) mask_block(&job, block);
}
