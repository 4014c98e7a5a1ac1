/* Order statistics of each column: the same bits as the numpy code in order.py.
 *
 * A few columns at a time are copied to a tile that stays in a core's cache, as integers that are
 * ordered as the floats are. The value of a rank is found by counting what lies up to a cut, in all
 * of them at once: the cut is where a straight line between the ends has the rank, and every third
 * time the middle of what is left, so that 96 cuts are enough whatever the values.
 *
 * order_tile.h is compiled once for each width of vectors: compilers cut vectors that are wider than
 * the processor's to pieces.
 */

#include <stdint.h>
#include <string.h>

#define EVERYWHERE static inline __attribute__((always_inline))

/* Bits of floats as integers in the floats' order, and back. */
#define ORDERED(bits) ((bits) ^ (((bits) >> 31) & 0x7fffffff))
#define CHOSEN(mask, yes, no) (((mask) & (yes)) | (~(mask) & (no)))
#define LEAST(a, b) CHOSEN((a) < (b), (a), (b))
#define MOST(a, b) CHOSEN((a) > (b), (a), (b))

enum { MEDIAN, TRIMMED, AROUND };

#define WIDTH 4
#define NAME(name) name##_4
#include "order_tile.h"
#undef WIDTH
#undef NAME

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SEVERAL
#pragma GCC push_options
#pragma GCC target("avx2")
#define WIDTH 8
#define NAME(name) name##_8
#include "order_tile.h"
#undef WIDTH
#undef NAME
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl")
#define WIDTH 16
#define NAME(name) name##_16
#include "order_tile.h"
#undef WIDTH
#undef NAME
#pragma GCC pop_options
#endif

/* out[j] = the statistic of rows[chosen[0..n-1]][j] for each of the columns; n > 2 f.
 * scratch has room for n * 80 numbers and 64 bytes. */
void fedloom_by_column(const float *rows, const int64_t *chosen, int64_t n, int64_t stride,
                       int64_t columns, int32_t rule, int32_t f, void *scratch, float *out) {
  void *aligned = (void *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
#ifdef SEVERAL
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    by_column_16(rows, chosen, n, stride, columns, rule, f, aligned, out);
    return;
  }
  if (__builtin_cpu_supports("avx2")) {
    by_column_8(rows, chosen, n, stride, columns, rule, f, aligned, out);
    return;
  }
#endif
  by_column_4(rows, chosen, n, stride, columns, rule, f, aligned, out);
}
