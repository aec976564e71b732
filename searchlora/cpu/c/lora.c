/* Batched LoRA: y += (x A') B' with the adapter of each row. */
#include "lora.h"
#include <stdlib.h>
#ifdef AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    ROWS = 4,   /* rows that stay in registers, without tiles */
    BLOCKS = 4, /* blocks of COLUMNS columns computed together */
    VECTORS = COLUMNS / VECTOR, /* of a row of a block */
};

/* sums[block][r][j] = sum over k of x[r * stride + k] * w[block][k / PAIR][j][k % PAIR] for `rows` (at most ROWS) rows and
 * `blocks` (1 or 2) blocks of COLUMNS columns. Each sum is one chain of multiply-adds in the order of k; with bf16
 * instructions, two chains of pairs, the even and the odd ones, which are added at the end. */
static inline __attribute__((always_inline)) void vector_product(int rows, int blocks, const element *x, int64_t stride,
                                                                 int64_t size, const element *w,
                                                                 float (*sums)[ROW_TILE][COLUMNS]) {
#ifdef AVX512
    const element *block_at[2] = {w, w + (size + PAIR - 1) / PAIR * PAIR * COLUMNS};
    __m512 even[ROWS][2], odd[ROWS][2]; /* two accumulators, so that consecutive products are independent */
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++)
            even[r][b] = odd[r][b] = _mm512_setzero_ps();
#define ADD(accumulator, k, count)                                                                                     \
    for (int r = 0; r < rows; r++)                                                                                     \
        for (int b = 0; b < blocks; b++)                                                                               \
            accumulator[r][b] =                                                                                        \
                _mm512_dpbf16_ps(accumulator[r][b], (__m512bh)_mm512_loadu_si512(block_at[b] + (k) * COLUMNS),         \
                                 broadcast_pair(x + r * stride + (k), count));
    int64_t k = 0;
    for (; k + 4 <= size; k += 4) {
        for (int b = 0; b < blocks; b++)
            prefetch(block_at[b] + k * COLUMNS + PREFETCH_DISTANCE, 4 * COLUMNS);
        ADD(even, k, 2)
        ADD(odd, k + 2, 2)
    }
    for (; k < size; k += 2)
        ADD(even, k, k + 1 < size ? 2 : 1)
#undef ADD
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++)
            _mm512_storeu_ps(sums[b][r], _mm512_add_ps(even[r][b], odd[r][b]));
#else
    for (int b = 0; b < blocks; b++, w += (size + PAIR - 1) / PAIR * PAIR * COLUMNS) {
        vector block[ROWS][VECTORS];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                block[r][v] = (vector){0};
        for (int64_t k = 0; k < size; k++) {
            vector weights[VECTORS];
            for (int v = 0; v < VECTORS; v++)
                weights[v] = load_packed(w + k / PAIR * PAIR * COLUMNS + v * VECTOR * PAIR, k % PAIR);
            for (int r = 0; r < rows; r++)
                for (int v = 0; v < VECTORS; v++)
                    block[r][v] = multiply_add_vectors(broadcast(to_float(x[r * stride + k])), weights[v], block[r][v]);
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                store_floats(&sums[b][r][v * VECTOR], block[r][v]);
    }
#endif
}

#ifdef AMX
/* Tiles 0 to 3 hold sums of `rows` rows, 4 the rows of x, 5 a block of w, `depth` elements deep. */
static void configure_tiles(int rows, int depth) {
    enum { X = 4, W = 5 };
    struct tile_config config = {.palette = 1};
    for (int t = 0; t < X; t++)
        set_tile(&config, t, rows, COLUMNS * sizeof(float));
    set_tile(&config, X, rows, depth * sizeof(element));
    set_tile(&config, W, depth / PAIR, COLUMNS * sizeof(float));
    _tile_loadconfig(&config);
}

/* As `vector_product` for all rows and up to BLOCKS blocks, with the configured tiles. */
static void tile_product(const element *x, int64_t stride, int64_t size, int depth, const element *w, int blocks,
                         float (*sums)[ROW_TILE][COLUMNS]) {
    const int row_bytes = COLUMNS * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
#define ADD(block) /* tile numbers must be constants */                                                                \
    if (block < blocks) {                                                                                              \
        prefetch(w + (block * size + k) * COLUMNS + PREFETCH_DISTANCE, depth * COLUMNS);                               \
        _tile_loadd(5, w + (block * size + k) * COLUMNS, row_bytes);                                                   \
        _tile_dpbf16ps(block, 4, 5);                                                                                   \
    }
    for (int64_t k = 0; k < size; k += depth) {
        _tile_loadd(4, x + k, stride * sizeof(element));
        ADD(0)
        ADD(1)
        ADD(2)
        ADD(3)
    }
#undef ADD
    _tile_stored(0, sums[0], row_bytes);
    _tile_stored(1, sums[1], row_bytes);
    _tile_stored(2, sums[2], row_bytes);
    _tile_stored(3, sums[3], row_bytes);
}
#endif

/* Whether there are tile registers, and the operating system lets this process use them. */
int has_amx(void) {
#ifdef AMX
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) */
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return 0;
#endif
}

/* sums[block][r] = rows of x times blocks of w, for `rows` (at most ROW_TILE) rows and up to BLOCKS blocks.
 * `configured` is the tile configuration of this thread, (0, 0) at first; NULL without tiles. */
static void product(const element *x, int64_t stride, int rows, int64_t size, const element *w, int blocks,
                    float (*sums)[ROW_TILE][COLUMNS], int *configured) {
#ifdef AMX
    int depth = size < DEPTH ? size : DEPTH;
    if (configured != NULL && size % depth == 0 && depth % PAIR == 0) {
        if (configured[0] != rows || configured[1] != depth)
            configure_tiles(configured[0] = rows, configured[1] = depth);
        tile_product(x, stride, size, depth, w, blocks, sums);
        return;
    }
#else
    (void)configured;
#endif
    for (int block = 0; block < blocks; block += 2, w += 2 * ((size + PAIR - 1) / PAIR * PAIR * COLUMNS))
        for (int r = 0; r < rows; r += ROWS) {
            const element *x_rows = x + r * stride;
            float(*result)[ROW_TILE][COLUMNS] = (float(*)[ROW_TILE][COLUMNS])sums[block][r];
            switch (2 * (rows - r < ROWS ? rows - r : ROWS) + (block + 1 < blocks)) { /* compile-time constants */
#define CASE(count)                                                                                                    \
    case 2 * count:                                                                                                    \
        vector_product(count, 1, x_rows, stride, size, w, result);                                                     \
        break;                                                                                                         \
    case 2 * count + 1:                                                                                                \
        vector_product(count, 2, x_rows, stride, size, w, result);                                                     \
        break;
                CASE(1)
                CASE(2)
                CASE(3)
                CASE(4)
#undef CASE
            }
        }
}

static void release_tiles(const int *configured) {
#ifdef AMX
    if (configured[0])
        _tile_release();
#else
    (void)configured;
#endif
}

/* Blocks of COLUMNS columns of the A of a slot. */
static int64_t blocks_of_a(const struct lora_tables *tables, int64_t slot) {
    return (tables->ranks[slot] * tables->layers + COLUMNS - 1) / COLUMNS;
}

/* Elements of x A' per row, room for the highest rank among the rows. */
int64_t inner_size(const struct lora_tables *tables, const struct lora_items *rows) {
    int64_t blocks = 0;
    for (int64_t item = 0; item < rows->items; item++) {
        int64_t of_item = blocks_of_a(tables, rows->slots[item]);
        blocks = of_item > blocks ? of_item : blocks;
    }
    return blocks * COLUMNS;
}

/* h = x A' with the adapter of each row. Called within a parallel region by all its threads, which wait for each other at
 * the end.
 *
 * x (rows of all items, in), h (rows of all items, inner). A layer takes its rank in h, or `depth` if that is more; without
 * `depth`, `inner` comes from `inner_size`. `use_amx`: what `has_amx` returned. */
void times_a(const element *x, const struct lora_tables *tables, const struct lora_items *rows, const int64_t *places,
             element *h, int64_t inner, int64_t depth, int use_amx) {
    const int64_t *slots = rows->slots, *firsts = rows->firsts, *counts = rows->counts;
    int64_t in = tables->in, most = 0;
    for (int64_t item = 0; item < rows->items; item++) {
        int64_t parts = blocks_of_a(tables, slots[item]);
        most = parts > most ? parts : most;
    }
    int64_t sweeps = (most + BLOCKS - 1) / BLOCKS;
    float sums[BLOCKS][ROW_TILE][COLUMNS];
    int configured[2] = {0, 0};
#pragma omp for schedule(static)
    for (int64_t task = 0; task < rows->items * sweeps; task++) {
        int64_t item = task / sweeps, part = task % sweeps * BLOCKS, parts = blocks_of_a(tables, slots[item]);
        if (part >= parts)
            continue;
        int blocks = parts - part < BLOCKS ? parts - part : BLOCKS;
        product(x + firsts[item] * in, in, counts[item], in, tables->a[slots[item]] + part * block_size(in), blocks, sums,
                use_amx ? configured : NULL);
        int64_t rank = tables->ranks[slots[item]], gap = depth > rank ? depth - rank : 0;
        for (int64_t r = 0, row = firsts[item]; r < counts[item]; r++, row++) {
            element *result = h + (places ? places[row] : row) * inner, columns[BLOCKS * COLUMNS];
            for (int block = 0; block < blocks; block++)
                store(gap ? columns + block * COLUMNS : result + (part + block) * COLUMNS, sums[block][r], COLUMNS, NULL);
            int64_t end = (part + blocks) * COLUMNS, all = rank * tables->layers;
            for (int64_t column = part * COLUMNS, next; gap && column < (end < all ? end : all); column = next) {
                int64_t layer = column / rank;
                next = (layer + 1) * rank < end ? (layer + 1) * rank : end;
                memcpy(result + column + layer * gap, columns + column - part * COLUMNS, (next - column) * sizeof *h);
            }
        }
    }
    release_tiles(configured);
}

/* y += h B' with the adapter of each row, as `times_a`. */
static void add_times_b(const element *h, const struct lora_tables *tables, const struct lora_items *rows, element *y,
                        int64_t inner, int use_amx) {
    const int64_t *ends = tables->ends, *slots = rows->slots, *firsts = rows->firsts, *counts = rows->counts;
    int64_t layers = tables->layers, items = rows->items, out = ends[layers - 1], sweeps = 0;
    for (int64_t l = 0, start = 0; l < layers; start = ends[l++])
        sweeps += ((ends[l] - start + COLUMNS - 1) / COLUMNS + BLOCKS - 1) / BLOCKS;
    float sums[BLOCKS][ROW_TILE][COLUMNS];
    int configured[2] = {0, 0};
#pragma omp for schedule(static)
    for (int64_t task = 0; task < items * sweeps; task++) {
        int64_t item = task / sweeps, sweep = task % sweeps, layer = 0, start = 0, before = 0;
        int64_t rank = tables->ranks[slots[item]], layer_blocks = (ends[0] + COLUMNS - 1) / COLUMNS;
        if (rank == 0)
            continue;
        while (sweep >= (layer_blocks + BLOCKS - 1) / BLOCKS) {
            sweep -= (layer_blocks + BLOCKS - 1) / BLOCKS;
            before += layer_blocks;
            start = ends[layer++];
            layer_blocks = (ends[layer] - start + COLUMNS - 1) / COLUMNS;
        }
        int64_t first = sweep * BLOCKS;
        int blocks = layer_blocks - first < BLOCKS ? layer_blocks - first : BLOCKS;
        product(h + firsts[item] * inner + layer * rank, inner, counts[item], rank,
                tables->b[slots[item]] + (before + first) * block_size(rank), blocks, sums, use_amx ? configured : NULL);
        const int64_t *places = rows->rows + firsts[item], column = start + first * COLUMNS;
        for (int r = 0, count = counts[item], width = ends[layer] - column; r < count; r++) {
            element *result = y + places[r] * out + column;
            for (int block = 0; block < blocks; block++, result += COLUMNS)
                store(result, sums[block][r], width - block * COLUMNS, result);
        }
    }
    release_tiles(configured);
}

/* y += (x A') B' with the adapter of each row.
 *
 * x (rows of all items, in), y (rows, out). `use_amx`: what `has_amx` returned. Returns 1 if memory runs out, with y
 * unchanged. */
int lora(const element *x, element *y, const struct lora_tables *tables, const struct lora_items *rows, int use_amx) {
    int64_t last = rows->items - 1, inner = inner_size(tables, rows);
    if (inner == 0)
        return 0;
    element *h = malloc((rows->firsts[last] + rows->counts[last]) * inner * sizeof *h);
    if (h == NULL)
        return 1;
#pragma omp parallel
    {
        times_a(x, tables, rows, NULL, h, inner, 0, use_amx);
        add_times_b(h, tables, rows, y, inner, use_amx);
    }
    free(h);
    return 0;
}
