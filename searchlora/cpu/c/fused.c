/* Fused element-wise kernels: RMSNorm with residual, rotary embedding with KV-cache write, SwiGLU. */
#include "numeric.h"
#include <math.h>

/* Bits of a vector register that the kernels are compiled for. */
int vector_bits(void) { return VECTOR_BITS; }

/* The sum of squares: by lanes, then the lanes, then the elements that fill no vector. */
static inline float sum_of_squares(const element *x, int64_t size) {
    vector lanes[2] = {{0}, {0}}; /* two accumulators, so that consecutive additions are independent */
    int64_t i = 0;
    for (; i + 2 * VECTOR <= size; i += 2 * VECTOR)
        for (int v = 0; v < 2; v++) {
            vector elements = load_vector(x + i + v * VECTOR);
            lanes[v] = multiply_add_vectors(elements, elements, lanes[v]);
        }
    float sum = sum_of_lanes(lanes[0] + lanes[1]);
    for (; i < size; i++)
        sum = multiply_add(to_float(x[i]), to_float(x[i]), sum);
    return sum;
}

/* RMSNorm (arXiv:1910.07467) of `count` vectors: out = weight * x / sqrt(mean(x^2) + epsilon), rounded before the
 * multiplication by the weight as Llama does. If `residual` is not NULL, it is added to x in place first. */
void rms_norm(element *x, const element *residual, const element *weight, element *out, int64_t count, int64_t size,
              float epsilon) {
#pragma omp parallel for schedule(static) if (count * size > SERIAL_SIZE)
    for (int64_t i = 0; i < count; i++) {
        element *row = x + i * size, *result = out + i * size;
        if (residual != NULL)
            for (int64_t j = 0; j < size; j++)
                row[j] = from_float(to_float(residual[i * size + j]) + to_float(row[j]));
        float factor = 1.0f / sqrtf(sum_of_squares(row, size) / size + epsilon);
        for (int64_t j = 0; j < size; j++)
            result[j] = from_float(to_float(weight[j]) * to_float(from_float(to_float(row[j]) * factor)));
    }
}

/* Rotary embedding (arXiv:2104.09864) of one head: x cos + (-second half, first half) sin, rounded after each product as
 * PyTorch does; out may be x. */
static inline void rotate_head(const element *x, const element *cos, const element *sin, element *out, int64_t size) {
    int64_t half = size / 2;
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        float a = to_float(x[j]), b = to_float(x[half + j]);
        out[j] = from_float(to_float(from_float(a * to_float(cos[j]))) - to_float(from_float(b * to_float(sin[j]))));
        out[half + j] = from_float(to_float(from_float(b * to_float(cos[half + j]))) +
                                   to_float(from_float(a * to_float(sin[half + j]))));
    }
}

/* Rotary embedding of queries and keys, and write of keys and values to the KV cache.
 *
 * x (rows, new, heads + 2 * key heads, size) holds queries, keys and values. Queries are rotated in place; rotated keys
 * go to `keys`, values to `values`, both (rows, key heads, columns, size) with the given strides of a row and a head.
 * The first new token of a row goes to column `starts[row]`. cos and sin: (rows, new, size). */
void rope(element *x, const element *cos, const element *sin, element *keys, element *values, const int64_t *starts,
          int64_t rows, int64_t new, int64_t heads, int64_t key_heads, int64_t size, int64_t row_stride,
          int64_t head_stride) {
#pragma omp parallel for schedule(static) if (rows * new * (heads + 2 * key_heads) * size > SERIAL_SIZE)
    for (int64_t token = 0; token < rows * new; token++) {
        element *head = x + token * (heads + 2 * key_heads) * size;
        const element *c = cos + token * size, *s = sin + token * size;
        int64_t offset = token / new * row_stride + (starts[token / new] + token % new) * size;
        for (int64_t h = 0; h < heads; h++, head += size)
            rotate_head(head, c, s, head, size);
        for (int64_t h = 0; h < key_heads; h++, head += size)
            rotate_head(head, c, s, keys + offset + h * head_stride, size);
        for (int64_t h = 0; h < key_heads; h++, head += size)
            memcpy(values + offset + h * head_stride, head, size * sizeof(element));
    }
}

/* SwiGLU without its matrix products (arXiv:2002.05202): out = silu(gate) * up for `count` vectors, each `size` elements
 * of gate followed by `size` elements of up; rounded between the two products as PyTorch does. */
void swiglu(const element *x, element *out, int64_t count, int64_t size) {
#pragma omp parallel for schedule(static) if (count * size > SERIAL_SIZE)
    for (int64_t i = 0; i < count; i++) {
        const element *gate = x + 2 * i * size, *up = gate + size;
        element *result = out + i * size;
#pragma omp simd
        for (int64_t j = 0; j < size; j++) {
            float g = to_float(gate[j]);
            float e = exp_nonpositive(g < 0 ? g : -g);
            float silu = g * (g < 0 ? e : 1.0f) / (1.0f + e);
            result[j] = from_float(to_float(from_float(silu)) * to_float(up[j]));
        }
    }
}
