/* How weights lie, and what multiplies them. */
#include "numbers.h"
#if defined(BF16) && defined(__AMX_BF16__)
#define TILES /* there may be matrix registers (AMX) */
#endif

/* As in calls.py: */
enum {
    COLUMNS = 16,  /* of weights, side by side */
    TOGETHER = 16, /* rows that are computed together */
    DEPTH = 32,    /* numbers that are multiplied at once, where there are so many */
};
enum { AHEAD = 2048 }; /* numbers between the weights that are computed with and those that are asked for */

#ifdef VECTORS
/* `count` numbers (1 or 2), 16 times. */
static inline __m512bh pair_of(const value *x, int count) {
    int32_t pair = 0;
    memcpy(&pair, x, count * sizeof *x);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* out = numbers + more (none where NULL, and may be out), rounded; COLUMNS of them. */
static inline void put_all(value *out, __m512 numbers, const value *more) {
    if (more != NULL) {
        __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)more));
        numbers = _mm512_add_ps(numbers, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
    }
    _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh(numbers));
}
#endif

/* The same for the first `count` of them, all where there are more. */
static inline void put(value *out, const float *numbers, int count, const value *more) {
#ifdef VECTORS
    if (count >= COLUMNS) {
        put_all(out, _mm512_loadu_ps(numbers), more);
        return;
    }
#endif
    for (int j = 0; j < (count < COLUMNS ? count : COLUMNS); j++)
        out[j] = to(more != NULL ? from(more[j]) + numbers[j] : numbers[j]);
}

#ifdef TILES
struct __attribute__((packed)) shape {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16]; /* of each row of a register */
    uint8_t rows[16];
};

static inline void shape_tile(struct shape *shape, int tile, int rows, int bytes) {
    shape->rows[tile] = rows;
    shape->bytes[tile] = rows ? bytes : 0;
}
#endif
