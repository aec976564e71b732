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
    CHUNK = 64, /* queries whose gradients are computed together */
    PART_ROWS = 4,
    PART_VECTORS = 2,
};
static const float HIDDEN = -3e38f; /* score of a key that is not seen: its probability is 0 */

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
    for (int top = 0; top < ROWS; top += PART_ROWS) /* parts whose sums stay in registers */
        for (int left = 0; left < PANEL; left += PART_VECTORS * VECTOR) {
            vector sums[PART_ROWS][PART_VECTORS];
            for (int r = 0; r < PART_ROWS; r++)
                for (int v = 0; v < PART_VECTORS; v++)
                    sums[r][v] = accumulate ? load_floats(out + (top + r) * stride + left + v * VECTOR) : (vector){0};
            for (int64_t k = 0; k < depth; k++) {
                vector weights[PART_VECTORS];
                for (int v = 0; v < PART_VECTORS; v++)
                    weights[v] = load_packed(w + k / PAIR * PAIR * PANEL + (left + v * VECTOR) * PAIR, k % PAIR);
                for (int r = 0; r < PART_ROWS; r++)
                    for (int v = 0; v < PART_VECTORS; v++)
                        sums[r][v] = multiply_add_vectors(broadcast(to_float(x[top + r][k])), weights[v], sums[r][v]);
            }
            for (int r = 0; r < PART_ROWS; r++)
                for (int v = 0; v < PART_VECTORS; v++)
                    store_floats(out + (top + r) * stride + left + v * VECTOR, sums[r][v]);
        }
#endif
}

/* Vectors as columns: out (count / PANEL, size / PAIR, PANEL, PAIR), the last panel filled with zeros. */
static void pack_columns(const element *const *vectors, int64_t count, int64_t size, element *out) {
    for (int64_t begin = 0; begin < count; begin += PANEL) {
        int64_t width = count - begin < PANEL ? count - begin : PANEL;
        for (int64_t k = 0; k < size; k += PAIR, out += PANEL * PAIR) {
            for (int64_t c = 0; c < width; c++)
                memcpy(out + c * PAIR, vectors[begin + c] + k, PAIR * sizeof *out);
            memset(out + width * PAIR, 0, (PANEL - width) * PAIR * sizeof *out);
        }
    }
}

/* Vectors as rows: out (size / PANEL, capacity / PAIR, PANEL, PAIR), filled with zeros to whole pairs and panels. */
static void pack_rows(const element *const *vectors, int64_t count, int64_t size, int64_t capacity, element *out) {
    static const element zeros[PANEL];
    for (int64_t begin = 0; begin < size; begin += PANEL, out += capacity * PANEL) {
        int64_t width = size - begin < PANEL ? size - begin : PANEL;
        element *to = out;
        for (int64_t k = 0; k < count; k += PAIR, to += PANEL * PAIR) {
            const element *first = vectors[k] + begin, *second = k + 1 < count ? vectors[k + 1] + begin : zeros;
            for (int64_t c = 0; c < width; c++) {
                to[c * PAIR] = first[c];
                to[c * PAIR + PAIR - 1] = PAIR == 1 ? first[c] : second[c];
            }
            memset(to + width * PAIR, 0, (PANEL - width) * PAIR * sizeof *to);
        }
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
                        for (int64_t k = 0; k < round_up(visible, LANES); k++) {
                            score[k] = k < visible ? score[k] : HIDDEN;
                            highest = score[k] > highest ? score[k] : highest;
                        }
#pragma omp simd reduction(+ : total)
                        for (int64_t k = 0; k < round_up(visible, LANES); k++) {
                            float e = exp_nonpositive((score[k] - highest) * t->scale);
                            weight[k] = from_float(e);
                            total += e;
                        }
                        for (int64_t k = round_up(visible, LANES); k < depth; k++)
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
    element *transposed_keys;                          /* (size, capacity) */
    element *query_columns, *gradient_columns, *query_rows, *gradient_rows; /* packed vectors of a chunk */
    element *changes;                                  /* gradients of scores, packed (CHUNK / PANEL, keys, PANEL) */
    float *log_sums, *means;                           /* (CHUNK) */
    float *query_sums, *key_sums, *value_sums;         /* (CHUNK or keys, padded size) */
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
    PART(transposed_keys, padded * capacity);
    PART(query_columns, CHUNK * size);
    PART(gradient_columns, CHUNK * size);
    PART(query_rows, CHUNK * padded);
    PART(gradient_rows, CHUNK * padded);
    PART(changes, CHUNK * capacity);
    PART(log_sums, CHUNK);
    PART(means, CHUNK);
    PART(query_sums, CHUNK * padded);
    PART(key_sums, capacity * padded);
    PART(value_sums, capacity * padded);
#undef PART
    return used;
}

/* Probabilities of ROWS keys for PANEL queries and the gradients of their scores, from their scores and the products of
 * values and gradients, all (ROWS, PANEL). Key r is seen by the queries from first_seen + r on. */
static inline void score_gradients(float scores[ROWS][PANEL], float products[ROWS][PANEL], const float *log_sums,
                                   const float *means, float scale, int64_t first_seen) {
    for (int r = 0; r < ROWS; r++)
#pragma omp simd
        for (int c = 0; c < PANEL; c++) {
            float probability = exp_nonpositive(scores[r][c] * scale - log_sums[c]);
            probability = c < first_seen + r ? 0.0f : probability;
            scores[r][c] = probability;
            products[r][c] = probability * (products[r][c] - means[c]) * scale;
        }
}

/* Adds the gradients of the keys and values of a row that come from up to CHUNK of its own queries, and computes
 * those of the queries, of one head. `before`: nodes of the row before the first of these queries; `node`: that query. */
static void chunk_gradients(const struct tree *t, struct scratch *s, const element *qkv, const element *out,
                            const float *log_sums, const element *gradient, const element *cos, const element *sin,
                            element *qkv_gradient, int64_t before, int64_t node, int64_t queries, int64_t count,
                            int64_t head, int64_t capacity, int64_t padded) {
    int64_t size = t->size, width = (t->heads + 2 * t->key_heads) * size, depth = round_up(queries, PAIR);
    for (int64_t i = 0; i < queries; i++) {
        int64_t place = (node + i) * t->heads + head;
        s->query[i] = qkv + (node + i) * width + head * size;
        s->gradient[i] = gradient + place * size;
        float mean = 0;
#pragma omp simd reduction(+ : mean)
        for (int64_t j = 0; j < size; j++)
            mean += to_float(out[place * size + j]) * to_float(s->gradient[i][j]);
        s->means[i] = mean;
        s->log_sums[i] = log_sums[place];
    }
    for (int64_t i = queries; i < CHUNK; i++)
        s->means[i] = 0, s->log_sums[i] = -HIDDEN;
    pack_columns(s->query, queries, size, s->query_columns);
    pack_columns(s->gradient, queries, size, s->gradient_columns);
    pack_rows(s->query, queries, size, CHUNK, s->query_rows);
    pack_rows(s->gradient, queries, size, CHUNK, s->gradient_rows);
    int64_t seen = round_up(before + queries, ROWS);
    for (int64_t k = 0; k < seen; k += ROWS) {
        element probabilities[ROWS][CHUNK], changes[ROWS][CHUNK];
        const element *keys[ROWS], *values[ROWS], *x[ROWS], *g[ROWS];
        int64_t first = k - before < 0 ? 0 : (k - before) / PANEL * PANEL; /* query of the first panel that sees a key */
        for (int r = 0; r < ROWS; r++) {
            int64_t place = k + r < count ? k + r : count - 1;
            keys[r] = s->key[place];
            values[r] = s->value[place];
            x[r] = probabilities[r] + first;
            g[r] = changes[r] + first;
        }
        for (int64_t c = first; c < queries; c += PANEL) {
            float scores[ROWS][PANEL], products[ROWS][PANEL];
            tile_product(keys, size, s->query_columns + c * size, scores[0], PANEL, 0);
            tile_product(values, size, s->gradient_columns + c * size, products[0], PANEL, 0);
            score_gradients(scores, products, s->log_sums + c, s->means + c, t->scale, k - before - c);
            element *packed = s->changes + c * capacity + k * PANEL;
            for (int r = 0; r < ROWS; r++)
                for (int i = 0; i < PANEL; i++) {
                    probabilities[r][c + i] = from_float(scores[r][i]);
                    changes[r][c + i] = from_float(products[r][i]);
                }
            for (int r = 0; r < ROWS; r += PAIR)
                for (int i = 0; i < PANEL; i++)
                    for (int p = 0; p < PAIR; p++)
                        packed[r * PANEL + i * PAIR + p] = changes[r + p][c + i];
        }
        for (int64_t c = 0; c < size; c += PANEL) {
            tile_product(x, depth - first, s->gradient_rows + c * CHUNK + first * PANEL,
                         s->value_sums + k * padded + c, padded, 1);
            tile_product(g, depth - first, s->query_rows + c * CHUNK + first * PANEL, s->key_sums + k * padded + c,
                         padded, 1);
        }
    }
    for (int64_t c = 0; c < queries; c += PANEL) {
        int64_t last = before + c + PANEL < seen ? before + c + PANEL : seen;
        for (int64_t j = 0; j < size; j += ROWS) {
            const element *x[ROWS];
            float sums[ROWS][PANEL];
            for (int r = 0; r < ROWS; r++)
                x[r] = s->transposed_keys + (j + r) * capacity;
            tile_product(x, round_up(last, ROWS), s->changes + c * capacity, sums[0], PANEL, 0);
            for (int i = 0; i < PANEL; i++)
                for (int r = 0; r < ROWS; r++)
                    s->query_sums[(c + i) * padded + j + r] = sums[r][i];
        }
    }
    for (int64_t i = 0; i < queries; i++)
        rotate_back(s->query_sums + i * padded, cos + (node + i) * size, sin + (node + i) * size,
                    qkv_gradient + (node + i) * width + head * size, size);
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
                for (int64_t j = 0; j < round_up(size, ROWS); j++)
                    for (int64_t k = 0; k < round_up(count, ROWS); k++)
                        s.transposed_keys[j * capacity + k] = j < size && k < count ? s.key[k][j] : 0;
                memset(s.key_sums, 0, round_up(count, ROWS) * padded * sizeof *s.key_sums);
                memset(s.value_sums, 0, round_up(count, ROWS) * padded * sizeof *s.value_sums);
                for (int64_t head = key_head * group; head < (key_head + 1) * group; head++)
                    for (int64_t begin = 0; begin < own; begin += CHUNK)
                        chunk_gradients(t, &s, qkv, out, log_sums, gradient, cos, sin, qkv_gradient, shared + begin,
                                        first + begin, own - begin < CHUNK ? own - begin : CHUNK, count, head, capacity,
                                        padded);
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
                float *sums = s.query_sums; /* more than 2 * size */
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
