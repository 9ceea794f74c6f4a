// Attention of the last token of each sequence of a chunk. One query needs neither keys nor values of the other tokens: with
// k_j = K h_j and v_j = V h_j,
//
//     q . k_j = (K' q) . h_j        sum_j p_j v_j = V (sum_j p_j h_j) + (sum_j p_j) bias
//
// a head, so that what is formed for each token is 4HD operations and not 4DD. The keys' bias adds the same to every score and is left
// out, and its gradient is zero. Heads lie side by side, padded to Hp, a token a row.

typedef struct {
    float *h_last, *folded, *columns, *scores, *d_scores, *d_folded, *d_values, *d_q, *bias;
} Last;

static int64_t last_memory(const Job *g, Sizes most) {
    const int64_t D = g->D, Hp = padded(g->H), S = most.sequences;
    return 3 * S * D + 3 * g->H * S * D + 2 * D * Hp + 4 * most.longest * Hp + S * Hp + D * D + 16 * 16;
}

static Last last_arena(const Job *g, Sizes most, Arena *arena) {
    const int64_t D = g->D, Hp = padded(g->H), S = most.sequences;
    Last w;
    w.h_last = take(arena, S * D);
    w.folded = take(arena, g->H * S * D); // [S, H, D]
    w.columns = take(arena, 2 * D * Hp);  // [D, Hp], of what each token is multiplied with
    w.scores = take(arena, most.longest * Hp);
    w.d_scores = take(arena, most.longest * Hp);
    w.d_folded = take(arena, g->H * S * D);
    w.d_values = take(arena, g->H * S * D);
    w.d_q = take(arena, S * D);
    w.bias = take(arena, S * Hp);
    return w;
}

// [S, E] of a head, by rows of D, times that head's rows of a weight [D, D] → [S, H, D]
static void fold(const Job *g, int64_t S, const float *x, const float *weight, float *folded) {
    const int64_t D = g->D, H = g->H, E = D / H;
    for (int64_t h = 0; h < H; h++) matmul(S, D, E, x + h * E, D, weight + h * E * D, D, folded + h * D, H * D, SET, 0);
}

// [H, D] → [D, Hp]
static void as_columns(const Job *g, const float *x, float *columns) {
    transpose(x, g->D, g->H, g->D, columns, padded(g->H));
}

// h: the chunk's tokens, normalised, [rows, D]; v_t: V transposed, by rows of ldt; q, values, out: from the chunk's first sequence on;
// weights: from its first token on
static void attend_last(const Job *g, Chunk chunk, const float *h, const float *v_t, int64_t ldt, const float *q,
                        float *weights, float *values, float *out, Last w) {
    const int64_t D = g->D, H = g->H, E = D / H, Hp = padded(H), S = chunk.to - chunk.from, base = g->offsets[chunk.from];
    const float scale = 1.0f / sqrtf((float)E);
    const uint64_t seed = stream(g, ATTENTION);
    fold(g, S, q, g->qkv_w + D * D, w.folded);
    memset(w.columns, 0, (size_t)(D * Hp) * sizeof(float));
    for (int64_t s = 0; s < S; s++) {
        const int64_t start = g->offsets[chunk.from + s], L = g->offsets[chunk.from + s + 1] - start;
        const uint32_t hash = row_seed(seed, (uint64_t)start);
        const float *hs = h + (start - base) * D;
        float *p = weights + (start - base) * Hp;
        as_columns(g, w.folded + s * H * D, w.columns);
        matmul(L, Hp, D, hs, D, w.columns, Hp, p, Hp, SET, 0);
        for (int64_t lane = 0; lane < Hp; lane += W) {
            vf top = load(p + lane);
            for (int64_t j = 1; j < L; j++) top = larger(load(p + j * Hp + lane), top);
            vf total = {0}, kept = {0};
            for (int64_t j = 0; j < L; j++) {
                const vf e = exp_((load(p + j * Hp + lane) - top) * scale);
                total += e;
                store(p + j * Hp + lane, e);
            }
            const vf inverse = 1.0f / total;
            for (int64_t j = 0; j < L; j++) {
                const vf e = load(p + j * Hp + lane) * inverse;
                store(p + j * Hp + lane, e);
                const vf y = e * masks(g, hash, j * in_halves(H) + lane).first;
                store(w.scores + j * Hp + lane, y);
                kept += y;
            }
            store(w.bias + s * Hp + lane, kept);
        }
        matmul_t(H, D, L, w.scores, Hp, hs, D, values + s * H * D, D, SET);
    }
    for (int64_t head = 0; head < H; head++)
        for (int64_t s = 0; s < S; s++)
            for (int64_t e = 0; e < E; e++) out[s * D + head * E + e] = w.bias[s * Hp + head] * g->qkv_b[2 * D + head * E + e];
    // A head's columns need not be whole vectors: its values fill a row of [S, D] of their own, of which its columns are added.
    for (int64_t head = 0; head < H; head++) {
        const int64_t from = head * E / W * W, to = padded((head + 1) * E);
        matmul(S, to - from, D, values + head * D, H * D, v_t + from, ldt, w.d_folded, to - from, SET, 0);
        for (int64_t s = 0; s < S; s++)
            for (int64_t e = head * E; e < (head + 1) * E; e++) out[s * D + e] += w.d_folded[s * (to - from) + e - from];
    }
}

// d_out [S, D] → d_h [rows, D] (overwritten), the last tokens' part through the query included, and gradients of q, k and v weights
static void attend_last_back(const Job *g, Chunk chunk, const float *h, const float *k_t, const float *q, const float *weights,
                             const float *values, const float *d_out, float *d_h, Gradients to, Last w) {
    const int64_t D = g->D, H = g->H, E = D / H, Hp = padded(H), S = chunk.to - chunk.from, base = g->offsets[chunk.from];
    const float scale = 1.0f / sqrtf((float)E);
    const uint64_t seed = stream(g, ATTENTION);
    float *d_columns = w.columns + D * Hp;
    fold(g, S, q, g->qkv_w + D * D, w.folded);
    fold(g, S, d_out, g->qkv_w + 2 * D * D, w.d_values);
    for (int64_t head = 0; head < H; head++)
        matmul_t(E, D, S, d_out + head * E, D, values + head * D, H * D, to.qkv_w + (2 * D + head * E) * D, D, ADD);
    memset(w.columns, 0, (size_t)(2 * D * Hp) * sizeof(float));
    memset(w.bias, 0, (size_t)(S * Hp) * sizeof(float));
    for (int64_t s = 0; s < S; s++)
        for (int64_t head = 0; head < H; head++)
            for (int64_t e = head * E; e < (head + 1) * E; e++) w.bias[s * Hp + head] += d_out[s * D + e] * g->qkv_b[2 * D + e];
    for (int64_t s = 0; s < S; s++) {
        const int64_t start = g->offsets[chunk.from + s], L = g->offsets[chunk.from + s + 1] - start;
        const uint32_t hash = row_seed(seed, (uint64_t)start);
        const float *hs = h + (start - base) * D, *p = weights + (start - base) * Hp;
        float *dh = d_h + (start - base) * D;
        as_columns(g, w.d_values + s * H * D, d_columns);
        matmul(L, Hp, D, hs, D, d_columns, Hp, w.d_scores, Hp, BIAS, w.bias + s * Hp);
        for (int64_t lane = 0; lane < Hp; lane += W) {
            vf delta = {0}, kept = {0};
            for (int64_t j = 0; j < L; j++) {
                const vf x = load(p + j * Hp + lane);
                const vf left = masks(g, hash, j * in_halves(H) + lane).first, d = load(w.d_scores + j * Hp + lane) * left;
                delta += d * x;
                kept += x * left;
                store(w.d_scores + j * Hp + lane, d);
                store(w.scores + j * Hp + lane, x * left);
            }
            for (int64_t j = 0; j < L; j++)
                store(w.d_scores + j * Hp + lane, load(p + j * Hp + lane) * (load(w.d_scores + j * Hp + lane) - delta) * scale);
            store(w.bias + s * Hp + lane, kept); // its gradient has been used: from here on, what the values' bias was multiplied with
        }
        matmul_t(H, D, L, w.d_scores, Hp, hs, D, w.d_folded + s * H * D, D, SET);
        matmul(L, D, H, w.scores, Hp, w.d_values + s * H * D, D, dh, D, SET, 0);
        matmul(L, D, H, w.d_scores, Hp, w.folded + s * H * D, D, dh, D, ADD, 0);
    }
    for (int64_t s = 0; s < S; s++)
        for (int64_t head = 0; head < H; head++)
            for (int64_t e = head * E; e < (head + 1) * E; e++) to.qkv_b[2 * D + e] += w.bias[s * Hp + head] * d_out[s * D + e];
    // The query's gradient, through K: a head's columns of [S, D] = d_folded K'
    for (int64_t head = 0; head < H; head++) {
        matmul_t(E, D, S, q + head * E, D, w.d_folded + head * D, H * D, to.qkv_w + (D + head * E) * D, D, ADD);
        const int64_t from = head * E / W * W, end = padded((head + 1) * E);
        matmul(S, end - from, D, w.d_folded + head * D, H * D, k_t + from, D, w.d_values, end - from, SET, 0);
        for (int64_t s = 0; s < S; s++)
            memcpy(w.d_q + s * D + head * E, w.d_values + s * (end - from) + head * E - from, (size_t)E * sizeof(float));
    }
    for (int64_t s = 0; s < S; s++) memcpy(w.h_last + s * D, h + (g->offsets[chunk.from + s + 1] - 1 - base) * D, (size_t)D * sizeof(float));
    matmul_t(D, D, S, w.d_q, D, w.h_last, D, to.qkv_w, D, ADD);
    add_rows(w.d_q, S, D, to.qkv_b);
    matmul(S, D, D, w.d_q, D, g->qkv_w, D, w.h_last, D, SET, 0);
    for (int64_t s = 0; s < S; s++) {
        float *at = d_h + (g->offsets[chunk.from + s + 1] - 1 - base) * D;
        for (int64_t d = 0; d < D; d += W) store(at + d, load(at + d) + load(w.h_last + s * D + d));
    }
}
