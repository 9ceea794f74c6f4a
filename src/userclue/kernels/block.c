// A stack of transformer blocks, forward and backward, on packed float32 sequences: what PyTorch does in some forty kernels a block that
// each pass over memory is done here for a few sequences at a time, whose rows stay in cache from the first block's first product to the
// last block's last, and on the way back.
// transformer.py calls it and holds the PyTorch form that it must equal.
//
//     pre-norm     a = norm1(x), s1 = x + drop(out(attention(a))), b = norm2(s1), result = s1 + drop(ff2(drop(relu(ff1(b)))))
//     post-norm    s1 = x + drop(out(attention(x))), b = norm1(s1), s2 = b + drop(ff2(drop(relu(ff1(b))))), result = norm2(s2)
//
// Masks are not kept but drawn again from their seed, except in the attention of a short history, whose weights are kept. Gradients of the
// layers' weights are summed within a fixed number of slots, each a run of chunks, and then over the slots in order: any number of threads
// gives the same bits.

#include "vector.h"
#include "matmul.h"
#include "arena.h"
#include "job.h"
#include "rows.h"
#include "sparse.h"
#include "attention.h"
#include "last.h"

// Transposed weights, so that products run along rows: qkv [D, 3D], the others [D, D]
typedef struct { const float *qkv, *out, *ff1, *ff2; } Transposed;

static Transposed transposed(const Job *g, float *to) {
    const int64_t D = g->D;
    float *qkv = to, *out = to + 3 * D * D, *ff1 = out + D * D, *ff2 = ff1 + D * D;
    transpose(g->qkv_w, D, 3 * D, D, qkv, 3 * D);
    transpose(g->out_w, D, D, D, out, D);
    transpose(g->ff1_w, D, D, D, ff1, D);
    transpose(g->ff2_w, D, D, D, ff2, D);
    return (Transposed){qkv, out, ff1, ff2};
}

static int64_t forward_memory(const Job *g, Sizes most) {
    const int64_t D = g->D, rows = most.rows;
    return rows * (12 * D + padded(g->H) + 4) + most.sequences * g->H * D + 16 * 16 + (g->last ? last_memory(g, most) : attention_memory(g, most.longest));
}

// Where the rows of a chunk lie that the backward pass wants: in what is kept, or where nothing is, in the arena.
static float *kept_or(float *kept, int64_t at, Arena *arena, int64_t floats) { return kept ? kept + at : take(arena, floats); }

static void gather_last(const Job *g, Chunk chunk, const float *rows, float *to) {
    const int64_t base = g->offsets[chunk.from];
    for (int64_t b = chunk.from; b < chunk.to; b++)
        memcpy(to + (b - chunk.from) * g->D, rows + (g->offsets[b + 1] - 1 - base) * g->D, (size_t)g->D * sizeof(float));
}

#define AHEAD 4 // rows of `items`, which come in no order a processor foresees

// Queries, keys and values of the first block from those of each token's item and position
static void look_up(const Job *g, int64_t base, int64_t rows, const float *x, float *qkv) {
    const int64_t D = g->D;
    for (int64_t i = 0; i < rows; i++) {
        const float *item = g->items + g->rows[base + i] * 3 * D, *place = g->places + g->positions[base + i] * 3 * D;
        if (base + i + AHEAD < g->N)
            for (int64_t d = 0; d < 3 * D; d += LINE) __builtin_prefetch(g->items + g->rows[base + i + AHEAD] * 3 * D + d);
        const float inverse = g->post ? 1.0f : inverse_of(x + i * D, D, mean_of(x + i * D, D));
        for (int64_t d = 0; d < 3 * D; d += W) store(qkv + i * 3 * D + d, (load(item + d) + load(place + d)) * inverse + load(g->bias + d));
    }
}

// [m, D], rectified, times [D, D], plus bias if it is not null
static void rectified_product(int64_t m, int64_t D, const float *a, const float *b, float *c, const float *bias) {
    if (skips(D)) matmul_sparse(m, D, a, b, c, bias);
    else matmul(m, D, D, a, D, b, D, c, D, bias ? BIAS : SET, bias);
}

// c [D, D] += [m, D], rectified and transposed, times [m, D]
static void rectified_product_t(int64_t m, int64_t D, const float *a, const float *b, float *c) {
    if (skips(D)) matmul_t_sparse(m, D, a, b, c);
    else matmul_t(D, D, m, a, D, b, D, c, D, ADD);
}

// One block: x [rows, D] → out [R, D], the chunk's alone
static void forward_chunk(const Job *g, Chunk chunk, Transposed t, Sizes most, const float *x, float *out, Arena arena) {
    const int64_t D = g->D, base = g->offsets[chunk.from], rows = g->offsets[chunk.to] - base, S = chunk.to - chunk.from;
    const int64_t R = g->last ? S : rows, r0 = g->last ? chunk.from : base, Hp = padded(g->H);
    const float *h = x, *residual = x;
    if (!g->post && !g->items) {
        float *a = take(&arena, rows * D);
        norm_rows(x, rows, D, g->norm1_w, g->norm1_b, a, kept_or(g->stats1, base * 2, &arena, rows * 2));
        h = a;
    }
    float *mixed = kept_or(g->mixed, r0 * D, &arena, R * D);
    if (g->last) {
        float *weights = kept_or(g->weights, base * Hp, &arena, rows * Hp), *values = kept_or(g->values, chunk.from * g->H * D, &arena, S * g->H * D);
        float *q = kept_or(g->qkv, chunk.from * D, &arena, S * D), *at_last = take(&arena, S * D);
        const Last w = last_arena(g, most, &arena);
        gather_last(g, chunk, h, w.h_last);
        matmul(S, D, D, w.h_last, D, t.qkv, 3 * D, q, D, BIAS, g->qkv_b);
        attend_last(g, chunk, h, t.qkv + 2 * D, 3 * D, q, weights, values, mixed, w);
        gather_last(g, chunk, x, at_last);
        residual = at_last;
    } else {
        float *qkv = kept_or(g->qkv, base * 3 * D, &arena, rows * 3 * D);
        if (g->items) look_up(g, base, rows, x, qkv);
        else matmul(rows, 3 * D, D, h, D, t.qkv, 3 * D, qkv, 3 * D, BIAS, g->qkv_b);
        for (int64_t b = chunk.from; b < chunk.to; b++) {
            const int64_t first = g->offsets[b], at = first - base;
            float *kept = g->weights ? g->weights + first * g->H * 2 : 0;
            attend(g, qkv + at * 3 * D, g->offsets[b + 1] - first, first, mixed + at * D, kept, arena);
        }
    }
    float *y = take(&arena, R * D), *b = take(&arena, R * D);
    float *sum1 = kept_or(g->sum1, r0 * D, &arena, R * D), *hidden = kept_or(g->hidden, r0 * D, &arena, R * D);
    float *stats2 = kept_or(g->stats2, r0 * 2, &arena, R * 2);
    matmul(R, D, D, mixed, D, t.out, D, y, D, BIAS, g->out_b);
    drop(g, AFTER_ATTENTION, r0, y, residual, R, sum1);
    if (g->post) norm_rows(sum1, R, D, g->norm1_w, g->norm1_b, b, kept_or(g->stats1, r0 * 2, &arena, R * 2));
    else norm_rows(sum1, R, D, g->norm2_w, g->norm2_b, b, stats2);
    matmul(R, D, D, b, D, t.ff1, D, hidden, D, BIAS, g->ff1_b);
    rectify_drop(g, HIDDEN, r0, R, hidden);
    rectified_product(R, D, hidden, t.ff2, y, g->ff2_b);
    if (g->post) {
        float *sum2 = kept_or(g->sum2, r0 * D, &arena, R * D);
        drop(g, AFTER_HIDDEN, r0, y, b, R, sum2);
        norm_rows(sum2, R, D, g->norm2_w, g->norm2_b, out, stats2);
    } else drop(g, AFTER_HIDDEN, r0, y, sum1, R, out);
}

static int64_t backward_memory(const Job *g, Sizes most) {
    const int64_t D = g->D;
    return most.rows * 9 * D + 16 * 16 + (g->last ? last_memory(g, most) : attention_memory(g, most.longest));
}

// The second half of a block: d, the gradient of its result [R, D] → the gradients of sum1 (d_sum) and of the attention's result (d_mixed)
static void feed_forward_back(const Job *g, int64_t r0, int64_t R, const float *d, float *d_sum, float *d_mixed, Gradients to, Arena arena) {
    const int64_t D = g->D;
    const float *sum1 = g->sum1 + r0 * D, *hidden = g->hidden + r0 * D;
    float *y = take(&arena, R * D), *b = take(&arena, R * D), *z = d_mixed;
    if (g->post) {
        float *d_sum2 = take(&arena, R * D);
        norm_back(g->sum2 + r0 * D, g->stats2 + r0 * 2, g->norm2_w, d, 0, R, D, d_sum2, to.norm2_w, to.norm2_b);
        d = d_sum2;
        norm_again(sum1, R, D, g->norm1_w, g->norm1_b, g->stats1 + r0 * 2, b);
    } else norm_again(sum1, R, D, g->norm2_w, g->norm2_b, g->stats2 + r0 * 2, b);
    drop(g, AFTER_HIDDEN, r0, d, 0, R, y);
    rectified_product_t(R, D, hidden, y, to.ff2_w); // transposed, so that the zeros come first
    add_rows(y, R, D, to.ff2_b);
    matmul(R, D, D, y, D, g->ff2_w, D, z, D, SET, 0);
    rectify_drop_back(g, hidden, R, z);
    rectified_product_t(R, D, z, b, to.ff1_w);
    add_rows(z, R, D, to.ff1_b);
    rectified_product(R, D, z, g->ff1_w, y, 0);
    if (g->post) {
        for (int64_t i = 0; i < R * D; i += W) store(y + i, load(y + i) + load(d + i));
        norm_back(sum1, g->stats1 + r0 * 2, g->norm1_w, y, 0, R, D, d_sum, to.norm1_w, to.norm1_b);
    } else norm_back(sum1, g->stats2 + r0 * 2, g->norm2_w, y, d, R, D, d_sum, to.norm2_w, to.norm2_b);
    drop(g, AFTER_ATTENTION, r0, d_sum, 0, R, y);
    matmul_t(D, D, R, y, D, g->mixed + r0 * D, D, to.out_w, D, ADD);
    add_rows(y, R, D, to.out_b);
    matmul(R, D, D, y, D, g->out_w, D, d_mixed, D, SET, 0);
}

// One block: x and d_out [R, D] → d_x [rows, D], the chunk's alone
static void backward_chunk(const Job *g, Chunk chunk, const float *k_t, Sizes most, const float *x, const float *d_out, float *d_x, Gradients to,
                           Arena arena) {
    const int64_t D = g->D, base = g->offsets[chunk.from], rows = g->offsets[chunk.to] - base, S = chunk.to - chunk.from;
    const int64_t R = g->last ? S : rows, r0 = g->last ? chunk.from : base;
    const float *h = x;
    float *d_sum = take(&arena, R * D), *d_mixed = take(&arena, R * D), *d_h = take(&arena, rows * D);
    feed_forward_back(g, r0, R, d_out, d_sum, d_mixed, to, arena);
    if (!g->post) {
        float *a = take(&arena, rows * D);
        norm_again(x, rows, D, g->norm1_w, g->norm1_b, g->stats1 + base * 2, a);
        h = a;
    }
    if (g->last) {
        const Last w = last_arena(g, most, &arena);
        attend_last_back(g, chunk, h, k_t, g->qkv + chunk.from * D, g->weights + base * padded(g->H), g->values + chunk.from * g->H * D, d_mixed,
                         d_h, to, w);
        if (g->post) memcpy(d_x, d_h, (size_t)(rows * D) * sizeof(float));
        else norm_back(x, g->stats1 + base * 2, g->norm1_w, d_h, 0, rows, D, d_x, to.norm1_w, to.norm1_b);
        for (int64_t s = 0; s < S; s++) {
            float *at = d_x + (g->offsets[chunk.from + s + 1] - 1 - base) * D;
            for (int64_t d = 0; d < D; d += W) store(at + d, load(at + d) + load(d_sum + s * D + d));
        }
        return;
    }
    float *d_qkv = take(&arena, rows * 3 * D);
    for (int64_t b = chunk.from; b < chunk.to; b++) {
        const int64_t first = g->offsets[b], at = first - base;
        attend_back(g, g->qkv + first * 3 * D, g->offsets[b + 1] - first, first, g->weights + first * g->H * 2, g->mixed + first * D, d_mixed + at * D,
                    d_qkv + at * 3 * D, arena);
    }
    matmul_t(3 * D, D, rows, d_qkv, 3 * D, h, D, to.qkv_w, D, ADD);
    add_rows(d_qkv, rows, 3 * D, to.qkv_b);
    matmul(rows, D, 3 * D, d_qkv, 3 * D, g->qkv_w, D, d_h, D, SET, 0);
    if (g->post)
        for (int64_t i = 0; i < rows * D; i += W) store(d_x + i, load(d_h + i) + load(d_sum + i));
    else norm_back(x, g->stats1 + base * 2, g->norm1_w, d_h, d_sum, rows, D, d_x, to.norm1_w, to.norm1_b);
}

// What the blocks keep of a chunk: written on the way there, read on the way back
static void fetch_kept(const Job *jobs, int64_t blocks, const Chunk *chunk) {
    forget_ahead();
    if (!chunk) return;
    const int64_t D = jobs->D, base = jobs->offsets[chunk->from], rows = jobs->offsets[chunk->to] - base;
    fetch_rows(jobs->x, base, rows, D);
    for (const Job *g = jobs; g < jobs + blocks; g++) {
        if (!g->last) {
            fetch_rows(g->qkv, base, rows, 3 * D);
            fetch_rows(g->powers, base, rows, g->H * g->width);
            fetch_rows(g->mixed, base, rows, D);
            fetch_rows(g->sum1, base, rows, D);
            fetch_rows(g->hidden, base, rows, D);
            fetch_rows(g->sum2, base, rows, D);
            fetch_rows(g->final_w ? g->result : g->out, base, rows, D);
        } else fetch_rows(g->weights, base, rows, padded(g->H));
    }
}

// The blocks of a stack, one after another: each reads what the one before it wrote, in what is kept or in the arena.
static void forward_stack(const Job *jobs, int64_t blocks, Chunk chunk, const Chunk *next, const Transposed *t, Sizes most, Arena arena) {
    fetch_kept(jobs, blocks, next);
    const int64_t D = jobs->D, base = jobs->offsets[chunk.from], rows = jobs->offsets[chunk.to] - base;
    const float *x = jobs->x + base * D;
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t first = jobs[b].last ? chunk.from : base;
        const int normed = jobs[b].final_w != 0;
        float *out = kept_or(normed ? jobs[b].result : jobs[b].out, first * D, &arena, rows * D);
        forward_chunk(jobs + b, chunk, t[b], most, x, out, arena);
        x = out;
    }
    const Job *end = jobs + blocks - 1;
    if (!end->final_w) return;
    const int64_t first = end->last ? chunk.from : base, R = end->last ? chunk.to - chunk.from : rows;
    norm_rows(x, R, D, end->final_w, end->final_b, end->out + first * D, kept_or(end->final_stats, first * 2, &arena, R * 2));
}

static void backward_stack(const Job *jobs, int64_t blocks, Chunk chunk, const Chunk *next, const float *k_t, Sizes most, float *sums,
                           Arena arena) {
    fetch_kept(jobs, blocks, next);
    const int64_t D = jobs->D, base = jobs->offsets[chunk.from], rows = jobs->offsets[chunk.to] - base;
    const Job *end = jobs + blocks - 1;
    const int64_t first = end->last ? chunk.from : base, R = end->last ? chunk.to - chunk.from : rows;
    const float *d_out = end->d_out + first * D;
    if (end->final_w) {
        float *d_result = take(&arena, R * D), *to = sums + blocks * n_weights(D);
        norm_back(end->result + first * D, end->final_stats + first * 2, end->final_w, d_out, 0, R, D, d_result, to, to + D);
        d_out = d_result;
    }
    for (int64_t b = blocks - 1; b >= 0; b--) {
        float *d_x = b ? take(&arena, rows * D) : jobs->d_x + base * D;
        const float *x = (b ? jobs[b - 1].out : jobs->x) + base * D;
        backward_chunk(jobs + b, chunk, k_t, most, x, d_out, d_x, gradients(sums + b * n_weights(D), D), arena);
        d_out = d_x;
    }
}

// OpenMP, because PyTorch uses it: its threads are there already, and a second pool would fight them for the cores.
void userclue_blocks_forward(const Job *jobs, int64_t blocks) {
    Chunk *chunks = memory((size_t)jobs->B * sizeof(Chunk));
    const int64_t n = chunks_of(jobs, chunks), D = jobs->D;
    const Sizes most = sizes_of(jobs, chunks, n);
    float *weights = memory((size_t)(blocks * 6 * D * D) * sizeof(float));
    Transposed *t = memory((size_t)blocks * sizeof(Transposed));
    int64_t size = 0;
    for (int64_t b = 0; b < blocks; b++) {
        t[b] = transposed(jobs + b, weights + b * 6 * D * D);
        if (forward_memory(jobs + b, most) > size) size = forward_memory(jobs + b, most);
    }
    size += blocks * (most.rows * D + 16) + 2 * most.rows + 16;
#pragma omp parallel num_threads(jobs->threads) if (jobs->threads > 1 && n > 1)
    {
        float *own = memory((size_t)size * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int64_t c = 0; c < n; c++)
            forward_stack(jobs, blocks, chunks[c], c + jobs->threads < n ? chunks + c + jobs->threads : 0, t, most, (Arena){own});
        free(own);
    }
    free(t);
    free(weights);
    free(chunks);
}

#define MOST_SLOTS 32

void userclue_blocks_backward(const Job *jobs, int64_t blocks) {
    Chunk *chunks = memory((size_t)jobs->B * sizeof(Chunk));
    const int64_t n = chunks_of(jobs, chunks), D = jobs->D, size = blocks * n_weights(D) + 2 * D;
    const Sizes most = sizes_of(jobs, chunks, n);
    const int64_t slots = n < 4 ? 1 : n / 4 < MOST_SLOTS ? n / 4 : MOST_SLOTS;
    float *sums = memory((size_t)(slots * size) * sizeof(float)), *k_t = memory((size_t)(D * D) * sizeof(float));
    transpose(jobs[blocks - 1].qkv_w + D * D, D, D, D, k_t, D); // only the last block may be one of the last tokens alone
    int64_t room = 0;
    for (int64_t b = 0; b < blocks; b++)
        if (backward_memory(jobs + b, most) > room) room = backward_memory(jobs + b, most);
    room += (blocks + 1) * (most.rows * D + 16);
#pragma omp parallel num_threads(jobs->threads) if (jobs->threads > 1 && slots > 1)
    {
        float *own = memory((size_t)room * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int64_t slot = 0; slot < slots; slot++) {
            float *to = sums + slot * size;
            memset(to, 0, (size_t)size * sizeof(float));
            for (int64_t c = n * slot / slots; c < n * (slot + 1) / slots; c++)
                backward_stack(jobs, blocks, chunks[c], c + 1 < n ? chunks + c + 1 : 0, k_t, most, to, (Arena){own});
        }
        free(own);
    }
    for (int64_t slot = 1; slot < slots; slot++)
        for (int64_t i = 0; i < size; i++) sums[i] += sums[slot * size + i];
    memcpy(jobs->d_weights, sums, (size_t)(size - (jobs[blocks - 1].final_w ? 0 : 2 * D)) * sizeof(float));
    for (int64_t b = 0; b < blocks; b++)
        transpose(gradients(sums + b * n_weights(D), D).ff2_w, D, D, D, gradients(jobs->d_weights + b * n_weights(D), D).ff2_w, D);
    free(k_t);
    free(sums);
    free(chunks);
}
