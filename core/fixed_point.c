/* Sums in fixed point: the same bits as the numpy code in fixed_point.py, in one pass. */

#include <stdint.h>
#include <string.h>

/* The linker takes the fastest of these that the processor has. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FASTEST __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FASTEST
#endif
#define EVERYWHERE static inline __attribute__((always_inline))

enum { TILE = 2048 }; /* numbers that are looked at, then added: they and their sums stay in L1 */

#define SCALE 0x1p34
#define TOO_LARGE 0x4e000000u /* the bits of 2^29: times 2^34 it leaves int64 */

/* The largest bit pattern of a magnitude: ordered as the magnitudes are, infinity and NaN last. */
EVERYWHERE uint32_t largest(const float *restrict vector, int64_t n) {
  uint32_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t own;
    memcpy(&own, vector + i, sizeof own);
    own &= 0x7fffffffu;
    found = own > found ? own : found;
  }
  return found;
}

/* A whole number of magnitude at most 2^31, or what it rounds to, as an integer.
 * Beside 1.5 * 2^52 a double has no place for a fraction: the low bits are the number. Compilers
 * turn this into vectors on every processor, which they do not do with a conversion. */
EVERYWHERE uint64_t whole(double number) {
  double beside = number + 0x1.8p52;
  uint64_t bits;
  memcpy(&bits, &beside, sizeof bits);
  return bits - 0x4338000000000000u;
}

/* sums += rint(vector * 2^34) * weight modulo 2^64, of magnitudes below 2^29.
 * The number is cut into a multiple of 2^32 and the rest; both products are exact. */
EVERYWHERE void add(uint64_t *restrict sums, const float *restrict vector, int64_t n,
                    uint64_t weight) {
  for (int64_t i = 0; i < n; i++) {
    double number = (double)vector[i] * SCALE;
    double high = number * 0x1p-32 + 0x1.8p52;
    double low = number - (high - 0x1.8p52) * 0x1p32;
    sums[i] += ((whole(number * 0x1p-32) << 32) + whole(low)) * weight;
  }
}

FASTEST uint32_t fedloom_largest(const float *restrict vector, int64_t n) {
  return largest(vector, n);
}

/* Adds, and gives back the bits of the largest magnitude. Where that is 2^29 or more, infinite or
 * NaN, the sums are as they were. */
FASTEST uint32_t fedloom_fold(uint64_t *restrict sums, const float *restrict vector, int64_t n,
                              int64_t weight) {
  uint32_t found = 0;
  for (int64_t start = 0; start < n; start += TILE) {
    int64_t size = n - start < TILE ? n - start : TILE;
    uint32_t own = largest(vector + start, size);
    found = own > found ? own : found;
    if (own >= TOO_LARGE) {
      for (int64_t i = 0; i < start; i += TILE) add(sums + i, vector + i, TILE, -(uint64_t)weight);
      return largest(vector, n);
    }
    add(sums + start, vector + start, size, (uint64_t)weight);
  }
  return found;
}
