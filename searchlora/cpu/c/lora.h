/* LoRA: A and B of all slots, the rows that use them, and the product with A. */
#include "packing.h"

/* A and B of all slots for layers with the same input x. Weights are packed in blocks of COLUMNS columns, each
 * (size / PAIR, COLUMNS, PAIR), so that they are read sequentially. Each slot has its own rank, a multiple of PAIR; rank 0:
 * the adapter does not change these layers. */
struct lora_tables {
    const element *const *a; /* (slots): A of all layers side by side, (blocks, ...), the last block padded */
    const element *const *b; /* (slots): B of the first layer, (blocks, ...), padded to whole blocks, then the next */
    const int64_t *ranks;    /* (slots) */
    const int64_t *ends;     /* (layers): end of each layer's columns in y */
    int64_t layers, in;
};

/* Rows and their slots: an item is up to ROW_TILE rows with the same adapter. */
struct lora_items {
    const int64_t *slots, *firsts, *counts; /* (items): slot; index of the first row in `rows`; number of rows */
    const int64_t *rows;                    /* row of y of each row of all items */
    int64_t items;
};

/* Elements of a block of COLUMNS columns. */
static inline int64_t block_size(int64_t size) { return (size + PAIR - 1) / PAIR * PAIR * COLUMNS; }

int64_t inner_size(const struct lora_tables *tables, const struct lora_items *rows);
void times_a(const element *x, const struct lora_tables *tables, const struct lora_items *rows, const int64_t *places,
             element *h, int64_t inner, int64_t depth, int use_amx);
