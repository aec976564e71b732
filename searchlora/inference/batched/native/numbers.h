/* The kind of number that a kernel computes with: compiled with -DBF16 bfloat16, without float. Sums are kept in float. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(BF16) && defined(__AVX512BF16__)
#define VECTORS /* the processor multiplies 32 pairs of bfloat16 at a time */
#include <immintrin.h>
#endif

enum {
    LANES = 16,      /* floats in a vector */
    SMALL = 1 << 12, /* numbers that one thread does as soon as several */
};

#ifdef BF16
typedef uint16_t value;
enum { PAIR = 2 }; /* products are of so many numbers at a time */

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
enum { PAIR = 1 };
static inline float from(value v) { return v; }
static inline value to(float f) { return f; }
#endif

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

/* Ask for `count` numbers that are read soon. */
static inline void fetch(const value *begin, size_t count) {
    for (size_t i = 0; i < count; i += 64 / sizeof *begin) /* a line of the processor's cache */
        __builtin_prefetch(begin + i, 0, 2);
}
