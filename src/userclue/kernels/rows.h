// Layer normalisation, dropout and sums over the rows of a chunk.

#define EPSILON 1e-5f // torch.nn.LayerNorm's

static inline float mean_of(const float *x, int64_t D) {
    vf total = {0};
    for (int64_t d = 0; d < D; d += W) total += load(x + d);
    return sum(total) / (float)D;
}

// One over the deviation of a row with this mean
static inline float inverse_of(const float *x, int64_t D, float mean) {
    vf squares = {0};
    for (int64_t d = 0; d < D; d += W) {
        const vf c = load(x + d) - mean;
        squares += c * c;
    }
    return 1.0f / sqrtf(sum(squares) / (float)D + EPSILON);
}

// out = norm(x) and the two numbers a row that its gradient needs
static void norm_rows(const float *x, int64_t rows, int64_t D, const float *weight, const float *bias, float *out, float *stats) {
    for (int64_t i = 0; i < rows; i++) {
        const float *xi = x + i * D, mean = mean_of(xi, D), inverse = inverse_of(xi, D, mean);
        for (int64_t d = 0; d < D; d += W) store(out + i * D + d, (load(xi + d) - mean) * inverse * load(weight + d) + load(bias + d));
        stats[i * 2] = mean;
        stats[i * 2 + 1] = inverse;
    }
}

// The same from the kept numbers
static void norm_again(const float *x, int64_t rows, int64_t D, const float *weight, const float *bias, const float *stats, float *out) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t d = 0; d < D; d += W)
            store(out + i * D + d, (load(x + i * D + d) - stats[i * 2]) * stats[i * 2 + 1] * load(weight + d) + load(bias + d));
}

// dx = gradient of norm(x) + add (if not null); dx may be dy or add. The weight's and bias's gradients are added to.
static void norm_back(const float *x, const float *stats, const float *weight, const float *dy, const float *add, int64_t rows, int64_t D,
                      float *dx, float *d_weight, float *d_bias) {
    for (int64_t i = 0; i < rows; i++) {
        const float mean = stats[i * 2], inverse = stats[i * 2 + 1];
        vf first = {0}, second = {0};
        for (int64_t d = 0; d < D; d += W) {
            const vf z = (load(x + i * D + d) - mean) * inverse, y = load(dy + i * D + d), scaled = y * load(weight + d);
            first += scaled;
            second += scaled * z;
            store(d_weight + d, load(d_weight + d) + y * z);
            store(d_bias + d, load(d_bias + d) + y);
        }
        const float a = sum(first) / (float)D, b = sum(second) / (float)D;
        for (int64_t d = 0; d < D; d += W) {
            const vf z = (load(x + i * D + d) - mean) * inverse;
            vf y = (load(dy + i * D + d) * load(weight + d) - a - z * b) * inverse;
            if (add) y += load(add + i * D + d);
            store(dx + i * D + d, y);
        }
    }
}

// x, or relu(x)
static inline vf rectified(const int relu, vf x) {
    if (relu) x = (vf)((vi)x & (x > 0.0f));
    return x;
}

// out = mask * x, or mask * relu(x), plus add if it is not null; `first` is the number of the first row, on which its mask depends
static inline __attribute__((always_inline)) void drop_(const Job *g, int place, int64_t first, const float *x, const int relu, const float *add,
                                                        int64_t rows, float *out) {
    const int64_t D = g->D;
    if (!g->dropped) {
        for (int64_t i = 0; i < rows * D; i += W) {
            vf y = rectified(relu, load(x + i));
            if (add) y += load(add + i);
            store(out + i, y);
        }
        return;
    }
    const uint64_t seed = stream(g, place);
    for (int64_t i = 0; i < rows * D; i += D) {
        const uint32_t hash = row_seed(seed, (uint64_t)(first + i / D));
        for (int64_t d = i; d < i + D; d = i + next_masked(d - i)) {
            const Masks left = masks(g, hash, d - i);
            vf y = rectified(relu, load(x + d)) * left.first;
            if (add) y += load(add + d);
            store(out + d, y);
            if (d + HALF >= i + D) continue;
            y = rectified(relu, load(x + d + HALF)) * left.second;
            if (add) y += load(add + d + HALF);
            store(out + d + HALF, y);
        }
    }
}

static void drop(const Job *g, int place, int64_t first, const float *x, const float *add, int64_t rows, float *out) {
    drop_(g, place, first, x, 0, add, rows, out);
}

// x = mask * relu(x)
static void rectify_drop(const Job *g, int place, int64_t first, int64_t rows, float *x) { drop_(g, place, first, x, 1, 0, rows, x); }

// dx *= mask * (x > 0): what came out of rectify_drop is positive exactly where x was positive and kept
static void rectify_drop_back(const Job *g, const float *out, int64_t rows, float *dx) {
    for (int64_t i = 0; i < rows * g->D; i += W) store(dx + i, (vf)((vi)(load(dx + i) * g->keep_scale) & (load(out + i) > 0.0f)));
}

// out += sum of the rows; columns side by side, for sums enough to hide the latency of an addition
static void add_rows(const float *x, int64_t rows, int64_t D, float *out) {
    int64_t d = 0;
    for (; d + 4 * W <= D; d += 4 * W) {
        vf total[4] = {{0}, {0}, {0}, {0}};
        for (int64_t i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) total[v] += load(x + i * D + d + v * W);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) store(out + d + v * W, load(out + d + v * W) + total[v]);
    }
    for (; d < D; d += W) {
        vf total = {0};
        for (int64_t i = 0; i < rows; i++) total += load(x + i * D + d);
        store(out + d, load(out + d) + total);
    }
}
