// Scores of each row that are at least the row's own, counted in one reading: PyTorch compares, writes what it found, and reads that.

#include <stdint.h>

void userclue_at_least(const float *scores, const float *own, int64_t rows, int64_t columns, int64_t *found, int threads) {
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * columns > 1 << 16)
    for (int64_t row = 0; row < rows; row++) {
        const float *x = scores + row * columns, least = own[row];
        int32_t n = 0;
        for (int64_t column = 0; column < columns; column++) n += x[column] >= least;
        found[row] = n;
    }
}
