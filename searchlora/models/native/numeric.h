/* Element type of the kernels: bfloat16 with -DBF16, otherwise float. Sums are accumulated in float. */
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

/* Floats in one vector register. The compiler computes with vectors of this size on any processor. */
enum {
#if defined(__AVX512F__)
    VECTOR = 16,
#elif defined(__AVX__)
    VECTOR = 8,
#else
    VECTOR = 4,
#endif
};
typedef float vector __attribute__((vector_size(VECTOR * sizeof(float))));
typedef float quad __attribute__((vector_size(4 * sizeof(float))));

static inline void store_floats(float *x, vector v) { memcpy(x, &v, sizeof v); }

#ifdef BF16
typedef uint16_t vector_of_halves __attribute__((vector_size(VECTOR * sizeof(uint16_t))));
typedef uint32_t vector_of_words __attribute__((vector_size(VECTOR * sizeof(uint32_t))));

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
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
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
