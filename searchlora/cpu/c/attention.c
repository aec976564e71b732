/* Attention over the KV cache, blockwise with an online softmax. A query's result does not depend on the other queries:
 * QUERIES of them are always computed, if need be the first again, and the columns are blocks of KEY_BLOCK. */
#include "numeric.h"
#include <stdlib.h>

enum {
    QUERIES = 4,    /* queries computed together */
    KEYS = 4,       /* keys computed together */
    KEY_BLOCK = 64, /* keys per softmax block */
    PIECE = 64,     /* elements of a head per accumulator */
    VECTORS = 2,         /* of each query's sums that stay in registers */
};

#ifdef AVX512
/* The sums of the 16 elements of each of 16 vectors, in order. */
static inline __m512 horizontal_sums(__m512 v[16]) {
    for (int i = 0; i < 8; i++) /* pairs of adjacent elements */
        v[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; i++) { /* four elements, in each quarter */
        __m512d a = _mm512_castps_pd(v[2 * i]), b = _mm512_castps_pd(v[2 * i + 1]);
        v[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (int i = 0; i < 2; i++) /* quarters 0 and 2 of both vectors, plus quarters 1 and 3 */
        v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd));
}
#else
/* The sums of the elements of two vectors, and of the two after them. */
static inline void horizontal_sums(const vector v[4], float first[2], float second[2]) {
    quad quads[4];
    for (int i = 0; i < 4; i++) {
        memcpy(&quads[i], &v[i], sizeof *quads);
        for (int j = 1; j < VECTOR / 4; j++) {
            quad more;
            memcpy(&more, (const char *)&v[i] + j * sizeof more, sizeof more);
            quads[i] += more;
        }
    }
#ifdef __SSE3__
    quad sums = _mm_hadd_ps(_mm_hadd_ps(quads[0], quads[1]), _mm_hadd_ps(quads[2], quads[3]));
#else
    quad sums;
    for (int i = 0; i < 4; i++)
        sums[i] = (quads[i][0] + quads[i][1]) + (quads[i][2] + quads[i][3]);
#endif
    memcpy(first, &sums, 2 * sizeof *first);
    memcpy(second, (const char *)&sums + 2 * sizeof *first, 2 * sizeof *second);
}
#endif

/* scores[r * stride + k] = q[r] · keys[k] for QUERIES queries and `count` (at most KEYS) adjacent keys of `size` elements;
 * each key is read once for all queries. */
static inline void dot_products(const element *const *q, const element *keys, int count, int size, float *scores,
                                size_t stride) {
    const element *key[KEYS];
    for (int k = 0; k < KEYS; k++)
        key[k] = keys + (size_t)(k < count ? k : count - 1) * size;
    float sums[QUERIES][KEYS];
    int i = 0;
#ifdef AVX512
    __m512 lanes[QUERIES * KEYS];
    for (int l = 0; l < QUERIES * KEYS; l++)
        lanes[l] = _mm512_setzero_ps();
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        __m512bh queries[QUERIES];
        for (int r = 0; r < QUERIES; r++)
            queries[r] = (__m512bh)_mm512_loadu_si512(q[r] + i);
        for (int k = 0; k < KEYS; k++) {
            __m512bh vector = (__m512bh)_mm512_loadu_si512(key[k] + i);
            for (int r = 0; r < QUERIES; r++)
                lanes[r * KEYS + k] = _mm512_dpbf16_ps(lanes[r * KEYS + k], queries[r], vector);
        }
    }
    _mm512_storeu_ps(&sums[0][0], horizontal_sums(lanes));
#else
    i = size / VECTOR * VECTOR;
    for (int half = 0; half < KEYS; half += KEYS / 2) { /* so that the sums stay in registers */
        vector lanes[QUERIES][KEYS / 2];
        for (int r = 0; r < QUERIES; r++)
            for (int k = 0; k < KEYS / 2; k++)
                lanes[r][k] = (vector){0};
        for (int j = 0; j + VECTOR <= size; j += VECTOR)
            for (int k = 0; k < KEYS / 2; k++) {
                vector elements = load_vector(key[half + k] + j);
                for (int r = 0; r < QUERIES; r++)
                    lanes[r][k] = multiply_add_vectors(elements, load_vector(q[r] + j), lanes[r][k]);
            }
        for (int r = 0; r < QUERIES; r += 2)
            horizontal_sums(lanes[r], &sums[r][half], &sums[r + 1][half]);
    }
#endif
    for (int r = 0; r < QUERIES; r++)
        for (int k = 0; k < count; k++) {
            for (int j = i; j < size; j++)
                sums[r][k] = multiply_add(to_float(q[r][j]), to_float(key[k][j]), sums[r][k]);
            scores[r * stride + k] = sums[r][k];
        }
}

/* sums[r][j] += weights[r * stride + k] * values[k * size + j] over `count` values, for `width` (at most PIECE) elements. */
static inline void weighted_sum(float sums[QUERIES][PIECE], const float *weights, size_t stride, const element *values,
                                size_t size, int count, int width) {
    int start = 0;
    for (; start + VECTORS * VECTOR <= width; start += VECTORS * VECTOR) {
        vector block[QUERIES][VECTORS];
        for (int r = 0; r < QUERIES; r++)
            for (int v = 0; v < VECTORS; v++)
                block[r][v] = load_floats(&sums[r][start + v * VECTOR]);
        for (int k = 0; k < count; k++)
            for (int v = 0; v < VECTORS; v++) {
                vector elements = load_vector(values + k * size + start + v * VECTOR);
                for (int r = 0; r < QUERIES; r++)
                    block[r][v] = multiply_add_vectors(broadcast(weights[r * stride + k]), elements, block[r][v]);
            }
        for (int r = 0; r < QUERIES; r++)
            for (int v = 0; v < VECTORS; v++)
                store_floats(&sums[r][start + v * VECTOR], block[r][v]);
    }
    for (int k = 0; k < count; k++)
        for (int r = 0; r < QUERIES; r++)
            for (int j = start; j < width; j++)
                sums[r][j] = multiply_add(weights[r * stride + k], to_float(values[k * size + j]), sums[r][j]);
}

/* softmax(scale * q K' + mask) V with an online softmax over blocks of keys (arXiv:1805.02867).
 *
 * q (rows, heads, new, size) by the strides of a row, a head and a token; k and v (rows, key heads, columns, size) by the
 * strides of a row and a head; mask (rows, new, columns) by the strides of a row and a token, added to the scores, the
 * lowest number where a token does not attend; out (rows, new, heads, size). Blocks of keys that no query sees are
 * skipped; for a query that does not see a block, the block changes nothing, to the last bit.
 * Returns 1 if memory runs out. */
int attention(const element *q, const element *k, const element *v, const element *mask, element *out, int64_t rows,
              int64_t new, int64_t heads, int64_t key_heads, int64_t size, int64_t columns, const int64_t *strides,
              float scale) {
    enum { Q_ROW, Q_HEAD, Q_TOKEN, K_ROW, K_HEAD, V_ROW, V_HEAD, MASK_ROW, MASK_TOKEN };
    const float hidden = -3.3e38f;                     /* score of a key that is not attended to */
    int64_t group = heads / key_heads, queries = group * new; /* of one row and key head */
    int64_t parts = (queries + QUERIES - 1) / QUERIES, pieces = (size + PIECE - 1) / PIECE;
    int64_t tasks = rows * key_heads * parts;
    int failed = 0;
#pragma omp parallel
    {
        float(*sums)[QUERIES][PIECE] = malloc(sizeof *sums * pieces);
        if (sums == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            if (sums == NULL)
                continue;
            int64_t part = task % parts, head = task / parts % key_heads, row = task / parts / key_heads;
            int64_t first = part * QUERIES, count = queries - first < QUERIES ? queries - first : QUERIES;
            const element *keys = k + row * strides[K_ROW] + head * strides[K_HEAD];
            const element *values = v + row * strides[V_ROW] + head * strides[V_HEAD];
            int64_t next = task + 1 < tasks ? task + 1 : 0; /* most likely the same thread's */
            int64_t next_head = next / parts % key_heads, next_row = next / parts / key_heads;
            const element *next_keys = k + next_row * strides[K_ROW] + next_head * strides[K_HEAD];
            const element *next_values = v + next_row * strides[V_ROW] + next_head * strides[V_HEAD];
            const element *query[QUERIES], *bias[QUERIES];
            for (int r = 0; r < QUERIES; r++) {
                int64_t index = first + (r < count ? r : 0), token = index / group;
                query[r] = q + row * strides[Q_ROW] + (head * group + index % group) * strides[Q_HEAD] +
                           token * strides[Q_TOKEN];
                bias[r] = mask + row * strides[MASK_ROW] + token * strides[MASK_TOKEN];
            }
            memset(sums, 0, sizeof *sums * pieces);
            float maximum[QUERIES], total[QUERIES] = {0};
            for (int r = 0; r < QUERIES; r++)
                maximum[r] = -3e38f;
            for (int64_t start = 0; start < columns; start += KEY_BLOCK) {
                int width = columns - start < KEY_BLOCK ? columns - start : KEY_BLOCK, is_visible = 0;
                float scores[QUERIES][KEY_BLOCK], added[QUERIES][KEY_BLOCK];
                for (int r = 0; r < QUERIES; r++)
                    for (int t = 0; t < width; t++) {
                        added[r][t] = to_float(bias[r][start + t]);
                        is_visible |= added[r][t] > -1e30f;
                    }
                if (!is_visible)
                    continue;
                for (int r = 0; r < QUERIES; r++)
                    for (int t = width; t < KEY_BLOCK; t++) {
                        scores[r][t] = 0;
                        added[r][t] = hidden;
                    }
                for (int t = 0; t < width; t += KEYS) {
                    int64_t ahead = start + t + KEY_BLOCK;
                    int is_next = ahead >= columns; /* prefetch for the next task */
                    ahead -= is_next ? columns : 0;
                    prefetch((is_next ? next_keys : keys) + ahead * size, KEYS * size);
                    prefetch((is_next ? next_values : values) + ahead * size, KEYS * size);
                    dot_products(query, keys + (start + t) * size, width - t < KEYS ? width - t : KEYS, size,
                                 &scores[0][t], KEY_BLOCK);
                }
                for (int r = 0; r < QUERIES; r++) {
                    float new_maximum = maximum[r];
#pragma omp simd reduction(max : new_maximum)
                    for (int t = 0; t < KEY_BLOCK; t++) {
                        scores[r][t] = multiply_add(scores[r][t], scale, added[r][t]);
                        new_maximum = scores[r][t] > new_maximum ? scores[r][t] : new_maximum;
                    }
                    float rescale = exp_nonpositive(maximum[r] - new_maximum);
#pragma omp simd
                    for (int t = 0; t < KEY_BLOCK; t++)
                        scores[r][t] = exp_nonpositive(scores[r][t] - new_maximum);
                    total[r] = multiply_add(total[r], rescale, sum_of(scores[r], KEY_BLOCK));
                    maximum[r] = new_maximum;
                    for (int64_t piece = 0; piece < pieces; piece++)
                        for (int j = 0; j < PIECE; j++)
                            sums[piece][r][j] *= rescale;
                }
                for (int64_t piece = 0; piece < pieces; piece++) {
                    int64_t column = piece * PIECE;
                    weighted_sum(sums[piece], &scores[0][0], KEY_BLOCK, values + start * size + column, size, width,
                                 size - column < PIECE ? size - column : PIECE);
                }
            }
            for (int r = 0; r < count; r++) {
                int64_t index = first + r;
                element *result = out + ((row * new + index / group) * heads + head * group + index % group) * size;
                for (int64_t i = 0; i < size; i++)
                    result[i] = from_float(sums[i / PIECE][r][i % PIECE] / total[r]);
            }
        }
        free(sums);
    }
    return failed;
}
