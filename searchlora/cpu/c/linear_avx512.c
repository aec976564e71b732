/* Small-batch bf16 GEMM with the frozen weights of a base model, for AVX512-BF16; adds the rows' LoRA in the same pass. */
#include "lora.h"
#include <stdlib.h>

#ifdef AVX512
enum {
    PANEL = 4 * COLUMNS, /* adjacent columns of the packed weight */
    HALF = 2 * COLUMNS,  /* columns computed together */
    ROWS = 8,
    STEPS = 4, /* pairs between two rounds of prefetching */
};

/* h B' of the rows of a product. */
struct lora_term {
    const element *h;              /* (rows, inner) */
    const element *const *b;       /* (rows) */
    const int64_t *ranks;          /* (rows); rank 0: no term */
    int64_t inner, layer, column;  /* the layer and the first of the computed columns */
};

/* y (rows, out) = x (rows, in) w + bias (may be NULL) + LoRA, for `rows` (at most ROWS) rows and HALF columns.
 * `ahead` pairs of the weights at `next`, in the layout of w, are prefetched in every STEPS. */
static inline __attribute__((always_inline)) void vector_product(int rows, const element *x, int64_t in,
                                                                 const element *w, const element *bias, element *y,
                                                                 int64_t out, const element *next, int ahead,
                                                                 const struct lora_term *lora) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < in; k += STEPS * PAIR) {
        for (int i = 0; i < ahead; i++, next += PANEL * PAIR)
            prefetch(next, HALF * PAIR);
        for (int i = 0; i < STEPS; i++, w += PANEL * PAIR) {
            __m512bh first = (__m512bh)_mm512_loadu_si512(w), second = (__m512bh)_mm512_loadu_si512(w + HALF);
            for (int r = 0; r < rows; r++) {
                __m512bh pair = broadcast_pair(x + r * in + k + i * PAIR, PAIR);
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], first, pair);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], second, pair);
            }
        }
    }
    const element *b[ROWS], *h[ROWS];
    int64_t highest = 0;
    for (int r = 0; r < rows && lora->ranks != NULL; r++) {
        int64_t rank = lora->ranks[r];
        b[r] = rank ? lora->b[r] + lora->column * rank : NULL;
        h[r] = lora->h + r * lora->inner + lora->layer * rank;
        highest = rank > highest ? rank : highest;
    }
    for (int64_t k = 0; k < highest; k += PAIR)
        for (int r = 0; r < rows; r++) {
            int64_t rank = lora->ranks[r];
            if (k >= rank)
                continue;
            __m512bh pair = broadcast_pair(h[r] + k, PAIR);
            __m512bh first = (__m512bh)_mm512_loadu_si512(b[r] + k * COLUMNS);
            __m512bh second = (__m512bh)_mm512_loadu_si512(b[r] + (rank + k) * COLUMNS);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], first, pair);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], second, pair);
        }
    for (int r = 0; r < rows; r++)
        for (int block = 0; block < 2; block++)
            store_block(y + r * out + block * COLUMNS, sums[r][block], bias == NULL ? NULL : bias + block * COLUMNS);
}

/* The same, with a number of rows that is not a compile-time constant. */
static void product(int rows, const element *x, int64_t in, const element *w, const element *bias, element *y,
                    int64_t out, const element *next, int ahead, const struct lora_term *lora) {
    switch (rows) {
#define CASE(count)                                                                                                    \
    case count:                                                                                                        \
        vector_product(count, x, in, w, bias, y, out, next, ahead, lora);                                              \
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

/* B and rank of each row; rank 0 for rows without an adapter. */
static void find_b(const struct lora_tables *tables, const struct lora_items *items, int64_t rows, const element **b,
                   int64_t *ranks) {
    memset(ranks, 0, rows * sizeof *ranks);
    for (int64_t item = 0; item < items->items; item++)
        for (int64_t i = items->firsts[item]; i < items->firsts[item] + items->counts[item]; i++) {
            b[items->rows[i]] = tables->b[items->slots[item]];
            ranks[items->rows[i]] = tables->ranks[items->slots[item]];
        }
}

/* Prefetch B of the columns after the computed ones. */
static void prefetch_b(const struct lora_term *lora, int rows) {
    for (int r = 0; r < rows && lora->ranks != NULL; r++)
        if (lora->ranks[r] && (r == 0 || lora->b[r] != lora->b[r - 1]))
            prefetch(lora->b[r] + (lora->column + HALF) * lora->ranks[r], HALF * lora->ranks[r]);
}

/* The weights of HALF columns. */
static const element *half_panel(const element *w, int64_t in, int64_t index) {
    return w + index / 2 * in * PANEL + index % 2 * HALF * PAIR;
}

/* y (rows, out) = x (rows, in) W' + bias (may be NULL) + LoRA of each row (none if `tables` is NULL), rounded once.
 *
 * W is packed as (out / PANEL, in / PAIR, PANEL, PAIR); `in` is a multiple of STEPS * PAIR, `out` of PANEL, the `ends` of
 * HALF. x_lora: the rows of x of all items. Returns 1 if memory runs out. */
int linear_avx512(const element *x, const element *w, const element *bias, element *y, int64_t rows, int64_t in,
                  int64_t out, const element *x_lora, const struct lora_tables *tables,
                  const struct lora_items *items) {
    int64_t groups = (rows + ROWS - 1) / ROWS, inner = tables == NULL ? 0 : inner_size(tables, items);
    int ahead = groups < STEPS ? (STEPS + groups - 1) / groups : 1;
    const element **b = NULL;
    int64_t *ranks = NULL;
    element *h = NULL;
    if (inner) {
        b = malloc(rows * sizeof *b);
        ranks = malloc(rows * sizeof *ranks);
        h = malloc(rows * inner * sizeof *h);
        if (b == NULL || ranks == NULL || h == NULL) {
            free(b);
            free(ranks);
            free(h);
            return 1;
        }
        find_b(tables, items, rows, b, ranks);
    }
#pragma omp parallel
    {
        if (inner)
            times_a(x_lora, tables, items, items->rows, h, inner, 0, 0);
#pragma omp for schedule(static)
        for (int64_t index = 0; index < out / HALF; index++) {
            const element *now = half_panel(w, in, index), *next = half_panel(w, in, index + 1);
            int64_t layer = 0, column = index * HALF;
            while (inner && column >= tables->ends[layer])
                layer++;
            for (int64_t row = 0; row < rows; row += ROWS) {
                int count = rows - row < ROWS ? rows - row : ROWS;
                struct lora_term lora = {h + row * inner, b + row, inner ? ranks + row : NULL, inner, layer, column};
                prefetch_b(&lora, count);
                product(count, x + row * in, in, now, bias == NULL ? NULL : bias + column, y + row * out + column, out,
                        next + row / ROWS * ahead * in / STEPS * PANEL, ahead, &lora);
            }
        }
    }
    free(b);
    free(ranks);
    free(h);
    return 0;
}
#endif
