// What a block works on, one of the stack of a call, and the memory it works in. Rows are tokens, or sequences where only the last token is computed (R).

typedef struct {
    int64_t N, B, D, H;               // tokens, sequences, width, heads
    int64_t width;                    // of a row of `powers`, at least the longest sequence
    int32_t post, causal, last;       // norm after each sub-layer; keys up to the query only; the last token of each sequence only
    uint32_t dropped;                 // of 2^16
    float keep_scale;
    int32_t threads;
    uint64_t seed;
    const int64_t *offsets;           // [B + 1]
    const float *qkv_w, *qkv_b, *out_w, *out_b, *ff1_w, *ff1_b, *ff2_w, *ff2_b, *norm1_w, *norm1_b, *norm2_w, *norm2_b;
    const float *final_w, *final_b;   // of a norm behind the last block, [D] each, or null
    const float *x;                   // [N, D], of a stack's first block; the others read what the one before them wrote
    const float *items, *places, *bias; // of the first block, what first.c makes, or null; never of one that is `last`
    const int64_t *rows, *positions;  // [N], where each token's stand in the first two
    float *out;                       // [R, D]; null in all but the last block where nothing is kept
    // Kept for the backward pass, or all null:
    float *qkv;                       // [N, 3D]; last: the queries [B, D]
    float *weights;                   // a sequence's largest scores and ones over the sums, [2, H, L]; last: the weights, [N, heads padded]
    float *powers;                    // a sequence's e^(score - the largest), [H, L keys, width], the sign set where dropped; or null: formed again
    float *values;                    // last: h weighted, [B, H, D]
    float *mixed, *sum1, *hidden, *sum2; // [R, D] each; sum2 post-norm only
    float *stats1, *stats2;           // mean and one over the deviation, [N or R, 2] (pre- or post-norm), [R, 2]
    float *result, *final_stats;      // of a last block that a norm follows, [R, D] and [R, 2]
    // Backward:
    const float *d_out;               // [R, D], of the last block
    float *d_x;                       // [N, D], of the first block
    float *d_weights;                 // of the first block: gradients of all blocks' twelve weights, one after another, and of the last norm's
} Job;

enum { ATTENTION, AFTER_ATTENTION, HIDDEN, AFTER_HIDDEN }; // the four places where a block drops

static inline uint64_t stream(const Job *g, int place) { return splitmix(g->seed + 0x9E3779B97F4A7C15ull * (uint64_t)(place + 1)); }

static inline int64_t in_halves(int64_t n) { return (n + HALF - 1) / HALF * HALF; }

static inline Masks masks(const Job *g, uint32_t hash, int64_t counter) { return masks_of(hash, counter, g->dropped, g->keep_scale); }

// Places of the gradients within d_weights, in the order of the weights above.
typedef struct { float *qkv_w, *qkv_b, *out_w, *out_b, *ff1_w, *ff1_b, *ff2_w, *ff2_b, *norm1_w, *norm1_b, *norm2_w, *norm2_b; } Gradients;

static inline int64_t n_weights(int64_t D) { return 6 * D * D + 10 * D; }

static Gradients gradients(float *p, int64_t D) {
    Gradients g;
    g.qkv_w = p, p += 3 * D * D;
    g.qkv_b = p, p += 3 * D;
    g.out_w = p, p += D * D;
    g.out_b = p, p += D;
    g.ff1_w = p, p += D * D;
    g.ff1_b = p, p += D;
    g.ff2_w = p, p += D * D;
    g.ff2_b = p, p += D;
    g.norm1_w = p, p += D;
    g.norm1_b = p, p += D;
    g.norm2_w = p, p += D;
    g.norm2_b = p;
    return g;
}

// A run of whole sequences, enough rows together to make the products worth their while and few enough to stay in cache.
#define CHUNK_ROWS 192
typedef struct { int64_t from, to; } Chunk;

static int64_t chunks_of(const Job *g, Chunk *chunks) {
    int64_t n = 0;
    for (int64_t b = 0; b < g->B; n++) {
        int64_t end = b + 1;
        while (end < g->B && g->offsets[end + 1] - g->offsets[b] <= CHUNK_ROWS) end++;
        chunks[n] = (Chunk){b, end};
        b = end;
    }
    return n;
}

typedef struct { int64_t rows, sequences, longest; } Sizes; // of the largest chunk, and of the longest sequence

static Sizes sizes_of(const Job *g, const Chunk *chunks, int64_t n) {
    Sizes s = {0, 0, 0};
    for (int64_t c = 0; c < n; c++) {
        const int64_t rows = g->offsets[chunks[c].to] - g->offsets[chunks[c].from], sequences = chunks[c].to - chunks[c].from;
        if (rows > s.rows) s.rows = rows;
        if (sequences > s.sequences) s.sequences = sequences;
    }
    for (int64_t b = 0; b < g->B; b++)
        if (g->offsets[b + 1] - g->offsets[b] > s.longest) s.longest = g->offsets[b + 1] - g->offsets[b];
    return s;
}
