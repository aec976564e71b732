/* Product of fp32 rows with the frozen weights of a base model, on any processor.
 *
 * Each output is one chain of multiply-adds in the order of k, whatever the number of rows is. So a row's result does
 * not depend on the rows computed with it, and no two rows need to be padded to a block. */
#include "packing.h"
#include <stdlib.h>

#ifndef BF16
enum {
#if VECTOR_BITS == 512
    ROWS = 8,   /* rows whose sums stay in registers */
    BLOCKS = 2, /* blocks of COLUMNS columns computed together */
#elif VECTOR_BITS == 256
    ROWS = 6,
    BLOCKS = 1,
#else
    ROWS = 2,
    BLOCKS = 1,
#endif
    VECTORS = COLUMNS / VECTOR, /* of a row of a block */
    CACHED = 1 << 16,           /* elements of x that are read for all columns before the next */
};

/* A frozen weight (out, in), packed in blocks of COLUMNS columns. Numbers that are bfloat16 are kept as such, (in / 2,
 * COLUMNS, 2) in each block, padded to pairs; others as floats, (in, COLUMNS). The products are the same. */
struct weight {
    const void *blocks;
    int64_t in, out;
    int is_bf16; /* 1 or 0 */
};

/* y (rows, out) = x (rows, in) times `blocks` (at most BLOCKS) blocks of columns from `column` on, for `rows` (at most ROWS)
 * rows; bias may be NULL. `packed`: the weights of these columns, bf16 or floats, of which a block has `block` elements. */
static inline __attribute__((always_inline)) void block_product(int rows, int blocks, int is_bf16, const float *x,
                                                                const struct weight *w, int64_t column,
                                                                const void *packed, int64_t block, const float *bias,
                                                                float *y) {
    int64_t in = w->in;
    const uint16_t *halves[BLOCKS];
    const float *floats[BLOCKS];
    vector sums[ROWS][BLOCKS][VECTORS];
    for (int b = 0; b < blocks; b++) {
        halves[b] = (const uint16_t *)packed + b * block;
        floats[b] = (const float *)packed + b * block;
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                sums[r][b][v] = (vector){0};
    }
#define ADD(k, part)                                                                                                   \
    {                                                                                                                  \
        vector weights[BLOCKS][VECTORS];                                                                               \
        for (int b = 0; b < blocks; b++)                                                                               \
            for (int v = 0; v < VECTORS; v++)                                                                          \
                weights[b][v] = is_bf16 ? load_part(halves[b] + (k) * COLUMNS + 2 * v * VECTOR, part)                  \
                                        : load_floats(floats[b] + ((k) + (part)) * COLUMNS + v * VECTOR);              \
        for (int r = 0; r < rows; r++) {                                                                               \
            vector factor = broadcast(x[r * in + (k) + (part)]);                                                       \
            for (int b = 0; b < blocks; b++)                                                                           \
                for (int v = 0; v < VECTORS; v++)                                                                      \
                    sums[r][b][v] = multiply_add_vectors(factor, weights[b][v], sums[r][b][v]);                        \
        }                                                                                                              \
    }
    int64_t k = 0;
    for (; k + 2 <= in; k += 2) {
        ADD(k, 0)
        ADD(k, 1)
    }
    if (k < in)
        ADD(k, 0)
#undef ADD
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) {
            float result[COLUMNS];
            for (int v = 0; v < VECTORS; v++)
                store_floats(result + v * VECTOR, sums[r][b][v]);
            int64_t first = column + b * COLUMNS;
            store(y + r * w->out + first, result, w->out - first < COLUMNS ? (int)(w->out - first) : COLUMNS,
                  bias == NULL ? NULL : bias + first);
        }
}

/* Elements of a block of columns: those of bf16 weights are padded to pairs. */
static inline int64_t block_elements(const struct weight *w) {
    return (w->is_bf16 ? (w->in + 1) / 2 * 2 : w->in) * COLUMNS;
}

/* The same, with sizes that are not compile-time constants; `converted`: the weights as floats, or NULL. */
static void product(int rows, int blocks, const float *x, const struct weight *w, int64_t column,
                    const float *converted, const float *bias, float *y) {
    int64_t block = block_elements(w), size = w->is_bf16 ? sizeof(uint16_t) : sizeof(float);
    const void *packed = converted == NULL ? (const char *)w->blocks + column / COLUMNS * block * size
                                           : (const char *)converted;
#define CASE_OF(count, is_bf16)                                                                                        \
    case 2 * count + is_bf16:                                                                                          \
        if (blocks == BLOCKS)                                                                                          \
            block_product(count, BLOCKS, is_bf16, x, w, column, packed, block, bias, y);                               \
        else                                                                                                           \
            block_product(count, 1, is_bf16, x, w, column, packed, block, bias, y);                                    \
        break;
#define CASE(count) CASE_OF(count, 0) CASE_OF(count, 1)
    switch (2 * rows + (w->is_bf16 && converted == NULL)) {
        CASE(1)
        CASE(2)
#if VECTOR_BITS >= 256
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
#endif
#if VECTOR_BITS == 512
        CASE(7)
        CASE(8)
#endif
    }
#undef CASE
#undef CASE_OF
}

/* The bf16 weights of `blocks` blocks of columns as floats. */
static void to_floats(const struct weight *w, int64_t column, int blocks, float *out) {
    /* Blocks follow each other in both layouts, so that the rows of all are one sequence. */
    const uint16_t *halves = (const uint16_t *)w->blocks + column / COLUMNS * block_elements(w);
    for (int64_t k = 0; k < blocks * block_elements(w) / COLUMNS; k++)
        for (int v = 0; v < VECTORS; v++)
            store_floats(out + k * COLUMNS + v * VECTOR,
                         load_part(halves + k / 2 * 2 * COLUMNS + 2 * v * VECTOR, k % 2));
}

/* y (rows, out) = x (rows, in) W' + bias (may be NULL). */
void linear_fp32(const float *x, const struct weight *w, const float *bias, float *y, int64_t rows) {
    int64_t chunk = CACHED / w->in / ROWS * ROWS, panel = BLOCKS * COLUMNS;
    chunk = chunk < ROWS ? ROWS : chunk;
    int64_t chunks = (rows + chunk - 1) / chunk, panels = (w->out + panel - 1) / panel;
#pragma omp parallel
    {
        /* Floats of a panel, for bf16 weights that several groups of rows read; without memory each converts them. */
        float *floats = w->is_bf16 && rows > 2 * ROWS ? malloc(BLOCKS * block_elements(w) * sizeof *floats) : NULL;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < chunks * panels; task++) {
            int64_t first = task / panels * chunk, column = task % panels * panel;
            int64_t end = first + chunk < rows ? first + chunk : rows;
            int blocks = w->out - column > COLUMNS ? BLOCKS : 1;
            if (floats != NULL)
                to_floats(w, column, blocks, floats);
            for (int64_t row = first; row < end; row += ROWS)
                product(end - row < ROWS ? (int)(end - row) : ROWS, blocks, x + row * w->in, w, column, floats, bias,
                        y + row * w->out);
        }
        free(floats);
    }
}
#endif
