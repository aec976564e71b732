/* Small-batch bf16 GEMM with the frozen weights of a base model, for processors with tile registers (AMX). */
#include "packing.h"

#ifdef AMX
enum {
    PANEL = 2 * COLUMNS, /* adjacent columns of the packed weight */
    ROWS = 2 * ROW_TILE,
};

/* Tiles 0 to 3 hold sums, 4 and 5 x, 6 and 7 weights. `first` and `second` (may be 0) are the rows of the two tiles of x. */
static void configure_tiles(int first, int second) {
    struct tile_config config = {.palette = 1};
    for (int t = 0; t < 2; t++) {
        set_tile(&config, t, first, COLUMNS * sizeof(float));
        set_tile(&config, 2 + t, second, COLUMNS * sizeof(float));
        set_tile(&config, 4 + t, t ? second : first, DEPTH * sizeof(element));
        set_tile(&config, 6 + t, DEPTH / PAIR, COLUMNS * sizeof(float));
    }
    _tile_loadconfig(&config);
}

/* sums[half][block][r] = rows of x times PANEL columns of w, with the configured tiles. */
static void tile_product(const element *x, int64_t in, int first, int second, const element *w,
                         float (*sums)[2][ROW_TILE][COLUMNS]) {
    const int sum_stride = COLUMNS * sizeof(float), x_stride = in * sizeof(element), w_stride = PANEL * sizeof(float);
    const element *lower = x + first * in;
    _tile_zero(0);
    _tile_zero(1);
    if (second) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < in; k += DEPTH, w += DEPTH * PANEL) {
        prefetch(w + PREFETCH_DISTANCE, DEPTH * PANEL);
        _tile_loadd(4, x + k, x_stride);
        _tile_loadd(6, w, w_stride);
        _tile_loadd(7, w + COLUMNS * PAIR, w_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (second) {
            _tile_loadd(5, lower + k, x_stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0][0], sum_stride);
    _tile_stored(1, sums[0][1], sum_stride);
    if (second) {
        _tile_stored(2, sums[1][0], sum_stride);
        _tile_stored(3, sums[1][1], sum_stride);
    }
}

/* y (rows, out) = x (rows, in) W' + bias (may be NULL), rounded once. W is packed as (out / PANEL, in / PAIR, PANEL, PAIR);
 * `in` is a multiple of DEPTH, `out` of PANEL. */
void linear_amx(const element *x, const element *w, const element *bias, element *y, int64_t rows, int64_t in,
                int64_t out) {
#pragma omp parallel
    {
        float sums[2][2][ROW_TILE][COLUMNS];
        int configured[2] = {0, 0};
#pragma omp for schedule(static)
        for (int64_t column = 0; column < out; column += PANEL)
            for (int64_t row = 0; row < rows; row += ROWS) {
                int count = rows - row < ROWS ? rows - row : ROWS;
                int first = count < ROW_TILE ? count : ROW_TILE, second = count - first;
                if (configured[0] != first || configured[1] != second)
                    configure_tiles(configured[0] = first, configured[1] = second);
                tile_product(x + row * in, in, first, second, w + column * in, sums);
                for (int r = 0; r < count; r++)
                    for (int b = 0; b < PANEL; b += COLUMNS)
                        store(y + (row + r) * out + column + b, sums[r / ROW_TILE][b / COLUMNS][r % ROW_TILE], COLUMNS,
                              bias == NULL ? NULL : bias + column + b);
            }
        if (configured[0])
            _tile_release();
    }
}
#endif
