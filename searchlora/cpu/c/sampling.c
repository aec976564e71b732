/* Sampling of the next token of each row, and the normalisation of log-probabilities.
 *
 * A row is read twice, in blocks that stay in the cache: for its maximum, and for the sums of its blocks. Only blocks in
 * which the token may lie are read once more. A row's result depends on that row only. */
#include "numeric.h"
#include <math.h>
#include <stdlib.h>

enum { BLOCK = 256 }; /* tokens */

/* Weights, as shares of the highest probability: the smallest that is drawn, and one that most likely tokens exceed. If
 * these are not enough, it is multiplied by STEP. */
static const float SMALLEST = 1e-30f, LIKELY = 1e-2f, STEP = 0.125f;

/* What is known of a row; the arrays have one number per block. */
struct row {
    const void *logits; /* elements, or floats if is_float */
    int is_float;
    int64_t vocabulary, blocks;
    float highest, inverse_temperature;
    float *block_max;   /* the highest logit, later the highest weight */
    double *block_sums; /* of the weights */
    double total;
};

/* Candidates in the order of their ids. */
struct candidates {
    int64_t count;
    int32_t *ids;
    float *weights;
};

/* The logits of a block as floats; returns their number. */
static inline int64_t load(const struct row *row, int64_t block, float *out) {
    int64_t begin = block * BLOCK, count = row->vocabulary - begin < BLOCK ? row->vocabulary - begin : BLOCK;
    if (row->is_float)
        memcpy(out, (const float *)row->logits + begin, count * sizeof *out);
    else
        for (int64_t i = 0; i < count; i++)
            out[i] = to_float(((const element *)row->logits)[begin + i]);
    return count;
}

/* The weights of a block, exp((logit - highest) / temperature); returns their number. */
static inline int64_t load_weights(const struct row *row, int64_t block, float *out) {
    int64_t count = load(row, block, out);
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = exp_nonpositive((out[i] - row->highest) * row->inverse_temperature);
    return count;
}

/* Maxima, sums and total of a row; 0 if it has NaN or infinity, or nothing else than minus infinity. */
static int summarise(struct row *row) {
    float values[BLOCK], highest = -INFINITY;
    int nan = 0;
    for (int64_t b = 0; b < row->blocks; b++) {
        int64_t count = load(row, b, values);
        float max = -INFINITY;
#pragma omp simd reduction(max : max) reduction(| : nan)
        for (int64_t i = 0; i < count; i++) {
            max = values[i] > max ? values[i] : max;
            nan |= values[i] != values[i];
        }
        row->block_max[b] = max;
        highest = max > highest ? max : highest;
    }
    if (nan || highest == INFINITY || highest == -INFINITY)
        return 0;
    row->highest = highest;
    row->total = 0;
    for (int64_t b = 0; b < row->blocks; b++) {
        int64_t count = load_weights(row, b, values);
        row->block_sums[b] = sum_of(values, count);
        row->total += row->block_sums[b];
        row->block_max[b] = exp_nonpositive((row->block_max[b] - highest) * row->inverse_temperature);
    }
    return 1;
}

/* The index at which the cumulated weights exceed a target; the last positive weight if rounding keeps them below. */
static int64_t invert(const float *weights, int64_t count, double target) {
    double sum = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < count; i++) {
        if (weights[i] > 0)
            last = i;
        sum += weights[i];
        if (sum > target)
            return i;
    }
    return last;
}

/* A token of the whole distribution, at the share u of its cumulated weights. */
static int64_t draw(const struct row *row, double u) {
    float weights[BLOCK];
    double target = u * row->total;
    int64_t block = 0, last = 0;
    for (; block < row->blocks; block++) {
        if (row->block_sums[block] > 0)
            last = block;
        if (row->block_sums[block] > target)
            break;
        target -= row->block_sums[block];
    }
    if (block == row->blocks) { /* rounding */
        block = last;
        target = INFINITY;
    }
    int64_t count = load_weights(row, block, weights);
    return block * BLOCK + invert(weights, count, target);
}

/* Collect the tokens whose weight is at least a threshold; returns the sum of their weights. */
static double collect(const struct row *row, float threshold, struct candidates *found) {
    float weights[BLOCK];
    double sum = 0;
    found->count = 0;
    for (int64_t b = 0; b < row->blocks; b++) {
        if (row->block_max[b] < threshold)
            continue;
        int64_t count = load_weights(row, b, weights);
        for (int64_t begin = 0; begin < count; begin += LANES) {
            int64_t end = begin + LANES < count ? begin + LANES : count;
            int any = 0;
#pragma omp simd reduction(| : any)
            for (int64_t i = begin; i < end; i++)
                any |= weights[i] >= threshold;
            if (!any) /* most often */
                continue;
            for (int64_t i = begin; i < end; i++)
                if (weights[i] >= threshold) {
                    found->ids[found->count] = (int32_t)(b * BLOCK + i);
                    found->weights[found->count++] = weights[i];
                    sum += weights[i];
                }
        }
    }
    return sum;
}

/* The number of weights that are at least a threshold, and their sum: by lanes, in the order of the weights. */
static inline int64_t at_least(const float *weights, int64_t count, float threshold, double *sum) {
    int32_t numbers[LANES] = {0};
    double sums[LANES] = {0};
    int64_t number = 0, i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            float weight = weights[i + lane];
            numbers[lane] += weight >= threshold;
            sums[lane] += weight >= threshold ? weight : 0.0f;
        }
    for (int lane = 0; i < count; i++, lane++) {
        numbers[lane] += weights[i] >= threshold;
        sums[lane] += weights[i] >= threshold ? weights[i] : 0.0f;
    }
    *sum = 0;
    for (int lane = 0; lane < LANES; lane++) {
        number += numbers[lane];
        *sum += sums[lane];
    }
    return number;
}

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The weight at which the largest weights reach a number or a sum, whichever comes first, and how many weights equal to
 * it are needed; 0 if all do not reach it. By binary search: the bits of positive floats are ordered as the floats. */
static float select_weight(const float *weights, int64_t count, int64_t number, double sum, int64_t *ties) {
    uint32_t low = 0, high = 0x3f800000; /* 1, the highest weight */
    double found;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        int64_t above = at_least(weights, count, from_bits(middle), &found);
        if (above >= number || found >= sum)
            low = middle;
        else
            high = middle - 1;
    }
    int64_t above = at_least(weights, count, from_bits(low + 1), &found);
    double by_sum = ceil((sum - found) / from_bits(low));
    *ties = by_sum < (double)(number - above) ? (int64_t)by_sum : number - above;
    if (*ties < 1)
        *ties = 1;
    return from_bits(low);
}

/* Keep the most likely candidates: the fewest that reach a number or a sum. */
static void keep_largest(struct candidates *found, int64_t number, double sum) {
    if (found->count == 0)
        return;
    int64_t ties, kept = 0;
    float last = select_weight(found->weights, found->count, number, sum, &ties);
    for (int64_t i = 0; i < found->count; i++)
        if (found->weights[i] > last || (found->weights[i] == last && ties-- > 0)) {
            found->ids[kept] = found->ids[i];
            found->weights[kept++] = found->weights[i];
        }
    found->count = kept;
}

/* A token of the filtered distribution. Only tokens above a threshold are candidates. With top-k it is the k-th largest
 * of the block maxima: k blocks hold a token that reaches it. Else, with top-p, the tokens below
 * (1 - top_p) / vocabulary have less than 1 - top_p together, so the others reach top_p without them. */
static int64_t draw_filtered(const struct row *row, double u, int64_t top_k, double top_p, double min_p,
                             struct candidates *found) {
    const float slack = 1 - 1e-6f; /* for rounding */
    float threshold = top_k && top_p < 1 ? SMALLEST : fmaxf((float)min_p * slack, SMALLEST);
    if (top_k && top_k <= row->blocks) {
        int64_t ties;
        float of_blocks = select_weight(row->block_max, row->blocks, top_k, INFINITY, &ties);
        threshold = fmaxf(threshold, of_blocks * slack);
    }
    double whole = row->total;
    if (!top_k && top_p < 1) {
        float lowest = fmaxf(threshold, (float)(whole * (1 - top_p) / row->vocabulary) * slack);
        for (threshold = LIKELY; threshold > lowest; threshold *= STEP) /* candidates are selected from, so few are best */
            if (collect(row, threshold, found) > top_p * whole * (1 + 1e-6))
                break;
        if (threshold <= lowest)
            collect(row, lowest, found);
    } else
        collect(row, threshold, found);
    if (top_k) {
        keep_largest(found, top_k, INFINITY);
        whole = 0;
        for (int64_t i = 0; i < found->count; i++)
            whole += found->weights[i];
    }
    if (top_p < 1)
        keep_largest(found, found->count, top_p * whole);
    double total = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < found->count; i++)
        if (found->weights[i] >= (float)min_p) {
            found->ids[kept] = found->ids[i];
            total += found->weights[kept++] = found->weights[i];
        }
    return found->ids[invert(found->weights, kept, u * total)];
}

/* Memory for a row and its candidates, which `free` releases as a whole; NULL if there is none. */
static void *allocate(struct row *row, struct candidates *found) {
    size_t blocks = (size_t)row->blocks, tokens = (size_t)row->vocabulary + 1;
    char *memory = malloc(blocks * (sizeof(double) + sizeof(float)) + tokens * 2 * sizeof(float));
    if (memory != NULL) {
        row->block_sums = (double *)memory;
        row->block_max = (float *)(row->block_sums + blocks);
        found->weights = row->block_max + blocks;
        found->ids = (int32_t *)(found->weights + tokens);
    }
    return memory;
}

/* The most likely tokens and their logits, best first; of equal ones those with the lower ids. As for top-k, only tokens
 * above the `most`-th largest of the block maxima are candidates. */
static void most_likely(const struct row *row, int64_t most, struct candidates *found, int64_t *ids, double *logits) {
    float values[BLOCK], threshold = 0;
    int64_t ties, block = -1, kept = 0;
    if (most <= row->blocks)
        threshold = select_weight(row->block_max, row->blocks, most, INFINITY, &ties) * (1 - 1e-6f);
    collect(row, threshold, found);
    for (int64_t i = 0; i < found->count; i++) {
        int64_t id = found->ids[i];
        if (id / BLOCK != block)
            load(row, block = id / BLOCK, values);
        double logit = values[id % BLOCK];
        if (kept == most && logit <= logits[most - 1])
            continue;
        int64_t at = kept < most ? kept++ : most - 1;
        for (; at > 0 && logits[at - 1] < logit; at--) {
            logits[at] = logits[at - 1];
            ids[at] = ids[at - 1];
        }
        logits[at] = logit;
        ids[at] = id;
    }
}

/* The logits of a row in a matrix with a row every `stride`. */
static const void *row_of(const void *logits, int is_float, int64_t index, int64_t stride) {
    return (const char *)logits + (size_t)(index * stride) * (is_float ? sizeof(float) : sizeof(element));
}

/* Draw a token for each of `count` rows of the logits; -1 for a row without a finite distribution.
 *
 * logits: floats if is_float, else elements; a row every `stride`. settings: inverse temperature, top-k (0: none), top-p
 * (1: none), min-p (0: none) and a number from 0 to 1 for each drawn row. Returns 1 if memory runs out. */
int sample(const void *logits, int is_float, const int64_t *rows, const double *settings, int64_t count,
           int64_t vocabulary, int64_t stride, int64_t *tokens) {
    int failed = 0;
#pragma omp parallel if (count > 1) reduction(| : failed)
    {
        struct row row = {.is_float = is_float, .vocabulary = vocabulary, .blocks = (vocabulary + BLOCK - 1) / BLOCK};
        struct candidates found = {0};
        void *memory = allocate(&row, &found);
        failed = memory == NULL;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++) {
            if (memory == NULL)
                continue;
            const double *set = settings + 5 * i;
            row.logits = row_of(logits, is_float, rows[i], stride);
            row.inverse_temperature = (float)set[0];
            if (!summarise(&row))
                tokens[i] = -1;
            else if (set[1] > 0 || set[2] < 1 || set[3] > 0)
                tokens[i] = draw_filtered(&row, set[4], (int64_t)set[1], set[2], set[3], &found);
            else
                tokens[i] = draw(&row, set[4]);
        }
        free(memory);
    }
    return failed;
}

/* Natural log-probabilities of a token of each of `count` rows of the logits and of the `most` (at most `vocabulary`)
 * most likely ones, best first; NaN, and ids of 0, for a row without a finite distribution. `logits` and `stride` as
 * above. chosen: (count,); ids and values: (count, most). Returns 1 if memory runs out. */
int log_probabilities(const void *logits, int is_float, const int64_t *tokens, int64_t count, int64_t most,
                      int64_t vocabulary, int64_t stride, double *chosen, int64_t *ids, double *values) {
    int failed = 0;
#pragma omp parallel if (count > 1) reduction(| : failed)
    {
        struct row row = {.is_float = is_float, .vocabulary = vocabulary, .blocks = (vocabulary + BLOCK - 1) / BLOCK};
        struct candidates found = {0};
        void *memory = allocate(&row, &found);
        failed = memory == NULL;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++) {
            if (memory == NULL)
                continue;
            row.logits = row_of(logits, is_float, i, stride);
            row.inverse_temperature = 1;
            double norm = summarise(&row) ? row.highest + log(row.total) : NAN;
            float block[BLOCK];
            load(&row, tokens[i] / BLOCK, block);
            chosen[i] = block[tokens[i] % BLOCK] - norm;
            memset(ids + i * most, 0, most * sizeof *ids);
            if (most && norm == norm)
                most_likely(&row, most, &found, ids + i * most, values + i * most);
            for (int64_t k = i * most; k < (i + 1) * most; k++)
                values[k] = norm == norm ? values[k] - norm : NAN;
        }
        free(memory);
    }
    return failed;
}
