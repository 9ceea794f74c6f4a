// A head of pre-training, forward and backward: layers of a product, a batch norm and a ReLU, over views of the same users one after
// another, and if there is a target the loss behind them. A view's batch norm sees that view alone, so views share nothing but the
// weights, and each may have a thread of its own.
// nn/fused_head.py calls it; nn/heads.py holds the PyTorch form that it must equal.

#include "vector.h"
#include "matmul.h"
#include "arena.h"

typedef struct {
    int64_t in, out;                  // multiples of W
    int32_t norm, relu;
    float momentum, epsilon;          // of the batch norm
    const float *weight, *bias;       // [out, in], [out] or null
    const float *scale, *shift;       // of the batch norm, [out] each or both null
    float *mean, *variance;           // running, [out] each
    int64_t *seen;                    // batches that the running ones have met
    float *moments, *normed, *result; // kept: a view's mean and variance [views, 2, out]; [views * B, out] each
} Layer;

typedef struct {
    int64_t B, views, layers;
    int32_t threads;
    const Layer *layer;
    const float *x;                   // [views * B, in of the first layer]
    const float *d_out;               // [views * B, out of the last]
    float *d_x, *d_weights;           // the latter layer by layer: weight, bias, scale, shift, those that are there
    const float *target;              // [views * B, out of the last] or null; no gradient reaches it
    float *loss;                      // with a target: the mean of all rows' negative cosines with their targets; backward its gradient
} Head;

#define RUN 32 // rows are summed in runs, and the runs' sums then: a sum over thousands keeps its digits

// Column by column the sum of x * y, or of x if y is null, [B, D] each; W columns from d on
static vf sum_down(const float *x, const float *y, int64_t B, int64_t D, int64_t d) {
    vf total = {0};
    for (int64_t i = 0; i < B; i += RUN) {
        vf part = {0};
        for (int64_t k = i; k < B && k < i + RUN; k++) {
            vf z = load(x + k * D + d);
            if (y) z *= load(y + k * D + d);
            part += z;
        }
        total += part;
    }
    return total;
}

static vf over_root(vf x) {
    for (int i = 0; i < W; i++) x[i] = 1.0f / sqrtf(x[i]);
    return x;
}

// [B, D], each column normalised in place over the rows
static void norm_columns(float *x, int64_t B, int64_t D, float epsilon, float *mean, float *variance) {
    for (int64_t d = 0; d < D; d += W) {
        const vf centre = sum_down(x, 0, B, D, d) / (float)B;
        for (int64_t i = 0; i < B; i++) store(x + i * D + d, load(x + i * D + d) - centre);
        const vf spread = sum_down(x, x, B, D, d) / (float)B, inverse = over_root(spread + epsilon);
        for (int64_t i = 0; i < B; i++) store(x + i * D + d, load(x + i * D + d) * inverse);
        store(mean + d, centre);
        store(variance + d, spread);
    }
}

// Gradient of the scaled and shifted norm → gradient of what went into the norm, in place
static void norm_columns_back(const Layer *l, const float *normed, const float *variance, int64_t B, float *d_y, float *d_scale, float *d_shift) {
    const int64_t D = l->out;
    for (int64_t d = 0; d < D; d += W) {
        const vf shift = sum_down(d_y, 0, B, D, d), scale = sum_down(d_y, normed, B, D, d), a = shift / (float)B, b = scale / (float)B;
        vf factor = over_root(load(variance + d) + l->epsilon);
        if (l->scale) {
            factor *= load(l->scale + d);
            store(d_scale + d, scale);
            store(d_shift + d, shift);
        }
        for (int64_t i = d; i < B * D; i += D) store(d_y + i, (load(d_y + i) - a - load(normed + i) * b) * factor);
    }
}

static void view_forward(const Head *g, int64_t view) {
    const int64_t B = g->B;
    for (int64_t n = 0; n < g->layers; n++) {
        const Layer *l = g->layer + n;
        const int64_t D = l->out, first = view * B;
        const float *x = (n ? g->layer[n - 1].result : g->x) + first * l->in;
        float *turned = memory((size_t)(l->in * D) * sizeof(float)), *y = l->result + first * D, *h = l->norm ? l->normed + first * D : y;
        transpose(l->weight, l->in, D, l->in, turned, D);
        matmul(B, D, l->in, x, l->in, turned, D, h, D, l->bias ? BIAS : SET, l->bias);
        free(turned);
        float *moments = l->moments + view * 2 * D;
        if (l->norm) norm_columns(h, B, D, l->epsilon, moments, moments + D);
        for (int64_t i = 0; i < B * D; i += W) {
            vf z = load(h + i);
            if (l->scale) z = z * load(l->scale + i % D) + load(l->shift + i % D);
            if (l->relu) z = (vf)((vi)z & (z > 0.0f));
            store(y + i, z);
        }
    }
}

static int64_t n_gradients(const Layer *l) { return l->out * (l->in + (l->bias != 0) + 2 * (l->scale != 0)); }

static void view_backward(const Head *g, int64_t view, float *to) {
    const int64_t B = g->B;
    int64_t widest = 0;
    for (int64_t n = 0; n < g->layers; n++) {
        if (g->layer[n].out > widest) widest = g->layer[n].out;
        to += n_gradients(g->layer + n);
    }
    float *d = memory((size_t)(2 * B * widest) * sizeof(float)), *other = d + B * widest, *both = d;
    const int64_t last = g->layer[g->layers - 1].out;
    memcpy(d, g->d_out + view * B * last, (size_t)(B * last) * sizeof(float));
    for (int64_t n = g->layers - 1; n >= 0; n--) {
        const Layer *l = g->layer + n;
        const int64_t D = l->out, first = view * B;
        const float *x = (n ? g->layer[n - 1].result : g->x) + first * l->in, *y = l->result + first * D;
        to -= n_gradients(l);
        float *d_bias = to + D * l->in, *d_scale = l->bias ? d_bias + D : d_bias, *d_x = n ? other : g->d_x + first * l->in;
        if (l->relu)
            for (int64_t i = 0; i < B * D; i += W) store(d + i, (vf)((vi)load(d + i) & (load(y + i) > 0.0f)));
        if (l->norm) norm_columns_back(l, l->normed + first * D, l->moments + (view * 2 + 1) * D, B, d, d_scale, d_scale + D);
        if (l->bias)
            for (int64_t i = 0; i < D; i += W) store(d_bias + i, sum_down(d, 0, B, D, i));
        matmul_t(D, l->in, B, d, D, x, l->in, to, l->in, SET);
        matmul(B, l->in, D, d, D, l->weight, l->in, d_x, l->in, SET, 0);
        other = d;
        d = d_x;
    }
    free(both);
}

static float product(const float *x, const float *y, int64_t D) {
    vf total = {0};
    for (int64_t d = 0; d < D; d += W) total += load(x + d) * load(y + d);
    return sum(total);
}

// Of a row as torch.nn.functional.normalize takes it
static float length(const float *x, int64_t D) { return fmaxf(sqrtf(product(x, x, D)), 1e-12f); }

// A row's target is that of the same user's other view (CLUE eq. 4 to 7).
static const float *target_of(const Head *g, int64_t row) {
    return g->target + (row + g->B) % (g->views * g->B) * g->layer[g->layers - 1].out;
}

static void compare(const Head *g) {
    const Layer *l = g->layer + g->layers - 1;
    double total = 0;
    for (int64_t i = 0; i < g->views * g->B; i++) {
        const float *x = l->result + i * l->out, *y = target_of(g, i);
        total += product(x, y, l->out) / (length(x, l->out) * length(y, l->out));
    }
    *g->loss = (float)(-total / (double)(g->views * g->B));
}

static void compare_back(const Head *g, float *d) {
    const Layer *l = g->layer + g->layers - 1;
    const int64_t D = l->out;
    for (int64_t i = 0; i < g->views * g->B; i++) {
        const float *x = l->result + i * D, *y = target_of(g, i), a = 1.0f / length(x, D), b = 1.0f / length(y, D);
        const float cosine = product(x, y, D) * a * b, scale = -*g->loss * a / (float)(g->views * g->B);
        for (int64_t j = 0; j < D; j += W) store(d + i * D + j, (load(y + j) * b - load(x + j) * (cosine * a)) * scale);
    }
}

#define WORTH 64 // rows of a view from which a second thread is

void userclue_head_forward(const Head *g) {
#pragma omp parallel for schedule(static) num_threads(g->threads) if (g->threads > 1 && g->views > 1 && g->B >= WORTH)
    for (int64_t view = 0; view < g->views; view++) view_forward(g, view);
    for (int64_t n = 0; n < g->layers; n++) {
        const Layer *l = g->layer + n;
        if (!l->norm) continue;
        *l->seen += g->views;
        for (int64_t view = 0; view < g->views; view++)
            for (int64_t d = 0; d < l->out; d++) {
                const float *moments = l->moments + view * 2 * l->out;
                l->mean[d] += l->momentum * (moments[d] - l->mean[d]);
                l->variance[d] += l->momentum * (moments[l->out + d] * (float)g->B / (float)(g->B - 1) - l->variance[d]);
            }
    }
    if (g->target) compare(g);
}

void userclue_head_backward(const Head *given) {
    Head own = *given, *g = &own;
    float *d_out = 0;
    if (g->target) {
        own.d_out = d_out = memory((size_t)(g->views * g->B * g->layer[g->layers - 1].out) * sizeof(float));
        compare_back(g, d_out);
    }
    int64_t size = 0;
    for (int64_t n = 0; n < g->layers; n++) size += n_gradients(g->layer + n);
    float *sums = memory((size_t)(g->views * size) * sizeof(float));
#pragma omp parallel for schedule(static) num_threads(g->threads) if (g->threads > 1 && g->views > 1 && g->B >= WORTH)
    for (int64_t view = 0; view < g->views; view++) view_backward(g, view, sums + view * size);
    memcpy(g->d_weights, sums, (size_t)size * sizeof(float));
    for (int64_t view = 1; view < g->views; view++)
        for (int64_t i = 0; i < size; i++) g->d_weights[i] += sums[view * size + i];
    free(sums);
    free(d_out);
}
