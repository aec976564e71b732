/* Attention of one new token a row. */
#include "numbers.h"
#include <stdlib.h>

enum {
    ROWS = 4,   /* queries that are computed together */
    MANY = 4,   /* keys, as well */
    SEEN = 64,  /* keys of a block */
    WIDE = 64,  /* numbers of a head in a piece */
    BLOCK = 32, /* of these, what stays in registers */
};

#ifdef VECTORS
/* Of each of 16 vectors the sum of its 16 numbers, in their order. */
static inline __m512 sums_of(__m512 v[16]) {
    for (int i = 0; i < 8; i++) /* of neighbours, in pairs of numbers */
        v[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; i++) { /* of four, in each quarter */
        __m512d a = _mm512_castps_pd(v[2 * i]), b = _mm512_castps_pd(v[2 * i + 1]);
        v[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (int i = 0; i < 2; i++) /* quarters: 0 and 2 of the one, 0 and 2 of the other; 1 and 3 added to them */
        v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd));
}
#endif

/* The products of ROWS vectors x with `many` (at most MANY) vectors that lie `stride` apart; into found[row * next + q].
 * Each vector is read once for all rows. */
static inline void dots(const value *const *x, const value *w, size_t stride, int many, int size, float *found,
                        size_t next) {
    const value *vectors[MANY];
    for (int q = 0; q < MANY; q++)
        vectors[q] = w + (size_t)(q < many ? q : many - 1) * stride;
    float sums[ROWS][MANY];
    int i = 0;
#ifdef VECTORS
    __m512 lanes[ROWS * MANY];
    for (int each = 0; each < ROWS * MANY; each++)
        lanes[each] = _mm512_setzero_ps();
    for (; i + 2 * LANES <= size; i += 2 * LANES) {
        __m512bh rows[ROWS];
        for (int r = 0; r < ROWS; r++)
            rows[r] = (__m512bh)_mm512_loadu_si512(x[r] + i);
        for (int q = 0; q < MANY; q++) {
            __m512bh vector = (__m512bh)_mm512_loadu_si512(vectors[q] + i);
            for (int r = 0; r < ROWS; r++)
                lanes[r * MANY + q] = _mm512_dpbf16_ps(lanes[r * MANY + q], rows[r], vector);
        }
    }
    _mm512_storeu_ps(&sums[0][0], sums_of(lanes));
#else
    float lanes[ROWS][MANY][LANES] = {0};
    for (; i + LANES <= size; i += LANES)
        for (int q = 0; q < MANY; q++) {
            float vector[LANES];
            for (int j = 0; j < LANES; j++)
                vector[j] = from(vectors[q][i + j]);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < LANES; j++)
                    lanes[r][q][j] += vector[j] * from(x[r][i + j]);
        }
    for (int r = 0; r < ROWS; r++)
        for (int q = 0; q < MANY; q++) {
            sums[r][q] = 0;
            for (int j = 0; j < LANES; j++)
                sums[r][q] += lanes[r][q][j];
        }
#endif
    for (int r = 0; r < ROWS; r++)
        for (int q = 0; q < many; q++) {
            for (int j = i; j < size; j++)
                sums[r][q] += from(x[r][j]) * from(vectors[q][j]);
            found[r * next + q] = sums[r][q];
        }
}

/* sums[row][j] += factors[row * next + k] * w[k][j] over `many` vectors w of `width` (at most WIDE) numbers. */
static inline void weighted(float sums[ROWS][WIDE], const float *factors, size_t next, const value *w,
                            size_t stride, int many, int width) {
    int start = 0;
    for (; start + BLOCK <= width; start += BLOCK) { /* few enough to stay in registers */
        float block[ROWS][BLOCK];
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < BLOCK; j++)
                block[r][j] = sums[r][start + j];
        for (int k = 0; k < many; k++)
            for (int j = 0; j < BLOCK; j++) {
                float number = from(w[k * stride + start + j]);
                for (int r = 0; r < ROWS; r++)
                    block[r][j] += factors[r * next + k] * number;
            }
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < BLOCK; j++)
                sums[r][start + j] = block[r][j];
    }
    for (int k = 0; k < many; k++)
        for (int r = 0; r < ROWS; r++)
            for (int j = start; j < width; j++)
                sums[r][j] += factors[r * next + k] * from(w[k * stride + j]);
}

/* Attention of one new token a row: softmax(scale * q K' + mask) V, blockwise (arXiv:1805.02867).
 *
 * q (rows, heads, size) and out (rows, heads, size) by their strides; k and v (rows, key heads, seen, size) by the
 * strides of a row and of a head; mask (rows, seen), added to the scores, its lowest numbers for what is not seen.
 * Gives 1 where there is no memory.
 */
int attend(const value *q, const value *k, const value *v, const value *mask, value *out, int64_t rows, int64_t heads,
           int64_t key_heads, int64_t size, int64_t seen, const int64_t *strides, float scale) {
    enum { Q_ROW, Q_HEAD, K_ROW, K_HEAD, V_ROW, V_HEAD, MASK_ROW };
    int64_t group = heads / key_heads, parts = (group + ROWS - 1) / ROWS, pieces = (size + WIDE - 1) / WIDE;
    int failed = 0;
#pragma omp parallel
    {
        float(*sums)[ROWS][WIDE] = malloc(sizeof *sums * pieces);
        if (sums == NULL) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < rows * key_heads * parts; task++) {
            if (sums == NULL)
                continue;
            int64_t part = task % parts, head = task / parts % key_heads, row = task / parts / key_heads;
            int64_t first = head * group + part * ROWS, count = group - part * ROWS < ROWS ? group - part * ROWS : ROWS;
            const value *queries[ROWS], *keys = k + row * strides[K_ROW] + head * strides[K_HEAD];
            const value *values = v + row * strides[V_ROW] + head * strides[V_HEAD];
            int64_t other = task + 1 < rows * key_heads * parts ? task + 1 : 0; /* most likely this thread's next one */
            int64_t other_head = other / parts % key_heads, other_row = other / parts / key_heads;
            const value *other_keys = k + other_row * strides[K_ROW] + other_head * strides[K_HEAD];
            const value *other_values = v + other_row * strides[V_ROW] + other_head * strides[V_HEAD];
            for (int r = 0; r < ROWS; r++)
                queries[r] = q + row * strides[Q_ROW] + (first + (r < count ? r : 0)) * strides[Q_HEAD];
            memset(sums, 0, sizeof *sums * pieces);
            float most[ROWS], whole[ROWS] = {0};
            for (int r = 0; r < ROWS; r++)
                most[r] = -3e38f;
            for (int64_t start = 0; start < seen; start += SEEN) {
                int many = seen - start < SEEN ? seen - start : SEEN, visible = 0;
                float added[SEEN], scores[ROWS][SEEN];
                for (int t = 0; t < many; t++) {
                    added[t] = from(mask[row * strides[MASK_ROW] + start + t]);
                    visible |= added[t] > -1e30f;
                }
                if (!visible)
                    continue;
                for (int t = 0; t < many; t += MANY) {
                    int64_t ahead = start + t + SEEN;
                    int beyond = ahead >= seen; /* among the next task's */
                    ahead -= beyond ? seen : 0;
                    fetch((beyond ? other_keys : keys) + ahead * size, MANY * size);
                    fetch((beyond ? other_values : values) + ahead * size, MANY * size);
                    dots(queries, keys + (start + t) * size, size, many - t < MANY ? many - t : MANY, size,
                         &scores[0][t], SEEN);
                }
                for (int r = 0; r < ROWS; r++) {
                    float highest = most[r];
#pragma omp simd reduction(max : highest)
                    for (int t = 0; t < many; t++) {
                        scores[r][t] = scores[r][t] * scale + added[t];
                        highest = scores[r][t] > highest ? scores[r][t] : highest;
                    }
                    float kept = power(most[r] - highest);
                    float sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int t = 0; t < many; t++) {
                        scores[r][t] = power(scores[r][t] - highest);
                        sum += scores[r][t];
                    }
                    whole[r] = whole[r] * kept + sum;
                    most[r] = highest;
                    for (int64_t piece = 0; piece < pieces; piece++)
                        for (int j = 0; j < WIDE; j++)
                            sums[piece][r][j] *= kept;
                }
                for (int64_t piece = 0; piece < pieces; piece++) {
                    int64_t column = piece * WIDE;
                    weighted(sums[piece], &scores[0][0], SEEN, values + start * size + column, size, many,
                             size - column < WIDE ? size - column : WIDE);
                }
            }
            for (int r = 0; r < count; r++)
                for (int64_t i = 0; i < size; i++)
                    out[(row * heads + first + r) * size + i] = to(sums[i / WIDE][r][i % WIDE] / whole[r]);
        }
        free(sums);
    }
    return failed;
}
