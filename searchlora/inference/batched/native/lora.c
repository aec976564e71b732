/* What the adapters of a batch add to linear layers. */
#include "lora.h"
#include <stdlib.h>
#ifdef TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    ROWS = 4,   /* that stay in registers, where there are no tiles */
    BLOCKS = 4, /* of COLUMNS columns that are computed together */
};

#ifndef VECTORS
/* a * b + c, rounded once where the processor can: left to itself, the compiler does so in some loops and not in others,
 * and a row's outcome would depend on how many are computed with it. */
static inline float multiplied(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
#endif

/* found[block][r][j] = sum over k of x[r * apart + k] * w[block][k / PAIR][j][k % PAIR] for `rows` (at most ROWS) rows and
 * `blocks` (1 or 2) blocks of COLUMNS columns. */
static inline __attribute__((always_inline)) void product_of(int rows, int blocks, const value *x, int64_t apart,
                                                             int64_t size, const value *w,
                                                             float (*found)[TOGETHER][COLUMNS]) {
#ifdef VECTORS
    const value *of_block[2] = {w, w + (size + PAIR - 1) / PAIR * PAIR * COLUMNS};
    __m512 even[ROWS][2], odd[ROWS][2]; /* two sums, so that a product need not wait for the one before */
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++)
            even[r][b] = odd[r][b] = _mm512_setzero_ps();
#define ADD(sums, k, count)                                                                                            \
    for (int r = 0; r < rows; r++)                                                                                     \
        for (int b = 0; b < blocks; b++)                                                                               \
            sums[r][b] = _mm512_dpbf16_ps(sums[r][b], (__m512bh)_mm512_loadu_si512(of_block[b] + (k) * COLUMNS),       \
                                          pair_of(x + r * apart + (k), count));
    int64_t k = 0;
    for (; k + 4 <= size; k += 4) {
        for (int b = 0; b < blocks; b++)
            fetch(of_block[b] + k * COLUMNS + AHEAD, 4 * COLUMNS);
        ADD(even, k, 2)
        ADD(odd, k + 2, 2)
    }
    for (; k < size; k += 2)
        ADD(even, k, k + 1 < size ? 2 : 1)
#undef ADD
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++)
            _mm512_storeu_ps(found[b][r], _mm512_add_ps(even[r][b], odd[r][b]));
#else
    for (int b = 0; b < blocks; b++, w += (size + PAIR - 1) / PAIR * PAIR * COLUMNS) {
        float sums[ROWS][COLUMNS] = {0};
        for (int64_t k = 0; k < size; k++)
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < COLUMNS; j++)
                    sums[r][j] = multiplied(from(x[r * apart + k]), from(w[(k / PAIR * COLUMNS + j) * PAIR + k % PAIR]),
                                            sums[r][j]);
        memcpy(found[b], sums, rows * sizeof *sums);
    }
#endif
}

#ifdef TILES
/* Registers 0 to 3 for sums of `rows` rows, 4 for those of x, 5 for a block of w, `depth` deep. */
static void shape_product(int rows, int depth) {
    enum { X = 4, W = 5 };
    struct shape shape = {.palette = 1};
    for (int t = 0; t < X; t++)
        shape_tile(&shape, t, rows, COLUMNS * sizeof(float));
    shape_tile(&shape, X, rows, depth * sizeof(value));
    shape_tile(&shape, W, depth / PAIR, COLUMNS * sizeof(float));
    _tile_loadconfig(&shape);
}

/* As `product_of` for all rows and up to BLOCKS blocks, in the shape that was told. */
static void tiled(const value *x, int64_t apart, int64_t size, int depth, const value *w, int blocks,
                  float (*found)[TOGETHER][COLUMNS]) {
    const int wide = COLUMNS * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
#define ADD(block) /* the registers have to be constants */                                                            \
    if (block < blocks) {                                                                                              \
        fetch(w + (block * size + k) * COLUMNS + AHEAD, depth * COLUMNS);                                              \
        _tile_loadd(5, w + (block * size + k) * COLUMNS, wide);                                                        \
        _tile_dpbf16ps(block, 4, 5);                                                                                   \
    }
    for (int64_t k = 0; k < size; k += depth) {
        _tile_loadd(4, x + k, apart * sizeof(value));
        ADD(0)
        ADD(1)
        ADD(2)
        ADD(3)
    }
#undef ADD
    _tile_stored(0, found[0], wide);
    _tile_stored(1, found[1], wide);
    _tile_stored(2, found[2], wide);
    _tile_stored(3, found[3], wide);
}
#endif

/* Whether there are matrix registers, and the system lets this process use them. */
int has_tiles(void) {
#ifdef TILES
    enum { ASK = 0x1023, TILE_DATA = 18 }; /* arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) */
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
#else
    return 0;
#endif
}

/* found[block][r] = rows of x times blocks of w, for `rows` (at most TOGETHER) rows and up to BLOCKS blocks.
 * `shape` is what the tiles of this thread are shaped for, (0, 0) at first; NULL where there are none. */
static void product(const value *x, int64_t apart, int rows, int64_t size, const value *w, int blocks,
                    float (*found)[TOGETHER][COLUMNS], int *shape) {
#ifdef TILES
    int depth = size < DEPTH ? size : DEPTH;
    if (shape != NULL && size % depth == 0 && depth % PAIR == 0) {
        if (shape[0] != rows || shape[1] != depth)
            shape_product(shape[0] = rows, shape[1] = depth);
        tiled(x, apart, size, depth, w, blocks, found);
        return;
    }
#else
    (void)shape;
#endif
    for (int block = 0; block < blocks; block += 2, w += 2 * ((size + PAIR - 1) / PAIR * PAIR * COLUMNS))
        for (int r = 0; r < rows; r += ROWS) {
            const value *some = x + r * apart;
            float(*sums)[TOGETHER][COLUMNS] = (float(*)[TOGETHER][COLUMNS])found[block][r];
            switch (2 * (rows - r < ROWS ? rows - r : ROWS) + (block + 1 < blocks)) { /* numbers that the compiler knows */
#define CASE(count)                                                                                                    \
    case 2 * count:                                                                                                    \
        product_of(count, 1, some, apart, size, w, sums);                                                              \
        break;                                                                                                         \
    case 2 * count + 1:                                                                                                \
        product_of(count, 2, some, apart, size, w, sums);                                                              \
        break;
                CASE(1)
                CASE(2)
                CASE(3)
                CASE(4)
#undef CASE
            }
        }
}

static void end_tiles(const int *shape) {
#ifdef TILES
    if (shape[0])
        _tile_release();
#else
    (void)shape;
#endif
}

/* How many blocks of COLUMNS columns an A or B of these layers has. */
int64_t blocks_of_a(const struct layers *group) { return (group->rank * group->layers + COLUMNS - 1) / COLUMNS; }

int64_t blocks_of_b(const struct layers *group) {
    int64_t blocks = 0;
    for (int64_t l = 0, start = 0; l < group->layers; start = group->ends[l++])
        blocks += (group->ends[l] - start + COLUMNS - 1) / COLUMNS;
    return blocks;
}

/* How many numbers of x A' there are. */
static int64_t inner_numbers(const struct layers *group, const struct items *worn) {
    int64_t last = worn->items - 1;
    return (worn->firsts[last] + worn->counts[last]) * blocks_of_a(group) * COLUMNS;
}

/* h = x A' of the adapter that each row wears, by all threads of the region that this is called in, which wait for each
 * other at its end.
 *
 * x (rows of all items, in), h (rows of all items, blocks_of_a * COLUMNS). `tiles`: whether to use what `has_tiles` found. */
void times_a(const value *x, const struct layers *group, const struct items *worn, const int64_t *places, value *h,
             int tiles) {
    const value *a = group->a;
    const int64_t *slots = worn->slots, *firsts = worn->firsts, *counts = worn->counts;
    int64_t in = group->in, parts = blocks_of_a(group), inner = parts * COLUMNS, sweeps = (parts + BLOCKS - 1) / BLOCKS;
    float found[BLOCKS][TOGETHER][COLUMNS];
    int shape[2] = {0, 0};
#pragma omp for schedule(static)
    for (int64_t task = 0; task < worn->items * sweeps; task++) {
        int64_t item = task / sweeps, part = task % sweeps * BLOCKS;
        int many = parts - part < BLOCKS ? parts - part : BLOCKS;
        product(x + firsts[item] * in, in, counts[item], in, a + (slots[item] * parts + part) * size_of_block(in), many,
                found, tiles ? shape : NULL);
        for (int64_t r = 0, row = firsts[item]; r < counts[item]; r++, row++)
            for (int block = 0; block < many; block++)
                put(h + (places ? places[row] : row) * inner + (part + block) * COLUMNS, found[block][r], COLUMNS, NULL);
    }
    end_tiles(shape);
}

/* y += h B of the adapter that each row wears, as `times_a`. */
static void add_times_b(const value *h, const struct layers *group, const struct items *worn, value *y, int tiles) {
    const value *b = group->b;
    const int64_t *ends = group->ends, *slots = worn->slots, *firsts = worn->firsts, *counts = worn->counts;
    int64_t rank = group->rank, layers = group->layers, items = worn->items, out = ends[layers - 1];
    int64_t blocks = blocks_of_b(group), inner = blocks_of_a(group) * COLUMNS, groups = 0;
    for (int64_t l = 0, start = 0; l < layers; start = ends[l++])
        groups += ((ends[l] - start + COLUMNS - 1) / COLUMNS + BLOCKS - 1) / BLOCKS;
    float found[BLOCKS][TOGETHER][COLUMNS];
    int shape[2] = {0, 0};
#pragma omp for schedule(static)
    for (int64_t task = 0; task < items * groups; task++) {
        int64_t item = task / groups, group = task % groups, layer = 0, start = 0, before = 0;
        int64_t of_layer = (ends[0] + COLUMNS - 1) / COLUMNS;
        while (group >= (of_layer + BLOCKS - 1) / BLOCKS) {
            group -= (of_layer + BLOCKS - 1) / BLOCKS;
            before += of_layer;
            start = ends[layer++];
            of_layer = (ends[layer] - start + COLUMNS - 1) / COLUMNS;
        }
        int64_t first = group * BLOCKS;
        int many = of_layer - first < BLOCKS ? of_layer - first : BLOCKS;
        product(h + firsts[item] * inner + layer * rank, inner, counts[item], rank,
                b + (slots[item] * blocks + before + first) * size_of_block(rank), many, found, tiles ? shape : NULL);
        const int64_t *rows = worn->rows + firsts[item], column = start + first * COLUMNS;
        for (int r = 0, count = counts[item], width = ends[layer] - column; r < count; r++) {
            value *some = y + rows[r] * out + column;
            for (int block = 0; block < many; block++, some += COLUMNS)
                put(some, found[block][r], width - block * COLUMNS, some);
        }
    }
    end_tiles(shape);
}

/* y += (x A') B of the adapter that each row wears.
 *
 * x (rows of all items, in), y (rows, out). `tiles` says whether to use what `has_tiles` found. Gives 1 where there is no
 * memory, and has changed nothing then. */
int lora(const value *x, value *y, const struct layers *group, const struct items *worn, int tiles) {
    value *h = malloc(inner_numbers(group, worn) * sizeof *h);
    if (h == NULL)
        return 1;
#pragma omp parallel
    {
        times_a(x, group, worn, NULL, h, tiles);
        add_times_b(h, group, worn, y, tiles);
    }
    free(h);
    return 0;
}
