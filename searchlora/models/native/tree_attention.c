/* Attention and its backward pass over rows that share prefixes, for training.
 *
 * Equal prefixes of rows are computed once, so the tokens of a batch are the nodes of a tree, and each row is a path.
 * Row i has the nodes path[starts[i]] ... path[starts[i + 1] - 1]; the first shared[i] of them belong to earlier rows,
 * and the others have consecutive numbers. A node attends to itself and to the nodes before it on its path. */
#include "packing.h"
#include <math.h>
#include <stdlib.h>

enum {
    ROWS = 8,   /* rows per product */
    PANEL = 32, /* columns per product */
    CHUNK = 64, /* queries whose probabilities are in memory at a time */
};

struct tree {
    const int64_t *path, *starts, *shared;
    int64_t rows, longest, heads, key_heads, size;
    float scale;
};

static inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* out[r][c] (+)= sum over k of x[r][k] w[k][c] for ROWS rows and PANEL columns; w is packed as (k / PAIR, PANEL, PAIR).
 * `depth` is a multiple of PAIR. */
static inline void tile_product(const element *const *x, int64_t depth, const element *w, float *out, int64_t stride,
                                int accumulate) {
#ifdef AVX512
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        for (int b = 0; b < 2; b++)
            sums[r][b] = accumulate ? _mm512_loadu_ps(out + r * stride + b * LANES) : _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k += PAIR, w += PANEL * PAIR) {
        __m512bh first = (__m512bh)_mm512_loadu_si512(w), second = (__m512bh)_mm512_loadu_si512(w + LANES * PAIR);
        for (int r = 0; r < ROWS; r++) {
            __m512bh pair = broadcast_pair(x[r] + k, PAIR);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], first, pair);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], second, pair);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int b = 0; b < 2; b++)
            _mm512_storeu_ps(out + r * stride + b * LANES, sums[r][b]);
#else
    float sums[ROWS][PANEL];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < PANEL; c++)
            sums[r][c] = accumulate ? out[r * stride + c] : 0;
    for (int64_t k = 0; k < depth; k += PAIR, w += PANEL * PAIR)
        for (int p = 0; p < PAIR; p++)
            for (int r = 0; r < ROWS; r++) {
                float factor = to_float(x[r][k + p]);
                for (int c = 0; c < PANEL; c++)
                    sums[r][c] += factor * to_float(w[c * PAIR + p]);
            }
    for (int r = 0; r < ROWS; r++)
        memcpy(out + r * stride, sums[r], sizeof sums[r]);
#endif
}

/* Vectors as columns: out (count / PANEL, size / PAIR, PANEL, PAIR), the last panel filled with zeros. */
static void pack_columns(const element *const *vectors, int64_t count, int64_t size, element *out) {
    for (int64_t begin = 0; begin < count; begin += PANEL)
        for (int64_t k = 0; k < size; k += PAIR)
            for (int64_t c = begin; c < begin + PANEL; c++)
                for (int p = 0; p < PAIR; p++)
                    *out++ = c < count ? vectors[c][k + p] : 0;
}

/* Vectors as rows: out (size / PANEL, capacity / PAIR, PANEL, PAIR), filled with zeros to whole pairs and panels. */
static void pack_rows(const element *const *vectors, int64_t count, int64_t size, int64_t capacity, element *out) {
    for (int64_t begin = 0; begin < size; begin += PANEL, out += capacity * PANEL) {
        int width = size - begin < PANEL ? size - begin : PANEL;
        if (width < PANEL)
            memset(out, 0, round_up(count, PAIR) * PANEL * sizeof *out);
        for (int64_t k = 0; k < count; k++) {
            element *to = out + k / PAIR * PANEL * PAIR + k % PAIR;
            for (int c = 0; c < width; c++)
                to[c * PAIR] = vectors[k][begin + c];
        }
        for (int64_t k = count; k < round_up(count, PAIR); k++)
            for (int c = 0; c < PANEL; c++)
                out[k / PAIR * PANEL * PAIR + c * PAIR + k % PAIR] = 0;
    }
}

static inline void vectors_of_path(const struct tree *t, int64_t row, const element *qkv, int64_t head,
                                   const element **out) {
    int64_t width = (t->heads + 2 * t->key_heads) * t->size;
    for (int64_t i = t->starts[row]; i < t->starts[row + 1]; i++)
        *out++ = qkv + t->path[i] * width + head * t->size;
}

/* softmax(scale q K') V. qkv (nodes, heads + 2 key heads, size); out (nodes, heads, size); log_sums (nodes, heads), for the
 * backward pass. `size` is even. Returns 1 if memory runs out. */
int tree_attention(const struct tree *t, const element *qkv, element *out, float *log_sums) {
    int64_t size = t->size, padded = round_up(size, PANEL), capacity = round_up(t->longest, PANEL);
    int64_t width = (t->heads + 2 * t->key_heads) * size, group = t->heads / t->key_heads;
    int failed = 0;
#pragma omp parallel
    {
        const element **vectors = malloc(capacity * sizeof *vectors);
        element *keys = malloc(capacity * size * sizeof *keys), *values = malloc(capacity * padded * sizeof *values);
        element *weights = malloc(ROWS * capacity * sizeof *weights);
        float *scores = malloc(ROWS * capacity * sizeof *scores), *sums = malloc(ROWS * padded * sizeof *sums);
        int has_memory = vectors && keys && values && weights && scores && sums;
        if (!has_memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < t->rows * t->key_heads; task++) {
            int64_t row = task / t->key_heads, key_head = task % t->key_heads, shared = t->shared[row];
            int64_t count = t->starts[row + 1] - t->starts[row], own = count - shared;
            if (own == 0 || !has_memory)
                continue;
            int64_t first = t->path[t->starts[row] + shared];
            vectors_of_path(t, row, qkv, t->heads + key_head, vectors);
            pack_columns(vectors, count, size, keys);
            vectors_of_path(t, row, qkv, t->heads + t->key_heads + key_head, vectors);
            pack_rows(vectors, count, size, capacity, values);
            for (int64_t head = key_head * group; head < (key_head + 1) * group; head++)
                for (int64_t start = 0; start < own; start += ROWS) {
                    int rows = own - start < ROWS ? own - start : ROWS;
                    int64_t seen = shared + start + rows, depth = round_up(seen, PAIR);
                    const element *x[ROWS];
                    float totals[ROWS];
                    for (int r = 0; r < ROWS; r++)
                        x[r] = qkv + (first + start + (r < rows ? r : 0)) * width + head * size;
                    for (int64_t c = 0; c < seen; c += PANEL)
                        tile_product(x, size, keys + c * size, scores + c, capacity, 0);
                    for (int r = 0; r < ROWS; r++) {
                        int64_t visible = shared + start + (r < rows ? r : 0) + 1;
                        float *score = scores + r * capacity, highest = score[0], total = 0;
                        element *weight = weights + r * capacity;
#pragma omp simd reduction(max : highest)
                        for (int64_t k = 0; k < visible; k++)
                            highest = score[k] > highest ? score[k] : highest;
#pragma omp simd reduction(+ : total)
                        for (int64_t k = 0; k < visible; k++) {
                            float e = exp_nonpositive((score[k] - highest) * t->scale);
                            weight[k] = from_float(e);
                            total += e;
                        }
                        for (int64_t k = visible; k < depth; k++)
                            weight[k] = 0;
                        totals[r] = total;
                        if (r < rows)
                            log_sums[(first + start + r) * t->heads + head] = highest * t->scale + logf(total);
                        x[r] = weight;
                    }
                    for (int64_t c = 0; c < size; c += PANEL)
                        tile_product(x, depth, values + c * capacity, sums + c, padded, 0);
                    for (int r = 0; r < rows; r++) {
                        element *result = out + ((first + start + r) * t->heads + head) * size;
                        float factor = 1.0f / totals[r];
                        for (int64_t j = 0; j < size; j++)
                            result[j] = from_float(sums[r * padded + j] * factor);
                    }
                }
        }
        free(vectors);
        free(keys);
        free(values);
        free(weights);
        free(scores);
        free(sums);
    }
    return failed;
}

/* Gradient of a rotated head with respect to the head before the rotation. */
static inline void rotate_back(const float *gradient, const element *cos, const element *sin, element *out,
                               int64_t size) {
    int64_t half = size / 2;
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        float a = gradient[j], b = gradient[half + j];
        out[j] = from_float(a * to_float(cos[j]) + b * to_float(sin[half + j]));
        out[half + j] = from_float(b * to_float(cos[half + j]) - a * to_float(sin[j]));
    }
}

/* Memory of a thread in the backward pass. */
struct scratch {
    const element **key, **value, **query, **gradient; /* vectors */
    element *key_columns, *value_columns, *key_rows, *query_rows, *gradient_rows;
    element *weights_of_keys, *changes_of_keys; /* (keys, CHUNK) */
    element *change;                            /* (ROWS, keys) */
    float *scores, *products;                   /* (ROWS, keys) */
    float *query_sums, *key_sums, *value_sums;  /* (ROWS or keys, padded size) */
};

static int64_t aligned(int64_t bytes) { return round_up(bytes, 64); }

/* Lays out the parts of the memory in one block; returns its size. With `block` NULL, only the size is right. */
static int64_t lay_out(struct scratch *s, char *block, int64_t capacity, int64_t size, int64_t padded) {
    int64_t used = 0;
#define PART(field, count)                                                                                             \
    s->field = (void *)(block == NULL ? NULL : block + used);                                                          \
    used += aligned((count) * (int64_t)sizeof *s->field)
    PART(key, capacity);
    PART(value, capacity);
    PART(query, CHUNK);
    PART(gradient, CHUNK);
    PART(key_columns, capacity * size);
    PART(value_columns, capacity * size);
    PART(key_rows, capacity * padded);
    PART(query_rows, CHUNK * padded);
    PART(gradient_rows, CHUNK * padded);
    PART(weights_of_keys, capacity * CHUNK);
    PART(changes_of_keys, capacity * CHUNK);
    PART(change, ROWS * capacity);
    PART(scores, ROWS * capacity);
    PART(products, ROWS * capacity);
    PART(query_sums, ROWS * padded);
    PART(key_sums, capacity * padded);
    PART(value_sums, capacity * padded);
#undef PART
    return used;
}

/* Probabilities and gradients of the scores of up to ROWS queries of a head, from query `start` of the row's own on, and
 * the gradients of these queries. `begin` is the first query of the chunk, and its last one sees at most `keys` keys. */
static void score_gradients(const struct tree *t, struct scratch *s, const element *qkv, const element *out,
                            const float *log_sums, const element *gradient, element *qkv_gradient, const element *cos,
                            const element *sin, int64_t first, int64_t shared, int64_t start, int64_t begin, int rows,
                            int64_t keys, int64_t head, int64_t capacity, int64_t padded) {
    int64_t size = t->size, width = (t->heads + 2 * t->key_heads) * size;
    int64_t seen = shared + start + rows, depth = round_up(seen, PAIR);
    const element *x[ROWS], *g[ROWS];
    for (int r = 0; r < ROWS; r++) {
        int64_t node = first + start + (r < rows ? r : 0);
        x[r] = qkv + node * width + head * size;
        g[r] = gradient + (node * t->heads + head) * size;
    }
    for (int64_t c = 0; c < seen; c += PANEL) {
        tile_product(x, size, s->key_columns + c * size, s->scores + c, capacity, 0);
        tile_product(g, size, s->value_columns + c * size, s->products + c, capacity, 0);
    }
    for (int r = 0; r < ROWS; r++) {
        int64_t visible = r < rows ? shared + start + r + 1 : 0, node = first + start + (r < rows ? r : 0);
        const element *result = out + (node * t->heads + head) * size;
        float *score = s->scores + r * capacity, *product = s->products + r * capacity;
        float log_sum = log_sums[node * t->heads + head], mean = 0;
#pragma omp simd reduction(+ : mean)
        for (int64_t j = 0; j < size; j++)
            mean += to_float(result[j]) * to_float(g[r][j]);
#pragma omp simd
        for (int64_t k = 0; k < visible; k++) {
            score[k] = exp_nonpositive(score[k] * t->scale - log_sum);
            product[k] = score[k] * (product[k] - mean) * t->scale;
        }
        for (int64_t k = visible; k < keys; k++)
            score[k] = product[k] = 0;
        element *change = s->change + r * capacity;
        for (int64_t k = 0; k < seen; k++)
            change[k] = from_float(product[k]);
        for (int64_t k = seen; k < depth; k++)
            change[k] = 0;
        x[r] = change;
    }
    for (int64_t k = 0; k < keys; k++) {
        element *weight = s->weights_of_keys + k * CHUNK + start - begin;
        element *change = s->changes_of_keys + k * CHUNK + start - begin;
        for (int r = 0; r < ROWS; r++) {
            weight[r] = from_float(s->scores[r * capacity + k]);
            change[r] = from_float(s->products[r * capacity + k]);
        }
    }
    for (int64_t c = 0; c < size; c += PANEL)
        tile_product(x, depth, s->key_rows + c * capacity, s->query_sums + c, padded, 0);
    for (int r = 0; r < rows; r++) {
        int64_t node = first + start + r;
        rotate_back(s->query_sums + r * padded, cos + node * size, sin + node * size,
                    qkv_gradient + node * width + head * size, size);
    }
}

/* The gradient of qkv before the rotation of queries and keys.
 *
 * gradient: of `out`. cos and sin (nodes, size). places: for each node, the indices of `path` at which it is, those of node
 * i from place_starts[i] on. partial (length of the path, key heads, 2, size): scratch memory for the gradients of keys and
 * values of each row, which are added in the order of the rows. Returns 1 if memory runs out. */
int tree_attention_backward(const struct tree *t, const element *qkv, const element *out, const float *log_sums,
                            const element *gradient, const element *cos, const element *sin, const int64_t *places,
                            const int64_t *place_starts, int64_t nodes, float *partial, element *qkv_gradient) {
    int64_t size = t->size, padded = round_up(size, PANEL), capacity = round_up(t->longest, PANEL);
    int64_t width = (t->heads + 2 * t->key_heads) * size, group = t->heads / t->key_heads;
    int failed = 0;
#pragma omp parallel
    {
        struct scratch s;
        char *block = aligned_alloc(64, lay_out(&s, NULL, capacity, size, padded));
        if (block == NULL) {
#pragma omp atomic write
            failed = 1;
        } else
            lay_out(&s, block, capacity, size, padded);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < t->rows * t->key_heads; task++) {
            int64_t row = task / t->key_heads, key_head = task % t->key_heads, shared = t->shared[row];
            int64_t count = t->starts[row + 1] - t->starts[row], own = count - shared;
            if (block == NULL)
                continue;
            if (own > 0) {
                int64_t first = t->path[t->starts[row] + shared];
                vectors_of_path(t, row, qkv, t->heads + key_head, s.key);
                vectors_of_path(t, row, qkv, t->heads + t->key_heads + key_head, s.value);
                pack_columns(s.key, count, size, s.key_columns);
                pack_columns(s.value, count, size, s.value_columns);
                pack_rows(s.key, count, size, capacity, s.key_rows);
                memset(s.key_sums, 0, round_up(count, ROWS) * padded * sizeof *s.key_sums);
                memset(s.value_sums, 0, round_up(count, ROWS) * padded * sizeof *s.value_sums);
                for (int64_t head = key_head * group; head < (key_head + 1) * group; head++)
                    for (int64_t begin = 0; begin < own; begin += CHUNK) {
                        int64_t queries = own - begin < CHUNK ? own - begin : CHUNK;
                        int64_t keys = round_up(shared + begin + queries, ROWS);
                        for (int64_t i = 0; i < queries; i++) {
                            s.query[i] = qkv + (first + begin + i) * width + head * size;
                            s.gradient[i] = gradient + ((first + begin + i) * t->heads + head) * size;
                        }
                        pack_rows(s.query, queries, size, CHUNK, s.query_rows);
                        pack_rows(s.gradient, queries, size, CHUNK, s.gradient_rows);
                        for (int64_t start = begin; start < begin + queries; start += ROWS) {
                            int64_t left = begin + queries - start;
                            score_gradients(t, &s, qkv, out, log_sums, gradient, qkv_gradient, cos, sin, first, shared,
                                            start, begin, left < ROWS ? left : ROWS, keys, head, capacity, padded);
                        }
                        for (int64_t k = 0; k < keys; k += ROWS) {
                            const element *weights[ROWS], *changes[ROWS];
                            for (int r = 0; r < ROWS; r++) {
                                weights[r] = s.weights_of_keys + (k + r) * CHUNK;
                                changes[r] = s.changes_of_keys + (k + r) * CHUNK;
                            }
                            for (int64_t c = 0; c < size; c += PANEL) {
                                tile_product(weights, round_up(queries, PAIR), s.gradient_rows + c * CHUNK,
                                             s.value_sums + k * padded + c, padded, 1);
                                tile_product(changes, round_up(queries, PAIR), s.query_rows + c * CHUNK,
                                             s.key_sums + k * padded + c, padded, 1);
                            }
                        }
                    }
            }
            for (int64_t i = 0; i < count; i++) {
                float *to = partial + ((t->starts[row] + i) * t->key_heads + key_head) * 2 * size;
                for (int64_t j = 0; j < size; j++) {
                    to[j] = own > 0 ? s.key_sums[i * padded + j] : 0;
                    to[size + j] = own > 0 ? s.value_sums[i * padded + j] : 0;
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t node = 0; node < nodes; node++) {
            if (block == NULL)
                continue;
            for (int64_t key_head = 0; key_head < t->key_heads; key_head++) {
                float *sums = s.query_sums; /* at least 2 * size */
                memset(sums, 0, 2 * size * sizeof *sums);
                for (int64_t i = place_starts[node]; i < place_starts[node + 1]; i++) {
                    const float *from = partial + (places[i] * t->key_heads + key_head) * 2 * size;
                    for (int64_t j = 0; j < 2 * size; j++)
                        sums[j] += from[j];
                }
                element *to = qkv_gradient + node * width + (t->heads + key_head) * size;
                rotate_back(sums, cos + node * size, sin + node * size, to, size);
                to += t->key_heads * size;
                for (int64_t j = 0; j < size; j++)
                    to[j] = from_float(sums[size + j]);
            }
        }
        free(block);
    }
    return failed;
}
