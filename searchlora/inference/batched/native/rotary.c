/* Rotary positions (arXiv:2104.09864), and the way of new keys and values to those that lie in place. */
#include "numbers.h"

/* x cos + (-second half, first half) sin of one head, rounded after each product as PyTorch does; out may be x. */
static inline void rotated(const value *x, const value *cos, const value *sin, value *out, int64_t size) {
    int64_t half = size / 2;
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        float a = from(x[j]), b = from(x[half + j]);
        out[j] = to(from(to(a * from(cos[j]))) - from(to(b * from(sin[j]))));
        out[half + j] = to(from(to(b * from(cos[half + j]))) + from(to(a * from(sin[half + j]))));
    }
}

/* x (rows, new, heads + 2 * key heads, size): queries are rotated in place, keys on their way to `keys`, values are copied
 * to `values`; these are (rows, key heads, columns, size) by the strides of a row and of a head. A row's first new token
 * goes to column `starts[row]`. cos and sin (rows, new, size). */
void rotate(value *x, const value *cos, const value *sin, value *keys, value *values, const int64_t *starts, int64_t rows,
            int64_t new, int64_t heads, int64_t key_heads, int64_t size, int64_t of_row, int64_t of_head) {
#pragma omp parallel for schedule(static) if (rows * new * (heads + 2 * key_heads) * size > SMALL)
    for (int64_t token = 0; token < rows * new; token++) {
        value *head = x + token * (heads + 2 * key_heads) * size;
        const value *c = cos + token * size, *s = sin + token * size;
        int64_t place = token / new * of_row + (starts[token / new] + token % new) * size;
        for (int64_t h = 0; h < heads; h++, head += size)
            rotated(head, c, s, head, size);
        for (int64_t h = 0; h < key_heads; h++, head += size)
            rotated(head, c, s, keys + place + h * of_head, size);
        for (int64_t h = 0; h < key_heads; h++, head += size)
            memcpy(values + place + h * of_head, head, size * sizeof(value));
    }
}
