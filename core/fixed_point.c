/* Sums in fixed point: the same bits as the numpy code in fixed_point.py, in one pass. */

#include <math.h>
#include <stdint.h>

/* The linker takes the fastest of these that the processor has. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FASTEST __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FASTEST
#endif

/* The largest bit pattern of a magnitude: ordered as the magnitudes are, infinity and NaN last. */
FASTEST uint32_t fedloom_largest(const uint32_t *restrict bits, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t own = bits[i] & 0x7fffffffu;
    largest = own > largest ? own : largest;
  }
  return largest;
}

/* sums += rint(vector * scale) * weight; the caller has seen to it that all of it fits. */
FASTEST void fedloom_fold(int64_t *restrict sums, const float *restrict vector, int64_t n,
                          float scale, int64_t weight) {
  if (weight == 1) {
    for (int64_t i = 0; i < n; i++) sums[i] += (int64_t)rintf(vector[i] * scale);
  } else {
    for (int64_t i = 0; i < n; i++) sums[i] += (int64_t)rintf(vector[i] * scale) * weight;
  }
}
