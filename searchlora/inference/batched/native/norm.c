/* RMS norms. */
#include "numbers.h"
#include <math.h>

/* out = weight * x / sqrt(mean(x^2) + epsilon) of `count` vectors (arXiv:1910.07467), rounded before the weight as Llama
 * does. Where `residual` is given, it is added to x before, in place. */
void norm(value *x, const value *residual, const value *weight, value *out, int64_t count, int64_t size, float epsilon) {
#pragma omp parallel for schedule(static) if (count * size > SMALL)
    for (int64_t i = 0; i < count; i++) {
        value *vector = x + i * size, *found = out + i * size;
        if (residual != NULL)
            for (int64_t j = 0; j < size; j++)
                vector[j] = to(from(residual[i * size + j]) + from(vector[j]));
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < size; j++)
            sum += from(vector[j]) * from(vector[j]);
        float factor = 1.0f / sqrtf(sum / size + epsilon);
        for (int64_t j = 0; j < size; j++)
            found[j] = to(from(weight[j]) * from(to(from(vector[j]) * factor)));
    }
}
