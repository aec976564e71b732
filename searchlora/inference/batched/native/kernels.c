/* Steps of a pass that PyTorch computes in several: see native/__init__.py.
 *
 * Compiled once for each kind of number: with -DBF16 for bfloat16, without for float. Sums are kept in float.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { ROWS = 4, MANY = 4, LANES = 16, COLUMNS = 64, BLOCK = 32, SEEN = 64, SMALL = 1 << 15 };

#ifdef BF16
typedef uint16_t value;

static inline float from(value v) {
    uint32_t bits = (uint32_t)v << 16;
    float found;
    memcpy(&found, &bits, sizeof found);
    return found;
}

static inline value to(float f) { /* rounds to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (value)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float value;
static inline float from(value v) { return v; }
static inline value to(float f) { return f; }
#endif

#if defined(BF16) && defined(__AVX512BF16__)
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
#if defined(BF16) && defined(__AVX512BF16__)
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

/* sums[row][j] += factors[row * next + k] * w[k][j] over `many` vectors w of `width` (at most COLUMNS) numbers. */
static inline void weighted(float sums[ROWS][COLUMNS], const float *factors, size_t next, const value *w,
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

/* sums[row][j] += factors[row * next + k] * w[k / 2][j][k % 2] over an even number of k, for COLUMNS numbers: the layout
 * that a product of pairs reads. */
static inline void paired(float sums[ROWS][COLUMNS], const value *factors, size_t next, const value *w, int many) {
#if defined(BF16) && defined(__AVX512BF16__)
    enum { PARTS = COLUMNS / LANES };
    __m512 lanes[ROWS][PARTS];
    for (int r = 0; r < ROWS; r++)
        for (int part = 0; part < PARTS; part++)
            lanes[r][part] = _mm512_loadu_ps(&sums[r][part * LANES]);
    for (int k = 0; k < many; k += 2, w += 2 * COLUMNS) {
        __m512bh weights[PARTS];
        for (int part = 0; part < PARTS; part++)
            weights[part] = (__m512bh)_mm512_loadu_si512(w + part * 2 * LANES);
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, factors + r * next + k, sizeof pair);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            for (int part = 0; part < PARTS; part++)
                lanes[r][part] = _mm512_dpbf16_ps(lanes[r][part], weights[part], both);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int part = 0; part < PARTS; part++)
            _mm512_storeu_ps(&sums[r][part * LANES], lanes[r][part]);
#else
    for (int k = 0; k < many; k += 2, w += 2 * COLUMNS)
        for (int r = 0; r < ROWS; r++) {
            float even = from(factors[r * next + k]), odd = from(factors[r * next + k + 1]);
            for (int j = 0; j < COLUMNS; j++)
                sums[r][j] += even * from(w[2 * j]) + odd * from(w[2 * j + 1]);
        }
#endif
}

/* y += (x A') B of the adapter that each row wears, for layers that read the same x.
 *
 * x (rows, in), y (rows, out), a (slots, layers * rank, in); the columns of layer l end before ends[l]. b (slots, blocks,
 * rank / 2, COLUMNS, 2) holds the columns of each layer in blocks, the last one of a layer filled up, so that it is read
 * from one end to the other; the rank is even. An item is up to ROWS rows that wear one adapter: its slot, their numbers (items, ROWS) and how many they
 * are. Gives 1 where there is no memory, and has changed nothing then.
 */
int lora(const value *x, value *y, const value *a, const value *b, const int64_t *slots, const int64_t *rows,
         const int64_t *counts, int64_t items, int64_t in, int64_t out, int64_t rank, int64_t layers,
         const int64_t *ends) {
    int64_t inner = rank * layers, parts = (inner + MANY - 1) / MANY, blocks = 0;
    for (int64_t l = 0, start = 0; l < layers; start = ends[l++])
        blocks += (ends[l] - start + COLUMNS - 1) / COLUMNS;
    value *h = calloc(items * ROWS * inner, sizeof(value));
    if (h == NULL)
        return 1;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t task = 0; task < items * parts; task++) {
            int64_t item = task / parts, k = task % parts * MANY;
            const value *of_rows[ROWS];
            for (int r = 0; r < ROWS; r++)
                of_rows[r] = x + rows[item * ROWS + (r < counts[item] ? r : 0)] * in;
            int many = inner - k < MANY ? inner - k : MANY;
            float found[ROWS][MANY];
            dots(of_rows, a + (slots[item] * inner + k) * in, in, many, in, &found[0][0], MANY);
            for (int r = 0; r < ROWS; r++)
                for (int q = 0; q < many; q++)
                    h[(item * ROWS + r) * inner + k + q] = to(found[r][q]);
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < items * blocks; task++) {
            int64_t item = task / blocks, block = task % blocks, layer = 0, start = 0;
            for (;;) {
                int64_t of_layer = (ends[layer] - start + COLUMNS - 1) / COLUMNS;
                if (block < of_layer)
                    break;
                block -= of_layer;
                start = ends[layer++];
            }
            int64_t column = start + block * COLUMNS;
            int width = ends[layer] - column < COLUMNS ? ends[layer] - column : COLUMNS;
            float sums[ROWS][COLUMNS] = {0};
            paired(sums, h + item * ROWS * inner + layer * rank, inner,
                   b + (slots[item] * blocks + task % blocks) * rank * COLUMNS, rank);
            for (int r = 0; r < counts[item]; r++) {
                value *row = y + rows[item * ROWS + r] * out + column;
                for (int j = 0; j < width; j++)
                    row[j] = to(from(row[j]) + sums[r][j]);
            }
        }
    }
    free(h);
    return 0;
}

/* out = weight * x / sqrt(mean(x^2) + epsilon) of `count` vectors (arXiv:1910.07467), rounded before the weight as Llama
 * does. */
void norm(const value *x, const value *weight, value *out, int64_t count, int64_t size, float epsilon) {
#pragma omp parallel for schedule(static) if (count * size > SMALL)
    for (int64_t i = 0; i < count; i++) {
        const value *vector = x + i * size;
        value *found = out + i * size;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < size; j++)
            sum += from(vector[j]) * from(vector[j]);
        float factor = 1.0f / sqrtf(sum / size + epsilon);
        for (int64_t j = 0; j < size; j++)
            found[j] = to(from(weight[j]) * from(to(from(vector[j]) * factor)));
    }
}

/* e to the power of a number that is not above 0: 2^n (Cephes' expf), 0 below the least that float can hold. */
static inline float power(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = (float)(int32_t)(x * 1.44269504f - 0.5f);
    float rest = x - n * 0.693359375f + n * 2.12194440e-4f;
    float found = 1.9875691500e-4f;
    found = found * rest + 1.3981999507e-3f;
    found = found * rest + 8.3334519073e-3f;
    found = found * rest + 4.1665795894e-2f;
    found = found * rest + 1.6666665459e-1f;
    found = found * rest + 5.0000001201e-1f;
    found = found * rest * rest + rest + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return x <= -87.0f ? 0.0f : found * scale;
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
    int64_t group = heads / key_heads, parts = (group + ROWS - 1) / ROWS, pieces = (size + COLUMNS - 1) / COLUMNS;
    int failed = 0;
#pragma omp parallel
    {
        float(*sums)[ROWS][COLUMNS] = malloc(sizeof *sums * pieces);
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
                for (int t = 0; t < many; t += MANY)
                    dots(queries, keys + (start + t) * size, size, many - t < MANY ? many - t : MANY, size,
                         &scores[0][t], SEEN);
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
                        for (int j = 0; j < COLUMNS; j++)
                            sums[piece][r][j] *= kept;
                }
                for (int64_t piece = 0; piece < pieces; piece++) {
                    int64_t column = piece * COLUMNS;
                    weighted(sums[piece], &scores[0][0], SEEN, values + start * size + column, size, many,
                             size - column < COLUMNS ? size - column : COLUMNS);
                }
            }
            for (int r = 0; r < count; r++)
                for (int64_t i = 0; i < size; i++)
                    out[(row * heads + first + r) * size + i] = to(sums[i / COLUMNS][r][i % COLUMNS] / whole[r]);
        }
        free(sums);
    }
    return failed;
}