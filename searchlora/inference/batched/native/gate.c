/* Gated linear units. */
#include "numbers.h"

/* out = silu(gate) * up of `count` vectors, each `size` numbers of gate and then as many of up (SwiGLU without its
 * products, arXiv:2002.05202), rounded between the two as PyTorch does. */
void gate(const value *x, value *out, int64_t count, int64_t size) {
#pragma omp parallel for schedule(static) if (count * size > SMALL)
    for (int64_t i = 0; i < count; i++) {
        const value *first = x + 2 * i * size, *second = first + size;
        value *found = out + i * size;
#pragma omp simd
        for (int64_t j = 0; j < size; j++) {
            float number = from(first[j]);
            float raised = power(number < 0 ? number : -number);
            float silu = number * (number < 0 ? raised : 1.0f) / (1.0f + raised);
            found[j] = to(from(to(silu)) * from(second[j]));
        }
    }
}
