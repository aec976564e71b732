/* What adapters add to linear layers: how it lies, and what computes it. */
#include "blocks.h"

/* Layers that read the same x, and the A and B of all slots. Weights lie in blocks of COLUMNS columns, each (size / PAIR,
 * COLUMNS, PAIR), so that it is read from one end to the other. */
struct layers {
    const value *a;      /* (slots, blocks, ...): the columns of all layers' A, the last block filled up */
    const value *b;      /* (slots, blocks, ...): those of the first layer's B, filled up, then the second's */
    const int64_t *ends; /* (layers): where the columns of y of each layer end */
    int64_t layers, in, rank; /* the rank is a multiple of PAIR */
};

/* Rows and what they wear: an item is up to TOGETHER rows with one adapter. */
struct items {
    const int64_t *slots, *firsts, *counts; /* (items): whose A and B; the first of its rows; how many they are */
    const int64_t *rows;                    /* of each row of all items its place in y */
    int64_t items;
};

/* How many numbers a block of COLUMNS columns takes. */
static inline int64_t size_of_block(int64_t size) { return (size + PAIR - 1) / PAIR * PAIR * COLUMNS; }

int64_t blocks_of_a(const struct layers *group);
int64_t blocks_of_b(const struct layers *group);
void times_a(const value *x, const struct layers *group, const struct items *worn, const int64_t *places, value *h,
             int tiles);
