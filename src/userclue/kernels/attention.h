// Attention of all tokens of one sequence, a head at a time. Scores lie a key a row, a query a lane, so that what is summed over the keys
// needs no sum within a vector.

#define QUERIES WIDE // formed together: their weights over all keys stay in cache

static int64_t attention_memory(const Job *g, int64_t longest) {
    const int64_t E = padded(g->D / g->H), Lp = padded(longest);
    return 2 * E * Lp + 2 * QUERIES * longest + 7 * longest * E + 16 * 12;
}

// Columns of one head, [L, E] by rows of ld, as rows of whole vectors: in place where they are that already, else copied and zero-padded.
static const float *whole(const float *x, int64_t ld, int64_t L, int64_t E, Arena *arena, int64_t *held) {
    if (E % W == 0) {
        *held = ld;
        return x;
    }
    const int64_t Ep = padded(E);
    float *to = take(arena, L * Ep);
    for (int64_t i = 0; i < L; i++) {
        memcpy(to + i * Ep, x + i * ld, (size_t)E * sizeof(float));
        memset(to + i * Ep + E, 0, (size_t)(Ep - E) * sizeof(float));
    }
    *held = Ep;
    return to;
}

static void columns_back(const float *from, int64_t Ep, int64_t L, int64_t E, float *x, int64_t ld) {
    for (int64_t i = 0; i < L; i++) memcpy(x + i * ld, from + i * Ep, (size_t)E * sizeof(float));
}

static inline vi lanes_from(int64_t first) { return *(const vi *)LANE + (int32_t)first; }

// Rows [L, E] of a head → [E, Lp], zero beyond L
static void as_lanes(const float *x, int64_t ld, int64_t L, int64_t E, int64_t Lp, float *t) {
    for (int64_t e = 0; e < E; e++)
        for (int64_t i = L; i < Lp; i++) t[e * Lp + i] = 0;
    transpose(x, ld, L, E, t, Lp);
}

// Below zero, though it be -0, where it is dropped
static inline vf marked(vf x, vf mask) { return (vf)((vi)x | ((vi)(mask == 0.0f) & INT32_MIN)); }

// s [keys, queries] = e^(scale * s - the query's largest), masked. The largest and one over the sum before masking, a query: top, inverse.
// kept: null or where the powers go, marked.
static void softmax(const Job *g, uint32_t hash, int64_t row, int64_t i0, int64_t keys, int64_t lane, float scale, float *s, float *kept,
                    float *top_, float *inverse_) {
    const vi query = lanes_from(i0 + lane);
    vf top = splat(-INFINITY), total = {0};
    for (int64_t j = 0; j < keys; j++) {
        vf x = load(s + j * QUERIES + lane);
        if (g->causal && j > i0) {
            const vi before = query < (int32_t)j;
            x = (vf)(((vi)splat(-INFINITY) & before) | ((vi)x & ~before));
            store(s + j * QUERIES + lane, x);
        }
        top = larger(x, top);
    }
    top *= scale;
    for (int64_t j = 0; j < keys; j += 2) {
        const Masks left = masks(g, hash, j * row + i0 + lane);
        float *at = s + j * QUERIES + lane;
        const vf e = exp_(load(at) * scale - top);
        store(at, e * left.first);
        if (kept) store(kept + j * g->width + lane, marked(e, left.first));
        total += e;
        if (j + 1 == keys) break;
        const vf f = exp_(load(at + QUERIES) * scale - top);
        store(at + QUERIES, f * left.second);
        if (kept) store(kept + (j + 1) * g->width + lane, marked(f, left.second));
        total += f;
    }
    store(top_ + lane, top);
    store(inverse_ + lane, 1.0f / total);
}

// Where a head's powers of a sequence are kept, [L, width], or null
static float *powers_of(const Job *g, int64_t first, int64_t L, int64_t h) { return g->powers ? g->powers + (first * g->H + h * L) * g->width : 0; }

// qkv: the sequence's first row of [.., 3D]; first: its number among all; out: [L, D]; kept: [2, H, L] or null
static void attend(const Job *g, const float *qkv, int64_t L, int64_t first, float *out, float *kept, Arena arena) {
    const int64_t D = g->D, E = D / g->H, Ep = padded(E), ld = 3 * D, Lp = padded(L);
    const float scale = 1.0f / sqrtf((float)E);
    const uint64_t seed = stream(g, ATTENTION);
    float *qt = take(&arena, E * Lp), *s = take(&arena, QUERIES * L), *narrow = take(&arena, E == Ep ? 0 : L * Ep);
    for (int64_t h = 0; h < g->H; h++) {
        const uint32_t hash = row_seed(seed, (uint64_t)(first * g->H + h));
        Arena scratch = arena;
        int64_t ldv;
        const float *v = whole(qkv + 2 * D + h * E, ld, L, E, &scratch, &ldv);
        float *o = E == Ep ? out + h * E : narrow;
        const int64_t ldo = E == Ep ? D : Ep;
        float *powers = powers_of(g, first, L, h);
        as_lanes(qkv + h * E, ld, L, E, Lp, qt);
        for (int64_t i0 = 0; i0 < L; i0 += QUERIES) {
            const int64_t rows = L - i0 < QUERIES ? L - i0 : QUERIES, keys = g->causal ? i0 + rows : L;
            float top[QUERIES], inverse[QUERIES];
            matmul(keys, padded(rows), E, qkv + D + h * E, ld, qt + i0, Lp, s, QUERIES, SET, 0);
            for (int64_t lane = 0; lane < rows; lane += W)
                softmax(g, hash, in_halves(L), i0, keys, lane, scale, s, powers ? powers + i0 : 0, top, inverse);
            if (kept) {
                memcpy(kept + h * L + i0, top, (size_t)rows * sizeof(float));
                memcpy(kept + (g->H + h) * L + i0, inverse, (size_t)rows * sizeof(float));
            }
            matmul_t(rows, Ep, keys, s, QUERIES, v, ldv, o + i0 * ldo, ldo, SET);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t e = 0; e < Ep; e += W) store(o + (i0 + i) * ldo + e, load(o + (i0 + i) * ldo + e) * inverse[i]);
        }
        if (E != Ep) columns_back(narrow, Ep, L, E, out + h * E, D);
    }
}

// From scores and gradients of the weights, both [keys, queries]: the masked weights, and the gradients of the scores.
// delta: the weights' gradients, weighted by them and summed, which is the product of a query's result with its gradient.
static void softmax_back(const Job *g, uint32_t hash, int64_t row, int64_t i0, int64_t keys, int64_t lane, float scale, const float *top_,
                         const float *inverse_, const float *delta_, float *s, float *ds) {
    const vf top = load(top_ + lane), inverse = load(inverse_ + lane), delta = load(delta_ + lane);
    const vi query = lanes_from(i0 + lane);
    for (int64_t j = 0; j < keys; j += 2) {
        const Masks left = masks(g, hash, j * row + i0 + lane);
        for (int64_t k = j; k < keys && k < j + 2; k++) {
            float *at = s + k * QUERIES + lane, *d = ds + k * QUERIES + lane;
            const vf kept = k == j ? left.first : left.second;
            vf x = exp_(load(at) * scale - top) * inverse;
            if (g->causal && k > i0) x = (vf)((vi)x & ~(query < (int32_t)k));
            store(d, x * (load(d) * kept - delta) * scale);
            store(at, x * kept);
        }
    }
}

// The same from the powers as they are kept, of which the masked weights are made
static void softmax_back_kept(const Job *g, int64_t keys, int64_t lane, float scale, const float *powers, const float *inverse_,
                              const float *delta_, float *s, float *ds) {
    const vf inverse = load(inverse_ + lane), delta = load(delta_ + lane);
    for (int64_t j = 0; j < keys; j++) {
        const vi power = (vi)load(powers + j * g->width + lane);
        float *d = ds + j * QUERIES + lane;
        const vf kept = (vf)((vi)splat(g->keep_scale) & ~(power >> 31)), x = (vf)(power & INT32_MAX) * inverse;
        store(d, x * (load(d) * kept - delta) * scale);
        store(s + j * QUERIES + lane, x * kept);
    }
}

// d_out, the gradient of out [L, D] → d_qkv [L, 3D]
static void attend_back(const Job *g, const float *qkv, int64_t L, int64_t first, const float *kept, const float *out, const float *d_out,
                        float *d_qkv, Arena arena) {
    const int64_t D = g->D, E = D / g->H, Ep = padded(E), ld = 3 * D, Lp = padded(L);
    const float scale = 1.0f / sqrtf((float)E);
    const uint64_t seed = stream(g, ATTENTION);
    float *qt = take(&arena, E * Lp), *dt = take(&arena, E * Lp), *s = take(&arena, QUERIES * L), *ds = take(&arena, QUERIES * L);
    float *narrow = take(&arena, E == Ep ? 0 : 3 * L * Ep);
    for (int64_t h = 0; h < g->H; h++) {
        const uint32_t hash = row_seed(seed, (uint64_t)(first * g->H + h));
        Arena scratch = arena;
        int64_t ldq, ldk, ldo;
        const float *q = whole(qkv + h * E, ld, L, E, &scratch, &ldq), *k = whole(qkv + D + h * E, ld, L, E, &scratch, &ldk);
        const float *o = whole(d_out + h * E, D, L, E, &scratch, &ldo);
        const int64_t ldd = E == Ep ? ld : Ep;
        float *dq = E == Ep ? d_qkv + h * E : narrow, *dk = E == Ep ? dq + D : dq + L * Ep, *dv = E == Ep ? dk + D : dk + L * Ep;
        const float *powers = powers_of(g, first, L, h);
        if (!powers) as_lanes(qkv + h * E, ld, L, E, Lp, qt);
        as_lanes(d_out + h * E, D, L, E, Lp, dt);
        for (int64_t i0 = 0; i0 < L; i0 += QUERIES) {
            const int64_t rows = L - i0 < QUERIES ? L - i0 : QUERIES, keys = g->causal ? i0 + rows : L, wide = padded(rows);
            float top[QUERIES] = {0}, inverse[QUERIES] = {0}, delta[QUERIES] = {0};
            memcpy(top, kept + h * L + i0, (size_t)rows * sizeof(float));
            memcpy(inverse, kept + (g->H + h) * L + i0, (size_t)rows * sizeof(float));
            for (int64_t i = 0; i < rows; i++) {
                const float *a = out + (i0 + i) * D + h * E, *b = d_out + (i0 + i) * D + h * E;
                int64_t e = 0;
                vf total = {0};
                for (; e + W <= E; e += W) total += load(a + e) * load(b + e);
                delta[i] = sum(total);
                for (; e < E; e++) delta[i] += a[e] * b[e];
            }
            if (!powers) matmul(keys, wide, E, qkv + D + h * E, ld, qt + i0, Lp, s, QUERIES, SET, 0);
            matmul(keys, wide, E, qkv + 2 * D + h * E, ld, dt + i0, Lp, ds, QUERIES, SET, 0);
            for (int64_t lane = 0; lane < rows; lane += W) {
                if (powers) softmax_back_kept(g, keys, lane, scale, powers + i0, inverse, delta, s, ds);
                else softmax_back(g, hash, in_halves(L), i0, keys, lane, scale, top, inverse, delta, s, ds);
            }
            matmul_t(rows, Ep, keys, ds, QUERIES, k, ldk, dq + i0 * ldd, ldd, SET);
            // The first queries meet every key, unless they are causal: then keys that come later are met first by their own block.
            const int64_t met = i0 == 0 ? 0 : g->causal ? i0 : L;
            matmul_wide(met, Ep, rows, ds, q + i0 * ldq, ldq, dk, ldd, ADD);
            matmul_wide(met, Ep, rows, s, o + i0 * ldo, ldo, dv, ldd, ADD);
            matmul_wide(keys - met, Ep, rows, ds + met * QUERIES, q + i0 * ldq, ldq, dk + met * ldd, ldd, SET);
            matmul_wide(keys - met, Ep, rows, s + met * QUERIES, o + i0 * ldo, ldo, dv + met * ldd, ldd, SET);
        }
        if (E != Ep)
            for (int part = 0; part < 3; part++) columns_back(narrow + part * L * Ep, Ep, L, E, d_qkv + part * D + h * E, ld);
    }
}
