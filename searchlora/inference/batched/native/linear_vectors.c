/* Products of few rows with the frozen weights of a base, where the processor multiplies bfloat16 in vectors. */
#include "lora.h"
#include <stdlib.h>

#ifdef VECTORS
enum {
    PANEL = 4 * COLUMNS, /* columns of weights that lie side by side */
    WIDE = 2 * COLUMNS,  /* of them are computed together */
    ROWS = 8,
    STEPS = 4, /* pairs of numbers between two looks at what is read next */
};

/* What adapters add: h times B, of each row its own. */
struct added {
    const value *h;        /* (rows, inner), from the first of the layer's */
    const value *const *b; /* (rows) */
    int64_t inner, rank;   /* a rank of 0: nothing */
    int64_t offset;        /* of the columns that are computed, in each B */
};

/* y (rows, out) = x (rows, in) w + bias (may be NULL) + what adapters add for `rows` (at most ROWS) rows and WIDE columns.
 * Of the weights at `next`, which lie as those at w, `ask` pairs are asked for in every STEPS. */
static inline __attribute__((always_inline)) void product_of(int rows, const value *x, int64_t in, const value *w,
                                                             const value *bias, value *y, int64_t out,
                                                             const value *next, int ask, const struct added *added) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < in; k += STEPS * PAIR) {
        for (int i = 0; i < ask; i++, next += PANEL * PAIR)
            fetch(next, WIDE * PAIR);
        for (int i = 0; i < STEPS; i++, w += PANEL * PAIR) {
            __m512bh first = (__m512bh)_mm512_loadu_si512(w), second = (__m512bh)_mm512_loadu_si512(w + WIDE);
            for (int r = 0; r < rows; r++) {
                __m512bh both = pair_of(x + r * in + k + i * PAIR, PAIR);
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], first, both);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], second, both);
            }
        }
    }
    const value *b[ROWS];
    int64_t rank = added->rank;
    for (int r = 0; r < rows && rank; r++)
        b[r] = added->b[r] + added->offset;
    for (int64_t k = 0; k < rank; k += PAIR)
        for (int r = 0; r < rows; r++) {
            __m512bh both = pair_of(added->h + r * added->inner + k, PAIR);
            __m512bh first = (__m512bh)_mm512_loadu_si512(b[r] + k * COLUMNS);
            __m512bh second = (__m512bh)_mm512_loadu_si512(b[r] + (rank + k) * COLUMNS);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], first, both);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], second, both);
        }
    for (int r = 0; r < rows; r++)
        for (int block = 0; block < 2; block++)
            put_all(y + r * out + block * COLUMNS, sums[r][block], bias == NULL ? NULL : bias + block * COLUMNS);
}

/* The same for a number of rows that the compiler does not know. */
static void product(int rows, const value *x, int64_t in, const value *w, const value *bias, value *y, int64_t out,
                    const value *next, int ask, const struct added *added) {
    switch (rows) {
#define CASE(count)                                                                                                    \
    case count:                                                                                                        \
        product_of(count, x, in, w, bias, y, out, next, ask, added);                                                   \
        break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
#undef CASE
    }
}

/* Of each row its B: that of the slot of the bare base, the first one, where it wears nothing. */
static void find_b(const struct layers *group, const struct items *worn, int64_t rows, const value **b) {
    int64_t size = blocks_of_b(group) * size_of_block(group->rank);
    for (int64_t row = 0; row < rows; row++)
        b[row] = group->b;
    for (int64_t item = 0; item < worn->items; item++)
        for (int64_t i = worn->firsts[item]; i < worn->firsts[item] + worn->counts[item]; i++)
            b[worn->rows[i]] = group->b + worn->slots[item] * size;
}

static void ask_for_b(const struct added *added, int rows) {
    for (int r = 0; r < rows && added->rank; r++)
        if (r == 0 || added->b[r] != added->b[r - 1])
            fetch(added->b[r] + added->offset, WIDE * added->rank);
}

/* The weights of WIDE columns. */
static const value *half(const value *w, int64_t in, int64_t number) {
    return w + number / 2 * in * PANEL + number % 2 * WIDE * PAIR;
}

/* y (rows, out) = x (rows, in) W' + bias (may be NULL) + what adapters add (see `lora`; none where `group` is NULL),
 * rounded once.
 *
 * W (out / PANEL, in / PAIR, PANEL, PAIR); `in` is a multiple of STEPS * PAIR, `out` of PANEL, the `ends` of WIDE. x_worn:
 * the rows of x of all items. Gives 1 where there is no memory. */
int linear_vectors(const value *x, const value *w, const value *bias, value *y, int64_t rows, int64_t in, int64_t out,
                   const value *x_worn, const struct layers *group, const struct items *worn) {
    int64_t groups = (rows + ROWS - 1) / ROWS, rank = group == NULL ? 0 : group->rank;
    int64_t inner = group == NULL ? 0 : blocks_of_a(group) * COLUMNS;
    int ask = groups < STEPS ? (STEPS + groups - 1) / groups : 1;
    const value **b = NULL;
    value *h = NULL;
    if (group != NULL) {
        b = malloc(rows * sizeof *b);
        h = calloc(rows * inner, sizeof *h); /* those of the bare base stay zero */
        if (b == NULL || h == NULL) {
            free(b);
            free(h);
            return 1;
        }
        find_b(group, worn, rows, b);
    }
#pragma omp parallel
    {
        if (group != NULL)
            times_a(x_worn, group, worn, worn->rows, h, 0);
#pragma omp for schedule(static)
        for (int64_t number = 0; number < out / WIDE; number++) {
            const value *now = half(w, in, number), *next = half(w, in, number + 1);
            int64_t layer = 0, column = number * WIDE;
            while (group != NULL && column >= group->ends[layer])
                layer++;
            for (int64_t row = 0; row < rows; row += ROWS) {
                int count = rows - row < ROWS ? rows - row : ROWS;
                struct added added = {h + row * inner + layer * rank, b + row, inner, rank, (column + WIDE) * rank};
                ask_for_b(&added, count); /* of the columns after these */
                added.offset = column * rank;
                product(count, x + row * in, in, now, bias == NULL ? NULL : bias + column, y + row * out + column, out,
                        next + row / ROWS * ask * in / STEPS * PANEL, ask, &added);
            }
        }
    }
    free(b);
    free(h);
    return 0;
}
#endif
