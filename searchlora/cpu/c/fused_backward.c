/* Fused element-wise kernels of training: the backward passes of RMSNorm, rotary embedding and SwiGLU, and the loss. */
#include "numeric.h"
#include <math.h>

/* Adds the gradient of RMSNorm (arXiv:1910.07467) with respect to x to `residual`, the gradient of the residual stream,
 * in place, for `count` vectors: r w g - r^3 x mean(w g x) with r = 1 / sqrt(mean(x^2) + epsilon).
 * x, gradient, residual: (count, size); weight: (size). */
void rms_norm_backward(const element *x, const element *weight, const element *gradient, element *residual,
                       int64_t count, int64_t size, float epsilon) {
#pragma omp parallel for schedule(static) if (count * size > SERIAL_SIZE)
    for (int64_t i = 0; i < count; i++) {
        const element *vector = x + i * size, *g = gradient + i * size;
        element *out = residual + i * size;
        float squares = 0, products = 0;
#pragma omp simd reduction(+ : squares, products)
        for (int64_t j = 0; j < size; j++) {
            float v = to_float(vector[j]);
            squares += v * v;
            products += v * to_float(weight[j]) * to_float(g[j]);
        }
        float factor = 1.0f / sqrtf(squares / size + epsilon);
        float along = factor * factor * factor * products / size;
#pragma omp simd
        for (int64_t j = 0; j < size; j++)
            out[j] = from_float(to_float(out[j]) + factor * to_float(weight[j]) * to_float(g[j]) -
                                along * to_float(vector[j]));
    }
}

/* Rotary embedding (arXiv:2104.09864), in place, of the first `heads` heads of each of `count` vectors of `width`
 * elements, rounded after each product as PyTorch does. cos and sin: (count, size). */
void rotate_heads(element *x, const element *cos, const element *sin, int64_t count, int64_t heads, int64_t size,
                  int64_t width) {
    int64_t half = size / 2;
#pragma omp parallel for schedule(static) if (count * heads * size > SERIAL_SIZE)
    for (int64_t i = 0; i < count; i++) {
        const element *c = cos + i * size, *s = sin + i * size;
        for (int64_t h = 0; h < heads; h++) {
            element *head = x + i * width + h * size;
#pragma omp simd
            for (int64_t j = 0; j < half; j++) {
                float a = to_float(head[j]), b = to_float(head[half + j]);
                head[j] = from_float(to_float(from_float(a * to_float(c[j]))) - to_float(from_float(b * to_float(s[j]))));
                head[half + j] = from_float(to_float(from_float(b * to_float(c[half + j]))) +
                                            to_float(from_float(a * to_float(s[half + j]))));
            }
        }
    }
}

/* Gradient of SwiGLU without its matrix products (arXiv:2002.05202) for `count` vectors.
 * x: `size` elements of gate, then `size` of up; out: their gradients, in the same order.
 * activation holds the gradient of silu(gate) * up, and silu(gate) * up itself afterwards. */
void swiglu_backward(const element *x, element *activation, element *out, int64_t count, int64_t size) {
#pragma omp parallel for schedule(static) if (count * size > SERIAL_SIZE)
    for (int64_t i = 0; i < count; i++) {
        const element *gate = x + 2 * i * size, *up = gate + size;
        element *act = activation + i * size, *gate_gradient = out + 2 * i * size, *up_gradient = gate_gradient + size;
#pragma omp simd
        for (int64_t j = 0; j < size; j++) {
            float g = to_float(gate[j]), u = to_float(up[j]), gradient = to_float(act[j]);
            float e = exp_nonpositive(g < 0 ? g : -g);
            float sigmoid = (g < 0 ? e : 1.0f) / (1.0f + e);
            float silu = to_float(from_float(g * sigmoid));
            gate_gradient[j] = from_float(gradient * u * sigmoid * (1.0f + g * (1.0f - sigmoid)));
            up_gradient[j] = from_float(gradient * silu);
            act[j] = from_float(silu * u);
        }
    }
}

/* Log-probabilities in nats of a label in each of `count` rows of logits (count, vocabulary), and each row's
 * log(sum(exp(logits))). */
void label_log_probabilities(const element *logits, const int64_t *labels, float *out, float *log_sums, int64_t count,
                             int64_t vocabulary) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const element *row = logits + i * vocabulary;
        float highest = to_float(row[0]), sum = 0;
#pragma omp simd reduction(max : highest)
        for (int64_t j = 0; j < vocabulary; j++)
            highest = to_float(row[j]) > highest ? to_float(row[j]) : highest;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < vocabulary; j++)
            sum += exp_nonpositive(to_float(row[j]) - highest);
        log_sums[i] = highest + logf(sum);
        out[i] = to_float(row[labels[i]]) - log_sums[i];
    }
}

/* Replaces logits by the gradient of their label's log-probability, times `gradient` (count). */
void label_gradients(element *logits, const int64_t *labels, const float *log_sums, const float *gradient,
                     int64_t count, int64_t vocabulary) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        element *row = logits + i * vocabulary;
        float at_label = expf(to_float(row[labels[i]]) - log_sums[i]);
#pragma omp simd
        for (int64_t j = 0; j < vocabulary; j++)
            row[j] = from_float(-gradient[i] * exp_nonpositive(to_float(row[j]) - log_sums[i]));
        row[labels[i]] = from_float(gradient[i] * (1.0f - at_label));
    }
}
