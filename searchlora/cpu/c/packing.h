/* Packed weight layout: blocks of COLUMNS columns, each (size / PAIR, COLUMNS, PAIR), read sequentially. */
#include "numeric.h"
#if defined(BF16) && defined(__AMX_BF16__)
#define AMX /* the processor may have tile registers; `has_amx` checks it */
#endif

/* The same constants are in bindings.py. */
enum {
    COLUMNS = 16,  /* columns per block */
    ROW_TILE = 16, /* rows of x per product */
    DEPTH = 32,    /* elements of the inner dimension per tile product */
};
enum { PREFETCH_DISTANCE = 2048 }; /* elements between the weights in use and those prefetched */

#ifndef AVX512
/* Element `part` of each of VECTOR adjacent groups of PAIR elements, as floats. */
static inline vector load_packed(const element *w, int part) {
#ifdef BF16
    return load_part(w, part);
#else
    (void)part;
    return load_vector(w);
#endif
}
#else
/* `count` elements (1 or 2) of x, broadcast to all 16 lanes. */
static inline __m512bh broadcast_pair(const element *x, int count) {
    int32_t pair = 0;
    memcpy(&pair, x, count * sizeof *x);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* out = round(sums + addend) for COLUMNS elements; addend may be NULL, and may be out. */
static inline void store_block(element *out, __m512 sums, const element *addend) {
    if (addend != NULL) {
        __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)addend));
        sums = _mm512_add_ps(sums, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
    }
    _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh(sums));
}
#endif

/* out = round(sums + addend) for the first min(count, COLUMNS) elements; addend may be NULL, and may be out. */
static inline void store(element *out, const float *sums, int count, const element *addend) {
#ifdef AVX512
    if (count >= COLUMNS) {
        store_block(out, _mm512_loadu_ps(sums), addend);
        return;
    }
#endif
    for (int j = 0; j < (count < COLUMNS ? count : COLUMNS); j++)
        out[j] = from_float(addend != NULL ? to_float(addend[j]) + sums[j] : sums[j]);
}

#ifdef AMX
/* Operand of LDTILECFG. */
struct __attribute__((packed)) tile_config {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static inline void set_tile(struct tile_config *config, int tile, int rows, int row_bytes) {
    config->rows[tile] = rows;
    config->row_bytes[tile] = rows ? row_bytes : 0;
}
#endif
