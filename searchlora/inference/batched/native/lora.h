/* LoRA: A and B of all slots, the rows that use them, and the product with A. */
#include "packing.h"

/* A and B of all slots for layers with the same input x. Weights are packed in blocks of COLUMNS columns, each
 * (size / PAIR, COLUMNS, PAIR), so that they are read sequentially. */
struct lora_tables {
    const element *a;         /* (slots, blocks, ...): A of all layers side by side, the last block padded */
    const element *b;         /* (slots, blocks, ...): B of the first layer, padded to whole blocks, then the next */
    const int64_t *ends;      /* (layers): end of each layer's columns in y */
    int64_t layers, in, rank; /* rank is a multiple of PAIR */
};

/* Rows and their slots: an item is up to ROW_TILE rows with the same adapter. */
struct lora_items {
    const int64_t *slots, *firsts, *counts; /* (items): slot; index of the first row in `rows`; number of rows */
    const int64_t *rows;                    /* row of y of each row of all items */
    int64_t items;
};

/* Elements of a block of COLUMNS columns. */
static inline int64_t block_size(int64_t size) { return (size + PAIR - 1) / PAIR * PAIR * COLUMNS; }

int64_t blocks_of_a(const struct lora_tables *tables);
int64_t blocks_of_b(const struct lora_tables *tables);
void times_a(const element *x, const struct lora_tables *tables, const struct lora_items *rows, const int64_t *places,
             element *h, int use_amx);
