/* Products of few rows with the frozen weights of a base, where the processor has matrix registers (AMX). */
#include "blocks.h"

#ifdef TILES
enum {
    WIDE = 2 * COLUMNS, /* columns of weights that lie side by side */
    ROWS = 2 * TOGETHER,
};

/* Registers 0 to 3 for sums, 4 and 5 for x, 6 and 7 for weights; `first` and `second` (may be 0) rows of x. */
static void shape_product(int first, int second) {
    struct shape shape = {.palette = 1};
    for (int t = 0; t < 2; t++) {
        shape_tile(&shape, t, first, COLUMNS * sizeof(float));
        shape_tile(&shape, 2 + t, second, COLUMNS * sizeof(float));
        shape_tile(&shape, 4 + t, t ? second : first, DEPTH * sizeof(value));
        shape_tile(&shape, 6 + t, DEPTH / PAIR, COLUMNS * sizeof(float));
    }
    _tile_loadconfig(&shape);
}

/* found[half][block][r] = rows of x times WIDE columns of w, in the shape that was told. */
static void product(const value *x, int64_t in, int first, int second, const value *w,
                    float (*found)[2][TOGETHER][COLUMNS]) {
    const int sums = COLUMNS * sizeof(float), apart = in * sizeof(value), wide = WIDE * sizeof(float);
    const value *below = x + first * in;
    _tile_zero(0);
    _tile_zero(1);
    if (second) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < in; k += DEPTH, w += DEPTH * WIDE) {
        fetch(w + AHEAD, DEPTH * WIDE);
        _tile_loadd(4, x + k, apart);
        _tile_loadd(6, w, wide);
        _tile_loadd(7, w + COLUMNS * PAIR, wide);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (second) {
            _tile_loadd(5, below + k, apart);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, found[0][0], sums);
    _tile_stored(1, found[0][1], sums);
    if (second) {
        _tile_stored(2, found[1][0], sums);
        _tile_stored(3, found[1][1], sums);
    }
}

/* y (rows, out) = x (rows, in) W' + bias (may be NULL), rounded once. W (out / WIDE, in / PAIR, WIDE, PAIR); `in` is a
 * multiple of DEPTH, `out` of WIDE. */
void linear_tiles(const value *x, const value *w, const value *bias, value *y, int64_t rows, int64_t in, int64_t out) {
#pragma omp parallel
    {
        float found[2][2][TOGETHER][COLUMNS];
        int shape[2] = {0, 0};
#pragma omp for schedule(static)
        for (int64_t column = 0; column < out; column += WIDE)
            for (int64_t row = 0; row < rows; row += ROWS) {
                int count = rows - row < ROWS ? rows - row : ROWS;
                int first = count < TOGETHER ? count : TOGETHER, second = count - first;
                if (shape[0] != first || shape[1] != second)
                    shape_product(shape[0] = first, shape[1] = second);
                product(x + row * in, in, first, second, w + column * in, found);
                for (int r = 0; r < count; r++)
                    for (int b = 0; b < WIDE; b += COLUMNS)
                        put(y + (row + r) * out + column + b, found[r / TOGETHER][b / COLUMNS][r % TOGETHER], COLUMNS,
                            bias == NULL ? NULL : bias + column + b);
            }
        if (shape[0])
            _tile_release();
    }
}
#endif
