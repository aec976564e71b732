/* Element type of the kernels: bfloat16 with -DBF16, otherwise float. Sums are accumulated in float.
 *
 * In inference a row's result must not depend on the rows computed with it. So each kernel says in which order it adds,
 * and whether a product is rounded before it is added: `multiply_add` is rounded once on processors with fused
 * multiply-add, twice on others. The compiler is told to fuse nothing by itself (-ffp-contract=off), since it fuses
 * some copies of a loop and not others, and a sum over a vector is written with lanes, not left to a reduction clause.
 * Kernels of training, which promise no equal bits, have such clauses. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE3__
#include <immintrin.h>
#endif
#if defined(BF16) && defined(__AVX512BF16__)
#define AVX512 /* the processor multiplies 32 pairs of bfloat16 per instruction */
#endif

enum {
    LANES = 16,             /* floats per vector register */
    SERIAL_SIZE = 1 << 12,  /* below this many elements one thread is as fast as several */
};

#ifdef BF16
typedef uint16_t element;
enum { PAIR = 2 }; /* elements per multiply-add */

static inline float to_float(element v) {
    uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline element from_float(float f) { /* rounds to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (element)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float element;
enum { PAIR = 1 };
static inline float to_float(element v) { return v; }
static inline element from_float(float f) { return f; }
#endif

/* The vector registers. The compiler computes with vectors of this size on any processor. */
#if defined(__AVX512F__)
#define VECTOR_BITS 512
#elif defined(__AVX__)
#define VECTOR_BITS 256
#else
#define VECTOR_BITS 128
#endif
enum { VECTOR = VECTOR_BITS / 32 }; /* floats in one register */
typedef float vector __attribute__((vector_size(VECTOR * sizeof(float))));
typedef float quad __attribute__((vector_size(4 * sizeof(float))));

static inline vector load_floats(const float *x) {
    vector v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline void store_floats(float *x, vector v) { memcpy(x, &v, sizeof v); }

static inline vector broadcast(float f) { return f - (vector){0}; }

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FUSED /* the processor has fused multiply-add, with vectors and without */
#endif

/* a * b + c */
static inline float multiply_add(float a, float b, float c) {
#ifdef FUSED
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* a * b + c of each lane, as `multiply_add` computes it. */
static inline vector multiply_add_vectors(vector a, vector b, vector c) {
#if defined(__AVX512F__)
    return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX__) && defined(__FMA__)
    return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(FUSED)
    for (int i = 0; i < VECTOR; i++)
        c[i] = multiply_add(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

/* The sum of the lanes: of halves, until one is left. */
static inline float sum_of_lanes(vector v) {
    float lanes[VECTOR];
    store_floats(lanes, v);
    for (int half = VECTOR / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[half + i];
    return lanes[0];
}

/* The sum of `count` floats: by lanes, then the lanes, then the floats that fill no vector. */
static inline float sum_of(const float *x, int64_t count) {
    vector lanes = {0};
    int64_t i = 0;
    for (; i + VECTOR <= count; i += VECTOR)
        lanes += load_floats(x + i);
    float sum = sum_of_lanes(lanes);
    for (; i < count; i++)
        sum += x[i];
    return sum;
}

typedef uint32_t vector_of_words __attribute__((vector_size(VECTOR * sizeof(uint32_t))));

/* Element `part` (0 or 1) of each of VECTOR adjacent pairs of bfloat16 numbers, as floats. */
static inline vector load_part(const uint16_t *pairs, int part) {
    vector_of_words words;
    memcpy(&words, pairs, sizeof words);
    return (vector)(part ? words & 0xffff0000 : words << 16);
}

#ifdef BF16
typedef uint16_t vector_of_halves __attribute__((vector_size(VECTOR * sizeof(uint16_t))));

/* VECTOR adjacent elements as floats. */
static inline vector load_vector(const element *x) {
    vector_of_halves halves;
    memcpy(&halves, x, sizeof halves);
    return (vector)(__builtin_convertvector(halves, vector_of_words) << 16);
}
#else
static inline vector load_vector(const element *x) {
    vector v;
    memcpy(&v, x, sizeof v);
    return v;
}
#endif

/* exp(x) for x <= 0 (Cephes' expf); 0 below the smallest normal float. */
static inline float exp_nonpositive(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = (float)(int32_t)(x * 1.44269504f - 0.5f);
    float r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
    float p = 1.9875691500e-4f;
    p = multiply_add(p, r, 1.3981999507e-3f);
    p = multiply_add(p, r, 8.3334519073e-3f);
    p = multiply_add(p, r, 4.1665795894e-2f);
    p = multiply_add(p, r, 1.6666665459e-1f);
    p = multiply_add(p, r, 5.0000001201e-1f);
    p = multiply_add(p * r, r, r) + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return x <= -87.0f ? 0.0f : p * scale;
}

/* Prefetch `count` elements into the cache. */
static inline void prefetch(const element *begin, size_t count) {
    for (size_t i = 0; i < count; i += 64 / sizeof *begin) /* one cache line */
        __builtin_prefetch(begin + i, 0, 2);
}
