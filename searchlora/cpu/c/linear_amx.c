/* bf16 GEMM with the frozen weights of a base model, for processors with tile registers (AMX); adds the rows' LoRA to the
 * same sums. */
#include "lora.h"
#include <stdlib.h>

#ifdef AMX
enum {
    PANEL = 2 * COLUMNS, /* adjacent columns of the packed weight */
    ROWS = 2 * ROW_TILE,
    CACHED = 1 << 17, /* elements of x that stay in the cache while all columns are computed */
};

/* The rows of a product in tiles, and the adapters of each tile: a segment is the rows of a tile with one adapter. */
struct lora_tiles {
    int64_t *order; /* (rows): the row at each place, where rows of an adapter are adjacent; NULL: as they are */
    element *x;     /* (rows, in): x in that order; NULL if `order` is */
    int64_t *first_of; /* (tiles + 1): the first segment of each tile */
    int64_t *slots, *firsts, *counts; /* (segments): slot, first place, number of rows */
    int64_t *h_rows; /* (rows): the row of each place in `h` */
    element *h;      /* (segments * ROW_TILE, width): x A', 0 in rows of other segments and above the rank */
    int64_t segments, width;
};

/* The columns of a layer in `lora_tiles.h`: a tile of DEPTH columns holds nothing of another layer. */
static inline int64_t depth_of(int64_t rank) { return rank < DEPTH ? DEPTH : rank; }

/* The number of segments of the rows in this order (NULL: as they are); written to `tiles` unless it is NULL. slot_of: the
 * slot of each row, or -1. */
static int64_t find_segments(const int64_t *slot_of, const int64_t *order, int64_t rows,
                             const struct lora_tables *tables, struct lora_tiles *tiles) {
    int64_t count = 0;
    for (int64_t place = 0, length; place < rows; place += length) {
        int64_t slot = slot_of[order == NULL ? place : order[place]], end = (place / ROW_TILE + 1) * ROW_TILE;
        for (length = 1; place + length < rows && place + length < end; length++)
            if (slot_of[order == NULL ? place + length : order[place + length]] != slot)
                break;
        if (tiles != NULL && place % ROW_TILE == 0)
            tiles->first_of[place / ROW_TILE] = count;
        if (slot < 0 || tables->ranks[slot] == 0)
            continue;
        if (tiles != NULL) {
            tiles->slots[count] = slot;
            tiles->firsts[count] = place;
            tiles->counts[count] = length;
            for (int64_t i = place; i < place + length; i++)
                tiles->h_rows[i] = count * ROW_TILE + i % ROW_TILE;
        }
        count++;
    }
    if (tiles != NULL)
        tiles->first_of[(rows + ROW_TILE - 1) / ROW_TILE] = count;
    return count;
}

static void free_tiles(struct lora_tiles *tiles) {
    free(tiles->order);
    free(tiles->x);
    free(tiles->first_of);
    free(tiles->slots);
    free(tiles->h);
}

/* The tiles of some rows; 1 if memory runs out, with nothing left allocated. */
static int make_tiles(struct lora_tiles *tiles, const struct lora_tables *tables, const struct lora_items *items,
                      int64_t rows, int64_t in) {
    int64_t count = (rows + ROW_TILE - 1) / ROW_TILE, placed = 0, *slot_of = malloc(rows * sizeof *slot_of);
    memset(tiles, 0, sizeof *tiles);
    tiles->order = malloc(rows * sizeof *tiles->order);
    tiles->first_of = malloc((count + 1) * sizeof *tiles->first_of);
    if (slot_of == NULL || tiles->order == NULL || tiles->first_of == NULL)
        goto failed;
    for (int64_t row = 0; row < rows; row++)
        slot_of[row] = -1;
    for (int64_t item = 0; item < items->items; item++)
        for (int64_t i = items->firsts[item]; i < items->firsts[item] + items->counts[item]; i++) {
            slot_of[items->rows[i]] = items->slots[item];
            tiles->order[placed++] = items->rows[i];
        }
    for (int64_t row = 0; row < rows; row++)
        if (slot_of[row] < 0)
            tiles->order[placed++] = row;
    /* Rows whose adapters change often are sorted. Otherwise the copy of x would take longer than a few more segments. */
    if (find_segments(slot_of, NULL, rows, tables, NULL) <= 2 * count) {
        free(tiles->order);
        tiles->order = NULL;
    } else if ((tiles->x = malloc(rows * in * sizeof *tiles->x)) == NULL)
        goto failed;
    tiles->segments = find_segments(slot_of, tiles->order, rows, tables, NULL);
    for (int64_t item = 0; item < items->items; item++) {
        int64_t width = tables->layers * depth_of(tables->ranks[items->slots[item]]);
        tiles->width = width > tiles->width ? width : tiles->width;
    }
    tiles->slots = malloc((3 * tiles->segments + rows) * sizeof *tiles->slots);
    tiles->h = calloc(tiles->segments * ROW_TILE * tiles->width, sizeof *tiles->h);
    if (tiles->slots == NULL || tiles->h == NULL)
        goto failed;
    tiles->firsts = tiles->slots + tiles->segments;
    tiles->counts = tiles->firsts + tiles->segments;
    tiles->h_rows = tiles->counts + tiles->segments;
    find_segments(slot_of, tiles->order, rows, tables, tiles);
    free(slot_of);
    return 0;
failed:
    free(slot_of);
    free_tiles(tiles);
    return 1;
}

/* Fill `tiles->x` and `tiles->h`. Called within a parallel region by all its threads, which wait for each other at the
 * end. */
static void fill_tiles(struct lora_tiles *tiles, const element *x, const struct lora_tables *tables, int64_t rows) {
    int64_t in = tables->in;
    if (tiles->order != NULL) {
#pragma omp for schedule(static)
        for (int64_t place = 0; place < rows; place++)
            memcpy(tiles->x + place * in, x + tiles->order[place] * in, in * sizeof *x);
        x = tiles->x;
    }
    struct lora_items items = {tiles->slots, tiles->firsts, tiles->counts, NULL, tiles->segments};
    times_a(x, tables, &items, tiles->h_rows, tiles->h, tiles->width, DEPTH, 1);
}

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

/* Tiles 0 to 3 = rows of x times PANEL columns of w, with the configured tiles. */
static inline __attribute__((always_inline)) void tile_product(const element *x, int64_t in, int first, int second,
                                                              const element *w, int is_first) {
    const int x_stride = in * sizeof(element), w_stride = PANEL * sizeof(float);
    const element *lower = x + first * in;
    _tile_zero(0);
    _tile_zero(1);
    if (second) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < in; k += DEPTH, w += DEPTH * PANEL) {
        if (is_first)
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
}

/* Tiles 0 and 1, or 2 and 3 if `second`, += h B' of a tile's segments, for PANEL columns of a layer.
 *
 * A tile of B below the rank DEPTH reaches into the block after it, and meets zeros of h: both are finite numbers, and
 * there is always such a block (`PackedSlots.pack`). */
static void add_lora(const struct lora_tiles *tiles, int64_t tile, const struct lora_tables *tables, int64_t layer,
                     int64_t column, int second) {
    const int h_stride = tiles->width * sizeof(element), b_stride = COLUMNS * sizeof(float);
    for (int64_t segment = tiles->first_of[tile]; segment < tiles->first_of[tile + 1]; segment++) {
        int64_t slot = tiles->slots[segment], rank = tables->ranks[slot];
        const element *b = tables->b[slot] + column * rank;
        if (segment == 0 || tiles->slots[segment - 1] != slot)
            prefetch(b + PANEL * rank, PANEL * rank);
        const element *h = tiles->h + segment * ROW_TILE * tiles->width + layer * depth_of(rank);
        for (int64_t k = 0; k < rank; k += DEPTH) {
            _tile_loadd(6, b + k * COLUMNS, b_stride);
            _tile_loadd(7, b + (rank + k) * COLUMNS, b_stride);
            if (second) {
                _tile_loadd(5, h + k, h_stride);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            } else {
                _tile_loadd(4, h + k, h_stride);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
            }
        }
    }
}

/* y (rows, out) = x (rows, in) W' + bias (may be NULL) + LoRA of each row (none if `tables` is NULL), rounded once.
 *
 * W is packed as (out / PANEL, in / PAIR, PANEL, PAIR); `in` is a multiple of DEPTH, `out` and the `ends` of PANEL.
 * Returns 1 if memory runs out. */
int linear_amx(const element *x, const element *w, const element *bias, element *y, int64_t rows, int64_t in,
               int64_t out, const struct lora_tables *tables, const struct lora_items *items) {
    struct lora_tiles tiles = {0};
    int has_lora = tables != NULL && inner_size(tables, items) != 0;
    if (has_lora && make_tiles(&tiles, tables, items, rows, in))
        return 1;
    int64_t block = CACHED / in / ROWS * ROWS;
    block = block < ROWS ? ROWS : block;
#pragma omp parallel
    {
        float sums[2][2][ROW_TILE][COLUMNS];
        const int stride = COLUMNS * sizeof(float);
        int configured[2] = {0, 0};
        if (has_lora)
            fill_tiles(&tiles, x, tables, rows);
        const element *ordered = tiles.order == NULL ? x : tiles.x;
        for (int64_t begin = 0; begin < rows; begin += block) {
            int64_t end = begin + block < rows ? begin + block : rows;
#pragma omp for schedule(static) nowait
            for (int64_t column = 0; column < out; column += PANEL) {
                int64_t layer = 0;
                while (has_lora && column >= tables->ends[layer])
                    layer++;
                for (int64_t row = begin; row < end; row += ROWS) {
                    int count = end - row < ROWS ? end - row : ROWS;
                    int first = count < ROW_TILE ? count : ROW_TILE, second = count - first;
                    if (configured[0] != first || configured[1] != second)
                        configure_tiles(configured[0] = first, configured[1] = second);
                    if (row == begin)
                        tile_product(ordered + row * in, in, first, second, w + column * in, 1);
                    else
                        tile_product(ordered + row * in, in, first, second, w + column * in, 0);
                    if (has_lora) {
                        add_lora(&tiles, row / ROW_TILE, tables, layer, column, 0);
                        if (second)
                            add_lora(&tiles, row / ROW_TILE + 1, tables, layer, column, 1);
                    }
                    _tile_stored(0, sums[0][0], stride);
                    _tile_stored(1, sums[0][1], stride);
                    if (second) {
                        _tile_stored(2, sums[1][0], stride);
                        _tile_stored(3, sums[1][1], stride);
                    }
                    for (int r = 0; r < count; r++) {
                        element *result = y + (tiles.order == NULL ? row + r : tiles.order[row + r]) * out + column;
                        for (int b = 0; b < PANEL; b += COLUMNS)
                            store(result + b, sums[r / ROW_TILE][b / COLUMNS][r % ROW_TILE], COLUMNS,
                                  bias == NULL ? NULL : bias + column + b);
                    }
                }
            }
        }
        if (configured[0])
            _tile_release();
    }
    free_tiles(&tiles);
    return 0;
}
#endif
