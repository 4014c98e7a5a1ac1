/* Codes of 4 bits to numbers: what torch needs five passes and large temporaries for.
 *
 * Two codes lie in a byte, the first of them in the low four bits. Scales are bfloat16, one for each
 * group. The loops are plain: compilers vectorise them for every processor, and the speed is that of
 * the memory that is written to. */

#include <stdint.h>
#include <string.h>

/* Compiled once more for processors with AVX2, where it is three times as fast; the loader chooses,
 * and the bits are the same. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

static float of_bfloat16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* To the nearest, ties to even; numbers are finite. */
static uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void fedloom_int4_float32(const uint8_t *codes, const uint16_t *scales, float *out, int64_t groups,
                          int64_t group, const float *levels) {
    (void)levels;
    for (int64_t g = 0; g < groups; g++, codes += group / 2, out += group) {
        const float scale = of_bfloat16(scales[g]);
        for (int64_t i = 0; i < group / 2; i++) {
            out[2 * i] = (float)((int32_t)(codes[i] & 15) - 8) * scale;
            out[2 * i + 1] = (float)((int32_t)(codes[i] >> 4) - 8) * scale;
        }
    }
}

void fedloom_int4_bfloat16(const uint8_t *codes, const uint16_t *scales, uint16_t *out,
                           int64_t groups, int64_t group, const float *levels) {
    (void)levels;
    for (int64_t g = 0; g < groups; g++, codes += group / 2, out += group) {
        const float scale = of_bfloat16(scales[g]);
        for (int64_t i = 0; i < group / 2; i++) {
            out[2 * i] = to_bfloat16((float)((int32_t)(codes[i] & 15) - 8) * scale);
            out[2 * i + 1] = to_bfloat16((float)((int32_t)(codes[i] >> 4) - 8) * scale);
        }
    }
}

void fedloom_nf4_float32(const uint8_t *codes, const uint16_t *scales, float *out, int64_t groups,
                         int64_t group, const float *levels) {
    for (int64_t g = 0; g < groups; g++, codes += group / 2, out += group) {
        const float scale = of_bfloat16(scales[g]);
        for (int64_t i = 0; i < group / 2; i++) {
            out[2 * i] = levels[codes[i] & 15] * scale;
            out[2 * i + 1] = levels[codes[i] >> 4] * scale;
        }
    }
}

void fedloom_nf4_bfloat16(const uint8_t *codes, const uint16_t *scales, uint16_t *out,
                          int64_t groups, int64_t group, const float *levels) {
    for (int64_t g = 0; g < groups; g++, codes += group / 2, out += group) {
        const float scale = of_bfloat16(scales[g]);
        for (int64_t i = 0; i < group / 2; i++) {
            out[2 * i] = to_bfloat16(levels[codes[i] & 15] * scale);
            out[2 * i + 1] = to_bfloat16(levels[codes[i] >> 4] * scale);
        }
    }
}

/* Formats whose scales are of any type: they come as float, and so does what is added to a group's
 * numbers. Sums with -0 are what they were, bit for bit. */

void fedloom_wide4_float32(const uint8_t *codes, const float *scales, const float *least,
                           float *out, int64_t groups, int64_t group, int32_t zero) {
    for (int64_t g = 0; g < groups; g++, codes += group / 2, out += group) {
        const float scale = scales[g], low = least ? least[g] : -0.0f;
        for (int64_t i = 0; i < group / 2; i++) {
            out[2 * i] = (float)((int32_t)(codes[i] & 15) - zero) * scale + low;
            out[2 * i + 1] = (float)((int32_t)(codes[i] >> 4) - zero) * scale + low;
        }
    }
}

void fedloom_wide4_bfloat16(const uint8_t *codes, const float *scales, const float *least,
                            uint16_t *out, int64_t groups, int64_t group, int32_t zero) {
    for (int64_t g = 0; g < groups; g++, codes += group / 2, out += group) {
        const float scale = scales[g], low = least ? least[g] : -0.0f;
        for (int64_t i = 0; i < group / 2; i++) {
            out[2 * i] = to_bfloat16((float)((int32_t)(codes[i] & 15) - zero) * scale + low);
            out[2 * i + 1] = to_bfloat16((float)((int32_t)(codes[i] >> 4) - zero) * scale + low);
        }
    }
}

void fedloom_wide8_float32(const int8_t *codes, const float *scales, const float *least,
                           float *out, int64_t groups, int64_t group, int32_t zero) {
    (void)least, (void)zero;
    for (int64_t g = 0; g < groups; g++, codes += group, out += group)
        for (int64_t i = 0; i < group; i++) out[i] = (float)codes[i] * scales[g];
}

void fedloom_wide8_bfloat16(const int8_t *codes, const float *scales, const float *least,
                            uint16_t *out, int64_t groups, int64_t group, int32_t zero) {
    (void)least, (void)zero;
    for (int64_t g = 0; g < groups; g++, codes += group, out += group)
        for (int64_t i = 0; i < group; i++) out[i] = to_bfloat16((float)codes[i] * scales[g]);
}

/* int4 to int8 with one step a row, for products of integers. A row's step is its largest possible
 * magnitude / 127; codes are multiples of a group's share of it in 8 + 8 bits, which is no further
 * from the nearest than another 1/64 of a step. */
WIDE void fedloom_int4_int8(const uint8_t *codes, const uint16_t *scales, int8_t *out, float *steps,
                            int64_t rows, int64_t groups, int64_t group) {
    const int64_t half = groups * group / 2;
    for (int64_t r = 0; r < rows; r++, codes += half) {
        float most = 0;
        for (int64_t g = 0; g < groups; g++) {
            const float scale = of_bfloat16(scales[g]);
            const float size = scale < 0 ? -scale : scale;
            most = size > most ? size : most;
        }
        steps[r] = most * 8 / 127;
        const float inverse = steps[r] > 1e-35f ? 256 / steps[r] : 0;
        for (int64_t i = 0; i < half; i++) {
            out[2 * i] = (int8_t)(codes[i] & 15);
            out[2 * i + 1] = (int8_t)(codes[i] >> 4);
        }
        for (int64_t g = 0; g < groups; g++, scales++, out += group) {
            const float exact = of_bfloat16(*scales) * inverse;
            const int16_t share = (int16_t)(exact + (exact < 0 ? -0.5f : 0.5f));
            const int16_t shift = (int16_t)(128 - 8 * share);
            for (int64_t i = 0; i < group; i++) {
                out[i] = (int8_t)((int16_t)(out[i] * share + shift) >> 8);
            }
        }
    }
}
