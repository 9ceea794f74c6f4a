// How many items score at least as much as an instance's target: scores are formed a few at a time, compared and forgotten. Every score,
// the target's and those of a history too, is formed by the one function `scores`, so that equal items tie to the bit.

#include "vector.h"
#include "matmul.h"
#include "arena.h"

typedef struct {
    int64_t n, V, D, first;           // instances, rows of the table, width, the first row that is an item
    int32_t threads;
    const float *vectors;             // [n, D]
    const float *items, *bias;        // [V, D]; [V] or null
    const int64_t *targets;           // [n]
    const int32_t *seen;              // histories one after another, and where each begins, [n + 1]; or both null
    const int64_t *offsets;
    int64_t *ahead, *ahead_seen;      // [n], among all items, the target too; [n], how many of them the history holds, or null
} Ranking;

#define ROWS 6            // instances at a time
#define COLUMNS (PANEL * W) // items at a time
#define AT_ONCE (42 * ROWS) // instances whose vectors stay in the nearer caches
#define PANELS 64         // so many turned over at a time

// [ROWS, D] and [D, COLUMNS] → [ROWS, COLUMNS]
__attribute__((noinline)) static void scores(int64_t D, const float *vectors, const float *panel, const float *bias, float *out) {
    tile(ROWS, PANEL, D, vectors, D, 1, panel, COLUMNS, out, COLUMNS, BIAS, bias);
}

// Items in any order, as a panel: rows [COLUMNS, D] are copied first, their places beyond `taken` hold what was there
typedef struct { float *rows, *panel, *bias, *out; int64_t taken; } Picked;

static Picked picked(int64_t D) {
    float *all = memory((size_t)(2 * COLUMNS * D + COLUMNS + ROWS * COLUMNS) * sizeof(float));
    memset(all, 0, (size_t)(2 * COLUMNS * D + COLUMNS) * sizeof(float));
    return (Picked){all, all + COLUMNS * D, all + 2 * COLUMNS * D, all + 2 * COLUMNS * D + COLUMNS, 0};
}

static void pick(const Ranking *g, Picked *to, int64_t item) {
    memcpy(to->rows + to->taken * g->D, g->items + item * g->D, (size_t)g->D * sizeof(float));
    to->bias[to->taken++] = g->bias ? g->bias[item] : 0.0f;
}

static const float *score_picked(const Ranking *g, Picked *of, const float *vectors) {
    transpose(of->rows, g->D, COLUMNS, g->D, of->panel, COLUMNS);
    scores(g->D, vectors, of->panel, of->bias, of->out);
    of->taken = 0;
    return of->out;
}

// The targets' scores of up to ROWS instances from i on, and what their histories hold that is not below them, each item once
static void look_back(const Ranking *g, int64_t i, const float *vectors, float *own, Picked some, int64_t *met) {
    const int64_t rows = g->n - i < ROWS ? g->n - i : ROWS;
    for (int64_t r = 0; r < rows; r++) pick(g, &some, g->targets[i + r]);
    const float *out = score_picked(g, &some, vectors);
    for (int64_t r = 0; r < rows; r++) own[i + r] = out[r * COLUMNS + r];
    for (int64_t r = 0; g->ahead_seen && r < rows; r++) {
        int64_t found = 0;
        for (int64_t k = g->offsets[i + r]; k < g->offsets[i + r + 1]; k++) {
            const int64_t item = g->seen[k];
            if (item >= g->first && item < g->V && met[item] != i + r + 1) {
                met[item] = i + r + 1;
                pick(g, &some, item);
            }
            if (some.taken && (some.taken == COLUMNS || k + 1 == g->offsets[i + r + 1])) {
                const int64_t taken = some.taken;
                out = score_picked(g, &some, vectors);
                for (int64_t c = 0; c < taken; c++) found += out[r * COLUMNS + c] >= own[i + r];
            }
        }
        g->ahead_seen[i + r] = found;
    }
}

// Items from `begin` on as panels [D, COLUMNS]; beyond the last one nothing scores anything
static void turn_over(const Ranking *g, int64_t begin, int64_t items, float *panels, float *bias) {
    const int64_t D = g->D;
    for (int64_t c = 0; c < items; c += COLUMNS) {
        const int64_t columns = items - c < COLUMNS ? items - c : COLUMNS;
        float *panel = panels + c * D;
        if (columns < COLUMNS) memset(panel, 0, (size_t)(D * COLUMNS) * sizeof(float));
        transpose(g->items + (begin + c) * D, D, columns, D, panel, COLUMNS);
        for (int64_t k = 0; k < COLUMNS; k++) bias[c + k] = k >= columns ? -INFINITY : g->bias ? g->bias[begin + c + k] : 0.0f;
    }
}

static void count(const Ranking *g, int64_t i, int64_t end, const float *tail, const float *own, int64_t items, const float *panels,
                  const float *bias) {
    const int64_t D = g->D;
    vi ahead[AT_ONCE] = {{0}};
    float out[ROWS * COLUMNS];
    for (int64_t c = 0; c < items; c += COLUMNS)
        for (int64_t j = i; j < end; j += ROWS) {
            scores(D, j + ROWS <= g->n ? g->vectors + j * D : tail, panels + c * D, bias + c, out);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const vf least = splat(own[j + r]);
#pragma GCC unroll 4
                for (int v = 0; v < PANEL; v++) ahead[j + r - i] -= load(out + r * COLUMNS + v * W) >= least;
            }
        }
    for (int64_t j = i; j < end; j++)
        for (int lane = 0; lane < W; lane++) g->ahead[j] += ahead[j - i][lane];
}

void userclue_ranking(const Ranking *g) {
    const int64_t n = g->n, D = g->D, groups = (n + ROWS - 1) / ROWS, most = PANELS * COLUMNS;
    float *own = memory((size_t)(groups * ROWS) * sizeof(float)), *tail = memory((size_t)(ROWS * D) * sizeof(float));
    float *panels = memory((size_t)(most * D) * sizeof(float)), *bias = memory((size_t)most * sizeof(float));
    memset(tail, 0, (size_t)(ROWS * D) * sizeof(float));
    memcpy(tail, g->vectors + n / ROWS * ROWS * D, (size_t)(n % ROWS * D) * sizeof(float));
    memset(own, 0, (size_t)(groups * ROWS) * sizeof(float));
    memset(g->ahead, 0, (size_t)n * sizeof(int64_t));
#pragma omp parallel num_threads(g->threads) if (g->threads > 1 && n > AT_ONCE)
    {
        Picked some = picked(D);
        int64_t *met = g->ahead_seen ? memory((size_t)g->V * sizeof(int64_t)) : 0;
        if (met) memset(met, 0, (size_t)g->V * sizeof(int64_t));
#pragma omp for schedule(dynamic, 16)
        for (int64_t i = 0; i < n; i += ROWS) look_back(g, i, i + ROWS <= n ? g->vectors + i * D : tail, own, some, met);
        free(met);
        free(some.rows);
        for (int64_t begin = g->first; begin < g->V; begin += most) {
            const int64_t items = g->V - begin < most ? g->V - begin : most;
#pragma omp single
            turn_over(g, begin, items, panels, bias);
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < n; i += AT_ONCE) count(g, i, n - i < AT_ONCE ? n : i + AT_ONCE, tail, own, items, panels, bias);
        }
    }
    free(bias);
    free(panels);
    free(tail);
    free(own);
}
