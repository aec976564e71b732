/* The kind of number that a kernel computes with: compiled with -DBF16 bfloat16, without float. Sums are kept in float. */
#include <stdint.h>
#include <string.h>
#if defined(BF16) && defined(__AVX512BF16__)
#define VECTORS /* the processor multiplies 32 pairs of bfloat16 at a time */
#include <immintrin.h>
#endif

enum { LANES = 16 }; /* floats in a vector */

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
